"""High-water marks of the vehicles' reports, so that a replayed report never counts as new.

A vehicle numbers its starts, so (start_number, seq) always increases, and the highest pair received is its mark. Marks are
kept per key: a vehicle that is enrolled again starts with a new mark, and reports signed by its former key stay below the
former mark. Agents of the first release do not number their starts; for those, every epoch that was received, or named as
the previous one, is remembered. Once a vehicle has numbered its starts, an unnumbered report is an old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from schemas.records import Telemetry

_ANY_KEY = ""
"""The key of marks from before marks were kept per key."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The highest report received of a vehicle, among those signed by key `key_id`."""

    vehicle_id: str
    key_id: str
    start_number: int
    seq: int
    epoch: str


@dataclass(frozen=True, slots=True)
class PastEpochs:
    """Past and present epochs of a vehicle; rows of the same vehicle and key accumulate."""

    vehicle_id: str
    key_id: str
    epochs: tuple[str, ...]


class Marks:
    """The high-water marks of a fleet."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], Mark] = {}
        self._past: dict[tuple[str, str], set[str]] = {}

    def __len__(self) -> int:
        return len(self._marks) + len(self._past)

    def raise_to(self, said: Telemetry, key_id: str) -> list[Mark | PastEpochs]:
        """Raise a vehicle's mark to a report and return the changed rows; none if the report is a repetition."""
        vehicle = said.vehicle_id
        mark = self._marks.get((vehicle, key_id)) or self._marks.get((vehicle, _ANY_KEY))
        if mark is not None and not self._is_above(said, mark, key_id):
            return []
        changed: list[Mark | PastEpochs] = [Mark(vehicle, key_id, said.start_number, said.seq, said.epoch)]
        if not said.start_number:
            known = self._past.get((vehicle, key_id), set())
            fresh = {said.epoch, said.previous_epoch} - known - {""}
            changed += [PastEpochs(vehicle, key_id, tuple(sorted(fresh)))] if fresh else []
        for row in changed:
            self.apply(row)
        return changed

    def apply(self, row: Mark | PastEpochs) -> None:
        """Apply a saved row; a later row takes precedence."""
        place = (row.vehicle_id, row.key_id)
        if isinstance(row, PastEpochs):
            self._past.setdefault(place, set()).update(row.epochs)
            return
        self._marks[place] = row
        if row.start_number:
            self._past.pop(place, None)  # superseded by the start number

    def rows(self) -> Iterator[Mark | PastEpochs]:
        """Yield all rows to save."""
        yield from self._marks.values()
        for (vehicle, key_id), epochs in self._past.items():
            yield PastEpochs(vehicle, key_id, tuple(sorted(epochs)))

    def _is_above(self, said: Telemetry, mark: Mark, key_id: str) -> bool:
        if said.start_number or mark.start_number:
            return (said.start_number, said.seq) > (mark.start_number, mark.seq)
        if said.epoch == mark.epoch:
            return said.seq > mark.seq
        places = ((said.vehicle_id, key_id), (said.vehicle_id, _ANY_KEY))
        return not any(said.epoch in self._past.get(place, ()) for place in places)

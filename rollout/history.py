"""Which vehicle ran which model when, as the vehicles themselves said it, signed; nothing is ever taken out.

Telemetry carries all events of a vehicle's slots since enrolment, so a lost record loses nothing and one read
twice adds nothing: an event is known by its content. Times of events are the vehicle's own clock (which may
be wrong); `heard_ns` beside it is the fleet's. Order within a vehicle is that of its journal, never that of a
clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from foundation.errors import CorruptError
from foundation.files import write_atomic
from schemas.records import ModelEvent

STARTS = frozenset({"installed", "activated"})
"""Events after which another model serves."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One event of one vehicle. `place` is the record that first said it: topic_id/partition/offset."""

    vehicle_id: str
    time_ns: int
    heard_ns: int
    event: str
    model_name: str
    model_digest: str
    release_id: str
    reason: str
    place: str

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it the same event when it is heard again."""
        return (self.vehicle_id, self.time_ns, self.event, self.model_digest, self.release_id, self.reason)


@dataclass(frozen=True, slots=True)
class ModelRun:
    """A vehicle served a model from `start_ns` until before `end_ns` (its own clock; None: still does)."""

    vehicle_id: str
    model_name: str
    model_digest: str
    release_id: str
    start_ns: int
    end_ns: int | None
    ended_by: str


class History:
    """The file `history.jsonl`: one row a line, in the order in which they were heard. Replaced whole,
    atomically.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[HistoryRow] = self._read()
        self._keys = {row.key for row in self.rows}
        self._is_changed = False

    def add(self, vehicle_id: str, events: Iterable[ModelEvent], heard_ns: int, place: str) -> int:
        """Take what is new. Returns how many events were."""
        count = 0
        for each in events:
            row = HistoryRow(
                vehicle_id=vehicle_id,
                time_ns=each.time_ns,
                heard_ns=heard_ns,
                event=each.event,
                model_name=each.model_name,
                model_digest=each.model_digest,
                release_id=each.release_id,
                reason=each.reason,
                place=place,
            )
            if row.key not in self._keys:
                self._keys.add(row.key)
                self.rows.append(row)
                count += 1
        self._is_changed |= count > 0
        return count

    def save(self) -> None:
        """Make what was added durable."""
        if self._is_changed:
            lines = [json.dumps(asdict(row), sort_keys=True) for row in self.rows]
            write_atomic(self._path, ("\n".join(lines) + "\n").encode())
            self._is_changed = False

    def runs(self) -> list[ModelRun]:
        """Intervals of service, by vehicle, in order."""
        found: list[ModelRun] = []
        for vehicle in sorted({row.vehicle_id for row in self.rows}):
            rows = [row for row in self.rows if row.vehicle_id == vehicle]
            starts = [index for index, row in enumerate(rows) if row.event in STARTS]
            for index, following in zip(starts, [*starts[1:], None], strict=True):
                row = rows[index]
                until = rows[index + 1 : following]
                ends = [each.event for each in until if each.event in ("rolled_back", "withdrawn")]
                found.append(
                    ModelRun(
                        vehicle_id=vehicle,
                        model_name=row.model_name,
                        model_digest=row.model_digest,
                        release_id=row.release_id,
                        start_ns=row.time_ns,
                        end_ns=None if following is None else rows[following].time_ns,
                        ended_by="" if following is None else (ends[-1] if ends else "replaced"),
                    )
                )
        return found

    def _read(self) -> list[HistoryRow]:
        if not self._path.exists():
            return []
        rows = []
        for number, line in enumerate(self._path.read_text("utf-8").splitlines(), 1):
            try:
                rows.append(HistoryRow(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise CorruptError(f"line {number} is no event: {error}", path=self._path) from error
        return rows

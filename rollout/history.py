"""The history of models per vehicle and role, from the vehicles' signed telemetry.

A vehicle tells an event until it was acknowledged, and again later, so a lost record loses nothing; a repeated event adds
nothing: events are identified by content. Each vehicle has a share of the file (`MAX_ROWS`, `MAX_NEW_ROWS`), so that none
floods it. Event times are those of the vehicle's clock,
which may be wrong; `heard_ns` is the fleet's clock. The order within a role of a vehicle is that of its journal, never
that of a clock.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from foundation.documents import DocumentType, UnreadableRow, plain
from foundation.errors import CorruptError, RetryLaterError
from foundation.row_file import RowFile
from foundation.short_text import shorten_middle
from schemas.records import ModelEvent
from schemas.roles import SERVING

MAX_ROWS = 4000
"""Newest events that are kept of a vehicle: decades of an honest one, which has some a week."""
MAX_NEW_ROWS = 400
"""Most events that are taken from a vehicle within `NEW_ROWS_S`; those of two roles of a vehicle that repeats its last 200."""
NEW_ROWS_S = 3600
REASON_CHARACTERS = 500
STARTS = frozenset({"installed", "activated"})
"""Events after which another model has the role."""
ENDS = frozenset({"rolled_back", "withdrawn"})
"""Events after which a model no longer has the role."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One event of a role of a vehicle. `place` is the record that first reported it: topic_id/partition/offset."""

    vehicle_id: str
    time_ns: int
    heard_ns: int
    event: str
    model_name: str
    model_digest: str
    release_id: str
    reason: str
    place: str
    role: str = SERVING

    @property
    def key(self) -> tuple[object, ...]:
        """The content that identifies the event when it is reported again."""
        what = (self.event, self.model_digest, self.release_id, self.reason)
        return (self.vehicle_id, self.role, self.time_ns, *what)


HISTORY_ROW: Final = DocumentType.first("event", HistoryRow)


@dataclass(frozen=True, slots=True)
class ModelRun:
    """An interval [start_ns, end_ns) of the vehicle's clock in which a model had a role; `end_ns` None: it still has."""

    vehicle_id: str
    model_name: str
    model_digest: str
    release_id: str
    start_ns: int
    end_ns: int | None
    ended_by: str
    role: str = SERVING


class History:
    """The file `history.jsonl`, with one row per event in order of reception.

    A line that cannot be read stays in the file and is listed in `unreadable`; other lines are unaffected.
    """

    def __init__(self, path: Path) -> None:
        self._file = RowFile(path, self._event, is_strict=False)
        self.rows: list[HistoryRow] = []
        self._keys: set[tuple[object, ...]] = set()
        self._unsaved: list[HistoryRow] = []
        self._counts: Counter[str] = Counter()
        self._newest: dict[str, deque[int]] = {}
        self.not_kept: Counter[str] = Counter()
        """Events that the share of a vehicle had no room for since this object was made, by reason."""
        self.catch_up()

    def catch_up(self) -> None:
        """Read the rows that another process appended."""
        is_anew, rows = self._file.news()
        if is_anew:
            self.rows, self._keys = [], set()
            self._counts.clear()
            self._newest.clear()
        for row in rows:
            self._take(row)

    @property
    def unreadable(self) -> Sequence[UnreadableRow]:
        """Lines that cannot be read, each with the reason."""
        return self._file.unreadable

    def add(
        self, vehicle_id: str, events: Iterable[ModelEvent], heard_ns: int, place: str, role: str = SERVING
    ) -> tuple[ModelEvent, ...]:
        """Add the events that are new, within the share of the vehicle, and return them."""
        added = []
        for each in events:
            row = HistoryRow(
                vehicle_id=vehicle_id,
                time_ns=each.time_ns,
                heard_ns=heard_ns,
                event=each.event,
                model_name=each.model_name,
                model_digest=each.model_digest,
                release_id=each.release_id,
                reason=shorten_middle(each.reason, REASON_CHARACTERS),
                place=place,
                role=role,
            )
            if row.key in self._keys:
                continue
            newest = self._newest.get(vehicle_id)
            if newest and len(newest) == MAX_NEW_ROWS and 0 <= heard_ns - newest[0] < NEW_ROWS_S * 10**9:
                self.not_kept["too_many_events"] += 1
                continue
            self._take(row)
            self._unsaved.append(row)
            added.append(each)
        return tuple(added)

    def save(self) -> None:
        """Make added events durable; the caller holds the lock.

        Raises:
            RetryLaterError: writing failed; the added events are dropped, because no file holds them.
        """
        unsaved, self._unsaved = self._unsaved, []
        try:
            self._file.append([plain(row) for row in unsaved])
        except RetryLaterError:
            self._keys -= {row.key for row in unsaved}
            self.rows = [row for row in self.rows if row.key in self._keys]
            self._count_again()
            raise
        if any(count > MAX_ROWS + MAX_NEW_ROWS for count in self._counts.values()) and not self.unreadable:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Keep the newest `MAX_ROWS` of each vehicle. Raises RetryLaterError; the file is as it was then."""
        left, kept = Counter(self._counts), []
        for row in self.rows:
            left[row.vehicle_id] -= 1
            if left[row.vehicle_id] < MAX_ROWS:
                kept.append(row)
        self._file.replace([plain(row) for row in kept])
        self.not_kept["events_forgotten"] += len(self.rows) - len(kept)
        self.rows, self._keys = kept, {row.key for row in kept}
        self._count_again()

    def _count_again(self) -> None:
        self._counts.clear()
        self._newest.clear()
        for row in self.rows:
            self._count(row)

    def _count(self, row: HistoryRow) -> None:
        self._counts[row.vehicle_id] += 1
        self._newest.setdefault(row.vehicle_id, deque(maxlen=MAX_NEW_ROWS)).append(row.heard_ns)

    def runs(self) -> list[ModelRun]:
        """Return the intervals in which models had a role, ordered by vehicle and role."""
        last: dict[tuple[str, str], ModelRun] = {}
        found: dict[tuple[str, str], list[ModelRun]] = {}
        ended_by: dict[tuple[str, str], HistoryRow] = {}
        for row in self.rows:
            place = (row.vehicle_id, row.role)
            if row.event in ENDS:
                ended_by[place] = row
            if row.event not in STARTS:
                continue
            if place in last:
                end = ended_by.pop(place, None)
                found[place].append(_ended(last[place], row.time_ns, end.event if end else "replaced"))
            ended_by.pop(place, None)
            last[place] = ModelRun(
                vehicle_id=row.vehicle_id,
                model_name=row.model_name,
                model_digest=row.model_digest,
                release_id=row.release_id,
                start_ns=row.time_ns,
                end_ns=None,
                ended_by="",
                role=row.role,
            )
            found.setdefault(place, [])
        for place, run in last.items():
            end = ended_by.get(place) if place[1] != SERVING else None  # a role may be left without a model
            found[place].append(_ended(run, end.time_ns, end.event) if end else run)
        return [run for place in sorted(found) for run in found[place]]

    def _take(self, row: HistoryRow) -> bool:
        if row.key in self._keys:
            return False
        self._keys.add(row.key)
        self.rows.append(row)
        self._count(row)
        return True

    def _event(self, row: object, name: str) -> HistoryRow:
        return HISTORY_ROW.of(row, family=lambda told: CorruptError(f"{name}: {told}", path=self._file.path))


def _ended(run: ModelRun, end_ns: int, word: str) -> ModelRun:
    return replace(run, end_ns=end_ns, ended_by=word)

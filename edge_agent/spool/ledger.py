"""The writer's account of every sequence number: accepted, refused, removed, and the segments of the rest.

A pure state that frames of `ledger.journal` are applied to, by the writer that writes them and by anyone
who reads them. It does no I/O. It counts a record as accepted only in a commit frame, which is written
after the fsync, and takes a segment out of the account only with a removal frame that says what became of
each of its records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from edge_agent.spool.delivery import DeliveryState
from edge_agent.spool.ranges import RangeSet
from edge_agent.spool.steps import Carried
from foundation.errors import CorruptError
from schemas.reasons import EvictReason, NotAcceptedReason, ValueClass

FORMAT = 1
MAX_DETAIL_RANGES = 50_000
"""Beyond so many ranges, the account of the oldest numbers is kept as counts only."""
MAX_EPOCHS = 1_000
"""Beyond so many epochs, the oldest are added up in one row."""
_RELEASED_REASONS = frozenset(str(reason) for reason in NotAcceptedReason) - {str(NotAcceptedReason.CRASHED)}
"""What the first released agents know. Any other reason is in a key that those ignore."""


class LedgerKind(IntEnum):
    """The kinds of frame in `ledger.journal`."""

    SNAPSHOT = 1
    EPOCH = 2
    COMMIT = 3
    COUNTS = 4
    EVICTING = 5
    REMOVED = 6


@dataclass(slots=True)
class Totals:
    """Counts of numbers whose ranges are no longer kept."""

    accepted: int = 0
    delivered: int = 0
    in_doubt: int = 0
    evicted: dict[str, int] = field(default_factory=dict)

    def add(self, other: Totals) -> None:
        """Add the counts of `other`."""
        self.accepted += other.accepted
        self.delivered += other.delivered
        self.in_doubt += other.in_doubt
        for reason, count in other.evicted.items():
            self.evicted[reason] = self.evicted.get(reason, 0) + count

    def to_json(self) -> list[object]:
        """Return the four counts, for a snapshot."""
        return [self.accepted, self.delivered, self.in_doubt, self.evicted]


@dataclass(slots=True)
class EpochRow:
    """One epoch. The sets hold numbers of removed segments only; segments account for their own."""

    epoch: str
    previous_epoch: str = ""
    started_ns: int = 0
    next_seq: int = 0
    accepted: int = 0
    gaps: RangeSet = field(default_factory=RangeSet)
    delivered: RangeSet = field(default_factory=RangeSet)
    in_doubt: RangeSet = field(default_factory=RangeSet)
    evicted: dict[str, RangeSet] = field(default_factory=dict)
    detail_from: int = 0
    closed: Totals = field(default_factory=Totals)

    @property
    def range_count(self) -> int:
        """Return the number of ranges of this row."""
        return sum(
            gone.range_count for gone in (self.gaps, self.delivered, self.in_doubt, *self.evicted.values())
        )

    def collapse(self, below: int) -> None:
        """Keep only counts for numbers in [detail_from, below), all of which must have left the segments."""
        head = RangeSet([(self.detail_from, below)])

        def cut(numbers: RangeSet) -> tuple[int, RangeSet]:
            gone = numbers.intersection(head)
            return len(gone), numbers.difference(gone)

        _, self.gaps = cut(self.gaps)
        part = Totals()
        part.delivered, self.delivered = cut(self.delivered)
        part.in_doubt, self.in_doubt = cut(self.in_doubt)
        for reason in list(self.evicted):
            part.evicted[reason], self.evicted[reason] = cut(self.evicted[reason])
        part.accepted = part.delivered + part.in_doubt + sum(part.evicted.values())
        self.closed.add(part)
        self.detail_from = max(self.detail_from, below)


@dataclass(slots=True)
class LiveSegment:
    """A segment that is on disk: `seqs` are accepted, in frames that end at or before `end_bytes`."""

    number: int
    value_class: ValueClass
    epoch: str
    end_bytes: int = 0
    seqs: RangeSet = field(default_factory=RangeSet)
    evicting: str = ""

    def to_json(self) -> list[object]:
        """Return plain values, for a snapshot."""
        return [
            self.number,
            int(self.value_class),
            self.epoch,
            self.end_bytes,
            self.seqs.to_json(),
            self.evicting,
        ]


class LedgerState:
    """The state that `ledger.journal` describes, with the carried state of the writer's caller."""

    def __init__(self, carried: Carried | None = None) -> None:
        self.carried = carried
        self.epochs: dict[str, EpochRow] = {}
        self.segments: dict[int, LiveSegment] = {}
        self.older = Totals()
        self.not_accepted: dict[str, int] = {}
        self.not_accepted_bytes = 0
        self.never_written = 0
        """Numbers that were assigned and never accepted (a failed write, a kill during a commit), since the spool was
        made; not in `not_accepted`."""
        self.accepted_bytes = 0
        self.next_segment = 1
        self.removals = 0
        self.unadopted: set[int] = set()
        """Segments that recovery could not read to their end: never removed, read again at the next start."""
        self.removed: set[int] = set()
        """Segments removed since the last snapshot."""
        self.snapshot_segment = 1
        """Segments below this number and not in `segments` were removed before the last snapshot."""

    @property
    def last_epoch(self) -> str:
        """The newest epoch, or an empty string."""
        return next(reversed(self.epochs), "")

    def apply(self, kind: int, value: object) -> None:
        """Apply one frame. Raises CorruptError for a frame that no writer of FleetLoop wrote."""
        if not isinstance(value, dict):
            raise CorruptError(f"ledger frame of kind {kind} is not an object")
        step = self._steps().get(kind)
        if step is None:
            raise CorruptError(f"ledger frame of unknown kind {kind}")
        try:
            step(value)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CorruptError(f"ledger frame of kind {kind} is malformed: {error!r}") from error

    def _steps(self) -> Mapping[int, Callable[[dict[str, Any]], None]]:
        return {
            LedgerKind.SNAPSHOT: self._restore,
            LedgerKind.EPOCH: self._epoch,
            LedgerKind.COMMIT: self._commit,
            LedgerKind.COUNTS: self._counts,
            LedgerKind.EVICTING: self._evicting,
            LedgerKind.REMOVED: self._removed,
        }

    def _epoch(self, value: dict[str, Any]) -> None:
        epoch = str(value["epoch"])
        if epoch not in self.epochs:
            self.epochs[epoch] = EpochRow(epoch, str(value["previous"]), int(value["started_ns"]))

    def _commit(self, value: dict[str, Any]) -> None:
        row = self.epochs.setdefault(str(value["epoch"]), EpochRow(str(value["epoch"])))
        for number, value_class, end_bytes, ranges in value["segments"]:
            segment = self.segments.get(number)
            if segment is None:
                segment = LiveSegment(int(number), ValueClass(value_class), row.epoch)
                self.segments[segment.number] = segment
            added = RangeSet.from_json(ranges).difference(segment.seqs)
            segment.seqs.update(added)
            segment.end_bytes = max(segment.end_bytes, int(end_bytes))
            row.accepted += len(added)
            row.next_seq = max(row.next_seq, added.end)
            self.next_segment = max(self.next_segment, segment.number + 1)
        gaps = RangeSet.from_json(value["gaps"])
        self.never_written += len(gaps.difference(row.gaps))
        row.gaps.update(gaps)
        delivered = RangeSet.from_json(value.get("delivered", []))
        row.delivered.update(delivered)
        row.accepted += len(delivered)
        lost = RangeSet.from_json(value.get("lost", []))
        if lost:
            row.evicted.setdefault(str(EvictReason.DAMAGED), RangeSet()).update(lost)
            row.accepted += len(lost)
        row.next_seq = max(row.next_seq, gaps.end, lost.end, delivered.end)
        self.accepted_bytes += int(value["bytes"])
        if "counts" in value:
            self._counts(value["counts"])
        if self.carried is not None:
            for is_accepted, state in value.get("steps", ()):
                self.carried.apply(state, is_accepted=bool(is_accepted))

    def _counts(self, value: dict[str, Any]) -> None:
        known = {
            str(NotAcceptedReason(reason)): int(count) for reason, count in value["not_accepted"].items()
        }
        # A later agent may have counted for a reason that this one does not know: it stays counted.
        later = {str(reason): int(count) for reason, count in value.get("later", {}).items()}
        self.not_accepted = {**known, **later}
        self.not_accepted_bytes = int(value["bytes"])

    def _evicting(self, value: dict[str, Any]) -> None:
        segment = self.segments.get(value["segment"])
        if segment is not None:
            segment.evicting = str(EvictReason(value["reason"]))

    def _removed(self, value: dict[str, Any]) -> None:
        segment = self.segments.pop(value["segment"], None)
        self.removals += 1
        self.removed.add(int(value["segment"]))
        self.next_segment = max(self.next_segment, int(value["segment"]) + 1)
        if segment is None:
            return
        row = self.epochs.setdefault(segment.epoch, EpochRow(segment.epoch))
        row.delivered.update(RangeSet.from_json(value["delivered"]))
        row.in_doubt.update(RangeSet.from_json(value["in_doubt"]))
        for reason, ranges in value["evicted"].items():
            row.evicted.setdefault(str(EvictReason(reason)), RangeSet()).update(RangeSet.from_json(ranges))

    def removal(
        self, segment: LiveSegment, delivery: DeliveryState, reason: EvictReason
    ) -> dict[str, object]:
        """Return the removal frame of `segment`: acknowledged, given up, possibly sent (in doubt), and never sent."""
        outcome = delivery.outcome(segment.epoch, segment.seqs)
        evicted = {name: gone.copy() for name, gone in outcome.given_up.items()}
        never_sent = outcome.pending.difference(outcome.leased)
        if never_sent:
            evicted.setdefault(str(reason), RangeSet()).update(never_sent)
        return {
            "segment": segment.number,
            "delivered": outcome.delivered.to_json(),
            "in_doubt": outcome.leased.to_json(),
            "evicted": {name: gone.to_json() for name, gone in evicted.items()},
        }

    def was_removed(self, number: int) -> bool:
        """Return whether the removal of a segment of this number is recorded."""
        if number in self.segments or number in self.unadopted:
            return False
        return number in self.removed or number < self.snapshot_segment

    def known_seqs(self, epoch: str) -> RangeSet:
        """Return every number of `epoch` that the account covers."""
        row = self.epochs.get(epoch)
        known = self.live_seqs(epoch)
        if row is not None:
            known.add(0, row.detail_from)
            for part in (row.gaps, row.delivered, row.in_doubt, *row.evicted.values()):
                known.update(part)
        return known

    def live_seqs(self, epoch: str) -> RangeSet:
        """Return every accepted number of `epoch` that is in a segment on disk."""
        live = RangeSet()
        for segment in self.segments.values():
            if segment.epoch == epoch:
                live.update(segment.seqs)
        return live

    def shrink(self, max_ranges: int = MAX_DETAIL_RANGES, max_epochs: int = MAX_EPOCHS) -> None:
        """Keep the account bounded: counts instead of ranges for the oldest numbers, one row for the oldest epochs."""
        excess = sum(row.range_count for row in self.epochs.values()) - max_ranges
        for row in list(self.epochs.values()):
            if excess <= 0:
                break
            live = self.live_seqs(row.epoch)
            before = row.range_count
            row.collapse(live.first if live else row.next_seq)
            excess -= before - row.range_count
        live_epochs = {segment.epoch for segment in self.segments.values()}
        for epoch in list(self.epochs)[: max(0, len(self.epochs) - max_epochs)]:
            if epoch not in live_epochs:
                row = self.epochs.pop(epoch)
                row.collapse(row.next_seq)
                self.older.add(row.closed)

    def snapshot(self, *, is_short: bool = False) -> dict[str, object]:
        """Return the whole state as the object of a snapshot frame; `is_short`: with the shortest carried state."""
        whole = None if self.carried is None else self.carried.snapshot(is_short=is_short)
        return {
            **({} if whole is None else {"state": whole}),
            "format": FORMAT,
            "next_segment": self.next_segment,
            "removals": self.removals,
            "unadopted": sorted(self.unadopted),
            "accepted_bytes": self.accepted_bytes,
            "counts": refused_to_json(self.not_accepted, self.not_accepted_bytes),
            "never_written": self.never_written,
            "older": self.older.to_json(),
            "epochs": [
                [
                    *(row.epoch, row.previous_epoch, row.started_ns, row.next_seq, row.accepted),
                    *(row.gaps.to_json(), row.delivered.to_json(), row.in_doubt.to_json()),
                    {reason: gone.to_json() for reason, gone in row.evicted.items()},
                    *(row.detail_from, row.closed.to_json()),
                ]
                for row in self.epochs.values()
            ],
            "segments": [segment.to_json() for segment in self.segments.values()],
        }

    def _restore(self, value: dict[str, Any]) -> None:
        if value["format"] != FORMAT:
            raise CorruptError(f"ledger.journal has format {value['format']!r}; this version reads {FORMAT}")
        self.next_segment = self.snapshot_segment = int(value["next_segment"])
        self.removed = set()
        self.removals = int(value["removals"])
        self.unadopted = set(value["unadopted"])
        self.accepted_bytes = int(value["accepted_bytes"])
        self._counts(value["counts"])
        self.never_written = int(value.get("never_written", 0))
        self.older = Totals(*value["older"])
        if self.carried is not None and "state" in value:
            self.carried.restore(value["state"])
        self.epochs = {}
        for (
            epoch,
            previous,
            started,
            next_seq,
            accepted,
            gaps,
            delivered,
            doubt,
            evicted,
            start,
            closed,
        ) in value["epochs"]:
            self.epochs[epoch] = EpochRow(
                *(epoch, previous, started, next_seq, accepted),
                *(RangeSet.from_json(gaps), RangeSet.from_json(delivered), RangeSet.from_json(doubt)),
                {reason: RangeSet.from_json(ranges) for reason, ranges in evicted.items()},
                *(start, Totals(*closed)),
            )
        self.segments = {
            number: LiveSegment(number, ValueClass(rank), epoch, end, RangeSet.from_json(seqs), evicting)
            for number, rank, epoch, end, seqs, evicting in value["segments"]
        }


def refused_to_json(counts: Mapping[str, int], size_bytes: int) -> dict[str, object]:
    """Return the counts of refused frames by reason, and their bytes, as the object in frames of the ledger."""
    found: dict[str, object] = {
        "not_accepted": {reason: count for reason, count in counts.items() if reason in _RELEASED_REASONS},
        "bytes": size_bytes,
    }
    later = {reason: count for reason, count in counts.items() if reason not in _RELEASED_REASONS}
    return {**found, "later": later} if later else found

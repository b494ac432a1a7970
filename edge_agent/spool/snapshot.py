"""Read the ledger at one instant: accepted = delivered + pending + evicted + in doubt, exactly, for any process.

Four of the five are found in different places (commits, acknowledgements, segments, removals), so that the
balance is a check and not a definition. Refuses to write anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.spool.delivery import DeliveryState
from edge_agent.spool.ledger import EpochRow, LedgerState, Totals
from edge_agent.spool.ranges import RangeSet
from edge_agent.spool.segment import FOLDER, list_segments
from edge_agent.spool.statelog import Follower
from foundation.errors import RetryLaterError
from schemas.reasons import NotAcceptedReason
from schemas.records import LedgerCounts

LEDGER_FILE = "ledger.journal"
DELIVERY_FILE = "delivery.journal"
_TRIES = 50


@dataclass(frozen=True, slots=True)
class EpochLedger:
    """One epoch at one instant. Numbers below `detail_from` are known as counts only (`closed`)."""

    epoch: str
    previous_epoch: str
    started_ns: int
    next_seq: int
    accepted: int
    detail_from: int
    closed: Totals
    delivered: RangeSet
    pending: RangeSet
    in_doubt: RangeSet
    evicted: Mapping[str, RangeSet]
    never_accepted: RangeSet

    def counts(self) -> LedgerCounts:
        """Return this epoch's balance."""
        evicted = dict(self.closed.evicted)
        for reason, gone in self.evicted.items():
            evicted[reason] = evicted.get(reason, 0) + len(gone)
        return LedgerCounts(
            accepted=self.accepted,
            delivered=self.closed.delivered + len(self.delivered),
            pending=len(self.pending),
            in_doubt=self.closed.in_doubt + len(self.in_doubt),
            evicted={reason: count for reason, count in sorted(evicted.items()) if count},
        )

    def interval(self, begin: int, end: int) -> LedgerCounts:
        """Return the balance of the numbers in [begin, end), where begin >= detail_from."""
        span = RangeSet([(max(begin, self.detail_from), min(end, self.next_seq))])
        evicted = {reason: len(gone.intersection(span)) for reason, gone in self.evicted.items()}
        return LedgerCounts(
            accepted=len(span.difference(self.never_accepted)),
            delivered=len(self.delivered.intersection(span)),
            pending=len(self.pending.intersection(span)),
            in_doubt=len(self.in_doubt.intersection(span)),
            evicted={reason: count for reason, count in sorted(evicted.items()) if count},
        )

    def to_json(self) -> dict[str, object]:
        """Return the counts, and the outcome of every number that is not delivered as [begin, end) ranges."""
        counts = self.counts()
        return {
            "epoch": self.epoch,
            "previous_epoch": self.previous_epoch,
            "started_ns": self.started_ns,
            "next_seq": self.next_seq,
            "detail_from": self.detail_from,
            "accepted": counts.accepted,
            "delivered": counts.delivered,
            "pending": counts.pending,
            "in_doubt": counts.in_doubt,
            "evicted": dict(counts.evicted),
            "ranges": {
                "delivered": self.delivered.to_json(),
                "pending": self.pending.to_json(),
                "in_doubt": self.in_doubt.to_json(),
                "evicted": {reason: gone.to_json() for reason, gone in sorted(self.evicted.items())},
                "never_accepted": self.never_accepted.to_json(),
            },
        }


@dataclass(frozen=True, slots=True)
class Ledger:
    """The whole account at one instant."""

    counts: LedgerCounts
    epochs: tuple[EpochLedger, ...]
    older: Totals
    not_accepted_bytes: int
    bytes_captured: int
    bytes_uploaded: int
    resent: int
    segments: int
    segment_bytes: int
    problems: tuple[str, ...]

    def balances(self) -> bool:
        """Return whether every accepted record is accounted for, in total and in every epoch, and no segment is missing."""
        return (
            not self.problems
            and self.counts.balances()
            and all(row.counts().balances() for row in self.epochs)
        )

    def to_json(self) -> dict[str, object]:
        """Return one JSON document: the ledger export."""
        counts = self.counts
        return {
            "accepted": counts.accepted,
            "delivered": counts.delivered,
            "pending": counts.pending,
            "in_doubt": counts.in_doubt,
            "evicted": dict(counts.evicted),
            "not_accepted": dict(counts.not_accepted),
            "balances": self.balances(),
            "problems": list(self.problems),
            "bytes": {
                "captured": self.bytes_captured,
                "uploaded": self.bytes_uploaded,
                "spooled": self.segment_bytes,
            },
            "resent": self.resent,
            "segments": self.segments,
            "epochs": [row.to_json() for row in self.epochs],
        }


def read_ledger(folder: Path) -> Ledger:
    """Return the ledger of the spool in `folder`, read from its files while others may be writing them.

    A spool that was never opened has an empty ledger.

    Raises:
        CorruptError: a journal cannot be read.
        RetryLaterError: segments were removed faster than they could be read.
    """
    ledger = Follower(folder / LEDGER_FILE, LedgerState)
    delivery = Follower(folder / DELIVERY_FILE, DeliveryState)
    try:
        ledger.poll()
        for _ in range(_TRIES):
            before = _removals(ledger)
            account, delivered, files = _copy(ledger), _delivery(delivery), _sizes(folder)
            ledger.poll()
            if _removals(ledger) == before:  # nothing left the account while the other files were read
                return compute_ledger(account, delivered, files)
    finally:
        ledger.close()
        delivery.close()
    raise RetryLaterError(f"the spool {folder} changed {_TRIES} times while its ledger was read")


def compute_ledger(
    account: LedgerState, delivery: DeliveryState, sizes: Mapping[int, int] | None = None
) -> Ledger:
    """Compute the ledger of an account and the deliveries; `sizes` are the bytes of the segments that exist."""
    rows = tuple(_row(row, account, delivery) for row in account.epochs.values())
    evicted: dict[str, int] = dict(account.older.evicted)
    for row in rows:
        for reason, count in row.counts().evicted.items():
            evicted[reason] = evicted.get(reason, 0) + count
    parts = [row.counts() for row in rows]
    counts = LedgerCounts(
        accepted=account.older.accepted + sum(part.accepted for part in parts),
        delivered=account.older.delivered + sum(part.delivered for part in parts),
        pending=sum(part.pending for part in parts),
        in_doubt=account.older.in_doubt + sum(part.in_doubt for part in parts),
        evicted=dict(sorted(evicted.items())),
        not_accepted=_not_accepted(account),
    )
    problems = []
    if sizes is not None:
        for segment in account.segments.values():
            if sizes.get(segment.number, -1) < segment.end_bytes and not segment.evicting:
                left = delivery.outcome(segment.epoch, segment.seqs).pending
                if left:
                    problems.append(
                        f"segment {segment.number} is cut short or missing: {len(left)} records are not there"
                    )
    return Ledger(
        counts=counts,
        epochs=rows,
        older=account.older,
        not_accepted_bytes=account.not_accepted_bytes,
        bytes_captured=account.accepted_bytes,
        bytes_uploaded=delivery.bytes_delivered,
        resent=delivery.resent,
        segments=len(account.segments),
        segment_bytes=sum(sizes.values())
        if sizes is not None
        else sum(s.end_bytes for s in account.segments.values()),
        problems=tuple(problems),
    )


def _row(row: EpochRow, account: LedgerState, delivery: DeliveryState) -> EpochLedger:
    delivered, pending = row.delivered.copy(), RangeSet()
    evicted = {reason: gone.copy() for reason, gone in row.evicted.items()}
    for segment in account.segments.values():
        if segment.epoch != row.epoch:
            continue
        outcome = delivery.outcome(segment.epoch, segment.seqs)
        delivered.update(outcome.delivered)
        pending.update(outcome.pending)
        for reason, gone in outcome.given_up.items():
            evicted.setdefault(reason, RangeSet()).update(gone)
    return EpochLedger(
        epoch=row.epoch,
        previous_epoch=row.previous_epoch,
        started_ns=row.started_ns,
        next_seq=row.next_seq,
        accepted=row.accepted,
        detail_from=row.detail_from,
        closed=row.closed,
        delivered=delivered,
        pending=pending,
        in_doubt=row.in_doubt.copy(),
        evicted=evicted,
        never_accepted=row.gaps.copy(),
    )


def _not_accepted(account: LedgerState) -> dict[str, int]:
    """Count frames that the vehicle refused, and those whose record the disk refused: neither was accepted."""
    counts = dict(account.not_accepted)
    if account.never_written:
        reason = str(NotAcceptedReason.DISK_ERROR)
        counts[reason] = counts.get(reason, 0) + account.never_written
    return {reason: count for reason, count in sorted(counts.items()) if count}


def _removals(follower: Follower[LedgerState]) -> int:
    return follower.state.removals


def _copy(follower: Follower[LedgerState]) -> LedgerState:
    """Return a copy of the account, independent of later polls."""
    made = LedgerState()
    made.apply(1, _plain(follower.state.snapshot()))
    return made


def _delivery(follower: Follower[DeliveryState]) -> DeliveryState:
    follower.poll()
    return follower.state


def _sizes(folder: Path) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for number, (_, path) in list_segments(folder / FOLDER).items():
        try:
            sizes[number] = path.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def _plain(value: object) -> object:
    plain: object = json.loads(json.dumps(value))
    return plain

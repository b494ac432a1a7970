"""The deliver process's state of the spool: records that may have been sent, were acknowledged, or given up.

A pure state that frames of `delivery.journal` are applied to, by the reader that writes them and by anyone
who reads them. It does no I/O. It never forgets an acknowledgement whose segment is still there, and never
takes one back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from edge_agent.spool.ranges import RangeSet
from foundation.errors import CorruptError
from schemas.reasons import EvictReason

FORMAT = 1


class DeliveryKind(IntEnum):
    """The kinds of frame in `delivery.journal`."""

    SNAPSHOT = 1
    LEASE = 2
    ACKNOWLEDGED = 3
    GIVEN_UP = 4


@dataclass(slots=True)
class EpochDelivery:
    """One epoch's numbers: leased (may be in the broker's log), acknowledged, given up by reason."""

    leased: RangeSet = field(default_factory=RangeSet)
    acknowledged: RangeSet = field(default_factory=RangeSet)
    given_up: dict[str, RangeSet] = field(default_factory=dict)

    def is_settled(self, seq: int) -> bool:
        """Return whether nothing more will be done about `seq`."""
        return seq in self.acknowledged or any(seq in gone for gone in self.given_up.values())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the records of one segment: disjoint sets that together are the segment."""

    delivered: RangeSet
    given_up: Mapping[str, RangeSet]
    pending: RangeSet
    leased: RangeSet
    """The part of `pending` that may have been sent."""


class DeliveryState:
    """The state that `delivery.journal` describes."""

    def __init__(self) -> None:
        self.epochs: dict[str, EpochDelivery] = {}
        self.bytes_delivered = 0
        self.resent = 0

    def apply(self, kind: int, value: object) -> None:
        """Apply one frame. Raises CorruptError for a frame that no reader of FleetLoop wrote."""
        try:
            self._apply(kind, value)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CorruptError(f"delivery frame of kind {kind} is malformed: {error!r}") from error

    def _apply(self, kind: int, value: object) -> None:
        if not isinstance(value, dict):
            raise CorruptError(f"delivery frame of kind {kind} is not an object")
        if kind == DeliveryKind.SNAPSHOT:
            self._restore(value)
            return
        if kind == DeliveryKind.ACKNOWLEDGED:
            self.bytes_delivered = int(value["bytes"])
        elif kind == DeliveryKind.LEASE:
            self.resent = int(value["resent"])
        for epoch, ranges in value["seqs"].items():
            row = self.epochs.setdefault(epoch, EpochDelivery())
            seqs = RangeSet.from_json(ranges)
            if kind == DeliveryKind.LEASE:
                row.leased.update(seqs)
            elif kind == DeliveryKind.ACKNOWLEDGED:
                row.acknowledged.update(seqs)
            elif kind == DeliveryKind.GIVEN_UP:
                row.given_up.setdefault(str(EvictReason(value["reason"])), RangeSet()).update(seqs)
            else:
                raise CorruptError(f"delivery frame of unknown kind {kind}")

    def outcome(self, epoch: str, seqs: RangeSet) -> Outcome:
        """Return the outcome of the records `seqs` of one segment. An acknowledgement outranks having been given up."""
        row = self.epochs.get(epoch)
        if row is None:
            return Outcome(RangeSet(), {}, seqs.copy(), RangeSet())
        delivered = seqs.intersection(row.acknowledged)
        rest = seqs.difference(delivered)
        given_up: dict[str, RangeSet] = {}
        for reason, gone in sorted(row.given_up.items()):
            here = rest.intersection(gone)
            if here:
                given_up[reason] = here
                rest = rest.difference(here)
        return Outcome(delivered, given_up, rest, rest.intersection(row.leased))

    def prune(self, live: Mapping[str, RangeSet]) -> None:
        """Forget all numbers that are in no segment any more: the ledger has recorded them for good."""
        for epoch, row in list(self.epochs.items()):
            seqs = live.get(epoch)
            if seqs is None:
                del self.epochs[epoch]
                continue
            row.leased = row.leased.intersection(seqs).difference(row.acknowledged)
            row.acknowledged = row.acknowledged.intersection(seqs)
            row.given_up = {reason: gone.intersection(seqs) for reason, gone in row.given_up.items()}

    def snapshot(self) -> dict[str, object]:
        """Return the whole state as the object of a snapshot frame."""
        return {
            "format": FORMAT,
            "bytes": self.bytes_delivered,
            "resent": self.resent,
            "epochs": {
                epoch: {
                    "leased": row.leased.to_json(),
                    "acknowledged": row.acknowledged.to_json(),
                    "given_up": {reason: gone.to_json() for reason, gone in row.given_up.items()},
                }
                for epoch, row in self.epochs.items()
            },
        }

    def _restore(self, value: Mapping[str, object]) -> None:
        if value["format"] != FORMAT:
            raise CorruptError(
                f"delivery.journal has format {value['format']!r}; this version reads {FORMAT}"
            )
        self.bytes_delivered = int(value["bytes"])  # type: ignore[call-overload]
        self.resent = int(value["resent"])  # type: ignore[call-overload]
        self.epochs = {
            epoch: EpochDelivery(
                RangeSet.from_json(row["leased"]),
                RangeSet.from_json(row["acknowledged"]),
                {
                    str(EvictReason(reason)): RangeSet.from_json(gone)
                    for reason, gone in row["given_up"].items()
                },
            )
            for epoch, row in value["epochs"].items()  # type: ignore[attr-defined]
        }


def by_epoch(identities: Iterable[tuple[str, int]]) -> dict[str, list[list[int]]]:
    """Return (epoch, seq) pairs as the `seqs` object of a frame."""
    numbers: dict[str, list[int]] = {}
    for epoch, seq in identities:
        numbers.setdefault(epoch, []).append(seq)
    return {epoch: RangeSet.of(seqs).to_json() for epoch, seqs in numbers.items()}

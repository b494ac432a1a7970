"""Keep the spool under its quota: delivered segments go first, then the oldest of the lowest class, never silently.

A segment is removed in this order:
    1. an "evicting" frame, so that a reader which leases from now on sees it and does not send;
    2. the reader's journal is read: what is leased there and not acknowledged is in doubt;
    3. a removal frame says what became of each record, and is synced;
    4. only then the file is unlinked.
Either the reader sees 1 after it wrote its lease, or 2 sees that lease: no record is both sent and "never
sent". Refuses to touch a segment of a higher class than the record that needs the room.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.spool.delivery import DeliveryState
from edge_agent.spool.ledger import LedgerKind, LedgerState, LiveSegment
from edge_agent.spool.ranges import RangeSet
from edge_agent.spool.segment import segment_name
from edge_agent.spool.statelog import Follower, StateLog
from foundation import syscalls
from foundation.errors import CorruptError
from foundation.events import EventLog
from schemas.reasons import EvictReason, ValueClass


class Evictor:
    """Tracks the bytes of every segment file and removes segments. Used under the writer's commit lock."""

    def __init__(
        self,
        folder: Path,
        account: LedgerState,
        log: StateLog,
        delivery: Follower[DeliveryState],
        events: EventLog,
    ) -> None:
        self._folder = folder
        self._account = account
        self._log = log
        self._delivery = delivery
        self._events = events
        self._is_delivery_known = True
        self._to_unlink: dict[int, Path] = {}
        self.sizes: dict[int, int] = {}
        self.used_bytes = 0
        """Bytes of the segment files."""

    def set_size(self, number: int, size_bytes: int) -> None:
        """Record that the file of segment `number` has `size_bytes`; 0 when it is gone."""
        self.used_bytes += size_bytes - self.sizes.get(number, 0)
        self.sizes[number] = size_bytes
        if not size_bytes:
            del self.sizes[number]

    def path(self, value_class: ValueClass, number: int) -> Path:
        """Return the path of a segment's file."""
        return self._folder / segment_name(value_class, number)

    def make_room(self, need_bytes: int, quota_bytes: int, value_class: ValueClass) -> tuple[bool, list[int]]:
        """Remove segments until `need_bytes` fit; return whether they fit, and the numbers of the removed segments."""
        gone: list[int] = []
        if need_bytes > quota_bytes:
            return False, gone
        if self.used_bytes + need_bytes > quota_bytes:
            gone += self.reclaim()
        while self.used_bytes + need_bytes > quota_bytes:
            victim = self._victim(value_class)
            if victim is None or not self.evict(victim, EvictReason.QUOTA):
                return False, gone
            gone.append(victim.number)
        return True, gone

    def _victim(self, value_class: ValueClass) -> LiveSegment | None:
        candidates = [
            segment
            for segment in self._account.segments.values()
            if segment.value_class <= value_class and segment.number not in self._account.unadopted
        ]
        return min(candidates, key=lambda segment: (segment.value_class, segment.number), default=None)

    def reclaim(self) -> list[int]:
        """Remove every segment of which no record is pending; return their numbers."""
        self.poll_delivery()
        done = [
            segment
            for segment in self._account.segments.values()
            if segment.number not in self._account.unadopted
            and not self._delivery.state.outcome(segment.epoch, segment.seqs).pending
        ]
        for segment in done:
            self._remove(segment, EvictReason.POLICY)  # nothing is pending, so the reason is never used
        if done:
            self._unlink_removed()
        return [segment.number for segment in done]

    def evict(self, segment: LiveSegment, reason: EvictReason) -> bool:
        """Remove `segment` with its pending records. False when the ledger could not be written: then it stays."""
        if not self._log.record(LedgerKind.EVICTING, {"segment": segment.number, "reason": str(reason)}):
            return False
        self.poll_delivery()
        removal = self._remove(segment, reason)
        self._events.emit(
            "segment_evicted",
            level="warning",
            segment=segment.number,
            value_class=segment.value_class.label,
            reason=str(reason),
            in_doubt=len(RangeSet.from_json(removal["in_doubt"])),
            evicted={
                name: len(RangeSet.from_json(gone)) for name, gone in _mapping(removal["evicted"]).items()
            },
        )
        self._unlink_removed()
        return not self._to_unlink

    def _remove(self, segment: LiveSegment, reason: EvictReason) -> dict[str, object]:
        state = self._delivery.state
        removal = self._account.removal(segment, state, reason)
        if not self._is_delivery_known:
            # What was sent cannot be known: in doubt is the truth, "never sent" would be a guess.
            pending = state.outcome(segment.epoch, segment.seqs).pending
            removal["in_doubt"] = pending.to_json()
            removal["evicted"] = {
                name: rest.to_json()
                for name, gone in _mapping(removal["evicted"]).items()
                if (rest := RangeSet.from_json(gone).difference(pending))
            }
        self._to_unlink[segment.number] = self.path(segment.value_class, segment.number)
        self._log.record(LedgerKind.REMOVED, removal)
        return removal

    def unlink_later(self, number: int, path: Path) -> None:
        """Unlink a file once the ledger is durable: its removal is recorded, or it holds no record."""
        self._to_unlink[number] = path

    def _unlink_removed(self) -> None:
        if not self._to_unlink or not self._log.sync():
            return
        for number, path in list(self._to_unlink.items()):
            try:
                syscalls.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                self._events.emit("unlink_failed", level="error", path=path.name, error=error.strerror)
                continue
            del self._to_unlink[number]
            self.set_size(number, 0)

    def retry_removals(self) -> None:
        """Repeat the removals that failed before, for example on a full disk."""
        for segment in [one for one in self._account.segments.values() if one.evicting]:
            self.evict(segment, EvictReason(segment.evicting))
        self._unlink_removed()

    def poll_delivery(self) -> None:
        """Read what the reader has added to its journal since the last call."""
        try:
            self._delivery.poll()
            self._is_delivery_known = self._delivery.damaged == 0
        except CorruptError as error:
            self._is_delivery_known = False
            self._events.emit("delivery_unreadable", level="error", error=str(error))


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise CorruptError(f"evicted is {value!r}; it must be an object")
    return value

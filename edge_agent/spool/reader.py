"""The deliver process's side of the spool: durable records are leased, sent, and removed only once acknowledged.

Leasing, in this order: the lease is journalled and synced, then the ledger is read again, and what the writer is
evicting meanwhile is not returned (see `edge_agent.spool.evict`). So whatever may be in the broker's log is known, also
after a power loss. Acknowledgements are journalled at once and synced by `sync`: after a crash a few records may be
sent again, with the same identity and bytes. Refuses to return a record before its fsync returned, to treat anything
but an acknowledgement as delivery, and to write any file of the writer's.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_agent.spool.delivery import DeliveryKind, DeliveryState, by_epoch
from edge_agent.spool.index import Leased, SegmentIndex, SpooledRecord
from edge_agent.spool.ledger import LedgerState
from edge_agent.spool.opened import READER_LOCK, make_folders, read_state
from edge_agent.spool.ranges import RangeSet
from edge_agent.spool.segment import FOLDER, list_segments, segment_name
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.snapshot import DELIVERY_FILE, LEDGER_FILE, Ledger, compute_ledger
from edge_agent.spool.statelog import Follower, StateLog
from foundation.clock import Clock
from foundation.errors import CorruptError
from foundation.events import EventLog
from foundation.files import FileLock
from schemas.identity import Identity
from schemas.reasons import EvictReason, ValueClass
from schemas.wire import WireRecord

__all__ = ["SpoolReader", "SpooledRecord"]


class SpoolReader:
    """Opened with `open`, closed with `close`. Not thread-safe: one job uses it."""

    def __init__(
        self,
        folder: Path,
        vehicle_id: str,
        clock: Clock,
        events: EventLog,
        lock: FileLock,
        state: DeliveryState,
        log: StateLog,
        ledger: Follower[LedgerState],
    ) -> None:
        self._folder = folder
        self._vehicle_id = vehicle_id
        self._clock = clock
        self._events = events
        self._lock = lock
        self._state = state
        self._log = log
        self._ledger = ledger
        self._indexes: dict[int, SegmentIndex] = {}
        self._queue: list[
            tuple[int, int]
        ] = []  # (-class, number) of segments that may hold something to lease
        self._queued: set[int] = set()
        self._again: list[tuple[int, int, int]] = []  # (-class, number, position) of released records
        self._leased: dict[Identity, Leased] = {}
        self.last_error = ""

    @classmethod
    def open(
        cls, folder: Path, settings: SpoolSettings, vehicle_id: str, clock: Clock, events: EventLog
    ) -> Self:
        """Read both journals and be ready to lease. The writer may run, or never have run.

        Raises:
            RetryLaterError: another process delivers this spool.
            MisconfiguredError: the folder cannot be made.
        """
        make_folders(folder)
        lock = FileLock(folder / READER_LOCK, clock=clock)
        lock.__enter__()
        try:
            begun_ns = clock.monotonic_ns()
            mine = Follower(folder / DELIVERY_FILE, DeliveryState)
            is_damaged = read_state(mine, folder / DELIVERY_FILE, events)
            mine.close()
            state = mine.state
            log = StateLog(folder / DELIVERY_FILE, state, reserve_bytes=settings.reserve_bytes)
            reader = cls(
                folder,
                vehicle_id,
                clock,
                events,
                lock,
                state,
                log,
                Follower(folder / LEDGER_FILE, LedgerState),
            )
            reader.refresh()
            log.before_snapshot = reader._prune
            if not log.rewrite():
                events.emit("delivery_not_written", level="error", error=log.last_error)
        except BaseException:
            lock.__exit__(None, None, None)
            raise
        events.emit(
            "spool_followed",
            seconds=round((clock.monotonic_ns() - begun_ns) / 1e9, 4),
            pending=reader.pending,
            is_journal_damaged=is_damaged,
        )
        return reader

    def refresh(self) -> None:
        """Read what the writer committed and removed since. An unreadable ledger is retried later."""
        try:
            self._ledger.poll()
        except CorruptError as error:
            self._fail(str(error))
            return
        account = self._ledger.state
        for number in [number for number in self._indexes if number not in account.segments]:
            del self._indexes[number]
        for number, segment in account.segments.items():
            index = self._indexes.get(number)
            if index is None:
                index = self._indexes[number] = SegmentIndex(self._path(segment.value_class, number), segment)
                self._enqueue(index)
            elif index.segment is not segment or segment.end_bytes > index.scanned_bytes:
                index.segment = segment
                self._enqueue(index)

    def _enqueue(self, index: SegmentIndex) -> None:
        number = index.segment.number
        if number not in self._queued:
            self._queued.add(number)
            heapq.heappush(self._queue, (-int(index.segment.value_class), number))

    def _path(self, value_class: ValueClass, number: int) -> Path:
        return self._folder / FOLDER / segment_name(value_class, number)

    def lease(self, max_bytes: int) -> list[SpooledRecord]:
        """Return records to send, at most `max_bytes` of values together (but one at least, when there is any).

        The highest value class first; inside a class in the order of acceptance. A record that is damaged
        is given up and counted. Empty when there is nothing to send, or when leases cannot be journalled
        (see `last_error`).
        """
        self.refresh()
        self.last_error = ""
        picked = self._pick(max_bytes)
        if not picked:
            return []
        resent = self._state.resent + sum(self._was_leased(identity) for identity, _, _, _ in picked)
        seqs = by_epoch((identity.epoch, identity.seq) for identity, _, _, _ in picked)
        is_known = self._log.record(DeliveryKind.LEASE, {"seqs": seqs, "resent": resent}) and self._log.sync()
        records: list[SpooledRecord] = []
        self.refresh()
        for identity, index, at, record in picked:
            number = index.segment.number
            live = self._ledger.state.segments.get(number)
            if live is None or live.evicting:
                continue
            if not is_known:
                self._line_up(index, at)
                continue
            self._leased[identity] = Leased(number, at, len(record.value))
            records.append(SpooledRecord(identity, live.value_class, record))
        if not is_known:
            self._fail(f"leases cannot be journalled: {self._log.last_error}")
        return records

    def _was_leased(self, identity: Identity) -> bool:
        row = self._state.epochs.get(identity.epoch)
        return row is not None and identity.seq in row.leased

    def _pick(self, max_bytes: int) -> list[tuple[Identity, SegmentIndex, int, WireRecord]]:
        picked: list[tuple[Identity, SegmentIndex, int, WireRecord]] = []
        left_bytes = max_bytes
        fds: dict[int, int] = {}
        try:
            while left_bytes > 0:
                found = self._next()
                if found is None:
                    break
                index, at = found
                try:
                    record = self._read(index, at, fds)
                except OSError as error:
                    self._fail(f"segment {index.segment.number}: {error.strerror}")
                    self._line_up(index, at)
                    break
                if record is None:
                    continue
                if picked and len(record.value) > left_bytes:
                    self._line_up(index, at)
                    break
                left_bytes -= max(1, len(record.value))
                identity = Identity(self._vehicle_id, index.segment.epoch, index.seq(at))
                picked.append((identity, index, at, record))
        finally:
            for fd in fds.values():
                os.close(fd)
        return picked

    def _line_up(self, index: SegmentIndex, at: int) -> None:
        heapq.heappush(self._again, (-int(index.segment.value_class), index.segment.number, at))

    def _next(self) -> tuple[SegmentIndex, int] | None:
        """Return the next record to lease: released ones and new ones in one order."""
        while self._again or self._queue:
            if self._again and (not self._queue or self._again[0][:2] <= self._queue[0]):
                _, number, at = heapq.heappop(self._again)
                index = self._indexes.get(number)
                if index is not None and not index.segment.evicting and not self._is_settled(index, at):
                    return index, at
                continue
            _, number = self._queue[0]
            index = self._indexes.get(number)
            if index is not None and not index.segment.evicting:
                self._extend(index)
                if self._queue[0][1] != number:
                    continue  # while it was looked at, something came that goes first
                while index.cursor < len(index):
                    at = index.cursor
                    index.cursor += 1
                    if not self._is_settled(index, at):
                        return index, at
            heapq.heappop(self._queue)
            self._queued.discard(number)
        return None

    def _extend(self, index: SegmentIndex) -> None:
        row = self._state.epochs.get(index.segment.epoch)
        if not len(index) and row is not None and not index.segment.seqs.difference(row.acknowledged):
            return  # everything is delivered: not worth a look
        try:
            missing = index.extend()
        except CorruptError as error:
            if not self._is_gone(index):
                self._fail(str(error))
            return
        if missing:
            self._damaged(index, self._state.outcome(index.segment.epoch, missing).pending)

    def _is_gone(self, index: SegmentIndex) -> bool:
        """Return whether the writer removed the segment meanwhile."""
        self.refresh()
        return index.segment.number not in self._ledger.state.segments

    def _is_settled(self, index: SegmentIndex, at: int) -> bool:
        row = self._state.epochs.get(index.segment.epoch)
        return row is not None and row.is_settled(index.seq(at))

    def _read(self, index: SegmentIndex, at: int, fds: dict[int, int]) -> WireRecord | None:
        """Return the record, or None when it is damaged (then it is counted) or gone. Raises OSError: retry."""
        number = index.segment.number
        if number not in fds:
            try:
                fds[number] = index.open()
            except FileNotFoundError:
                if self._is_gone(index):
                    return None
                raise
        try:
            record = index.read(at, fds[number])
        except CorruptError as error:
            self._fail(f"segment {number}: {error}")
            record = None
        if record is None:
            self._damaged(index, RangeSet([(index.seq(at), index.seq(at) + 1)]))
        return record

    def _damaged(self, index: SegmentIndex, seqs: RangeSet) -> None:
        if not seqs:
            return
        epoch = index.segment.epoch
        self._events.emit(
            "records_damaged", level="error", segment=index.segment.number, epoch=epoch, seqs=seqs.to_json()
        )
        self._settle(epoch, seqs, EvictReason.DAMAGED)

    def _settle(self, epoch: str, seqs: RangeSet, reason: EvictReason) -> None:
        value: dict[str, object] = {"seqs": {epoch: seqs.to_json()}, "reason": str(reason)}
        self._log.record(DeliveryKind.GIVEN_UP, value)

    def acknowledge(self, identities: Iterable[Identity]) -> None:
        """Record acknowledgements. Journalled now, durable with the next `sync` or lease. Unknown ones are ignored."""
        known: list[Identity] = []
        size_bytes = 0
        for identity in identities:
            leased = self._leased.pop(identity, None)
            if leased is not None:
                size_bytes += leased.value_bytes
                known.append(identity)
            elif self._is_live(identity):
                known.append(identity)  # a late word about a record that was released meanwhile
        if known:
            self._log.record(
                DeliveryKind.ACKNOWLEDGED,
                {
                    "seqs": by_epoch((identity.epoch, identity.seq) for identity in known),
                    "bytes": self._state.bytes_delivered + size_bytes,
                },
            )

    def _is_live(self, identity: Identity) -> bool:
        return identity.vehicle_id == self._vehicle_id and any(
            segment.epoch == identity.epoch and identity.seq in segment.seqs
            for segment in self._ledger.state.segments.values()
        )

    def release(self, identities: Iterable[Identity]) -> None:
        """Return leased records to the queue, in their old order. They stay marked as possibly sent."""
        for identity in identities:
            leased = self._leased.pop(identity, None)
            index = self._indexes.get(leased.segment) if leased is not None else None
            if leased is not None and index is not None:
                self._line_up(index, leased.at)

    def give_up(self, identities: Iterable[Identity], reason: EvictReason) -> None:
        """Never send these again (the broker can never take them): counted as evicted for `reason`."""
        for identity in identities:
            self._leased.pop(identity, None)
            self._settle(identity.epoch, RangeSet([(identity.seq, identity.seq + 1)]), reason)

    def sync(self) -> bool:
        """Make every acknowledgement so far durable; return False on a disk error: they are kept and retried."""
        if self._log.sync():
            return True
        self._fail(f"acknowledgements are not durable: {self._log.last_error}")
        return False

    def _prune(self) -> None:
        """Forget numbers whose segment is gone from the ledger and from the disk."""
        account = self._ledger.state
        present = set(list_segments(self._folder / FOLDER)) | set(account.segments)
        if self._ledger.damaged or any(number not in account.segments for number in present):
            return  # something is in progress: the next snapshot will do
        live: dict[str, RangeSet] = {}
        for segment in account.segments.values():
            live.setdefault(segment.epoch, RangeSet()).update(segment.seqs)
        self._state.prune(live)

    def _fail(self, error: str) -> None:
        if error != self.last_error:
            self._events.emit("spool_read_failed", level="error", error=error)
        self.last_error = error

    @property
    def pending(self) -> int:
        """Accepted records that are neither delivered nor given up at this instant, leased ones included."""
        self.refresh()
        account = self._ledger.state
        return sum(
            len(self._state.outcome(segment.epoch, segment.seqs).pending)
            for segment in account.segments.values()
        )

    @property
    def leased(self) -> int:
        """The number of records that are leased now."""
        return len(self._leased)

    @property
    def bytes_uploaded(self) -> int:
        """Bytes of acknowledged values since the spool was made."""
        return self._state.bytes_delivered

    @property
    def resent(self) -> int:
        """The number of leases of records that may have been sent before, since the spool was made."""
        return self._state.resent

    def ledger(self) -> Ledger:
        """Return the ledger as this process knows it now."""
        self.refresh()
        return compute_ledger(self._ledger.state, self._state)

    def close(self) -> None:
        """Make acknowledgements durable and close all files; leased records may be leased again by the next reader."""
        self.sync()
        self._log.close()
        self._ledger.close()
        self._lock.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""Write the spool: a record is accepted once the fsync of its segment returned, and its receipt is printed after that.

A commit, in this order:
    1. the pending records are framed and written, each after its step, one segment per value class;
    2. every touched segment is synced; one whose write or sync failed is cut back and never written again,
       and its records of this commit are counted as not accepted;
    3. one commit frame goes to the ledger: only now the reader sees the records (the segments are already
       durable, so this frame need not be: recovery finds them and their steps again);
    4. receipts are printed.
One process writes (a lock file excludes others). `append` is for one thread. `commit` commits in the caller's thread;
after `start_committer`, what is handed over is committed by the writer's own thread, batch by batch in the same order.
Refuses to block on the broker, to overwrite, to reuse a number, and to accept beyond the quota.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_agent.spool.commit_queue import Batch, CommitQueue, PendingRecord
from edge_agent.spool.committer import Committer
from edge_agent.spool.ledger import LedgerKind
from edge_agent.spool.opened import OpenedAccount, open_account
from edge_agent.spool.ranges import RangeSet
from edge_agent.spool.receipts import Receipt, ReceiptPrinter
from edge_agent.spool.refused_counts import RefusedCounts
from edge_agent.spool.segment import SegmentHead, record_parts, step_parts
from edge_agent.spool.segment_file import SegmentFile
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.snapshot import Ledger, compute_ledger
from edge_agent.spool.steps import Carried, LooseSteps, Step, encode_steps, for_ledger
from foundation.clock import Clock
from foundation.errors import MisconfiguredError, RejectedError
from foundation.events import EventLog
from foundation.framing import Buffer
from schemas import codec, signing, wire
from schemas.identity import Identity, is_vehicle_id, new_epoch
from schemas.reasons import NotAcceptedReason, ValueClass
from schemas.records import Sample

__all__ = ["Receipt", "SpoolWriter"]


class SpoolWriter:
    """The perceive process's side of the spool. Open it with `open`, close it with `close`."""

    def __init__(
        self,
        *,
        settings: SpoolSettings,
        vehicle_id: str,
        key: signing.VehicleKey,
        clock: Clock,
        events: EventLog,
        opened: OpenedAccount,
        on_wait: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._vehicle_id = vehicle_id
        self._key = key
        self._clock = clock
        self._events = events
        self._on_wait = on_wait
        self._lock = opened.lock
        self._account = opened.account
        self._log = opened.log
        self._evictor = opened.evictor
        self._delivery = opened.delivery
        self._receipts = ReceiptPrinter(settings.receipt_target, events)
        self.recovery = opened.recovery
        self.epoch = opened.epoch
        self.previous_epoch = opened.account.epochs[opened.epoch].previous_epoch
        self.on_commit: Callable[[Receipt], None] | None = None
        self._append_lock = threading.Lock()
        self._commit_lock = threading.RLock()
        self._queue = CommitQueue(settings.buffer_bytes)
        self._committer: Committer | None = None
        self._next_seq = 0
        self._open: dict[ValueClass, SegmentFile] = {}
        self._refused = RefusedCounts(opened.account)
        self._loose = LooseSteps(opened.account.carried)
        self._next_step = 0
        self._hold_until_ns = 0
        self._handed_ns = self._synced_ns = self._reclaimed_ns = clock.monotonic_ns()
        self.last_error = ""

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: SpoolSettings,
        vehicle_id: str,
        key: signing.VehicleKey,
        clock: Clock,
        events: EventLog,
        *,
        rng: random.Random | None = None,
        carried: Carried | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Self:
        """Recover from a crash, draw a new epoch and be ready to accept. `carried` advances by the steps given.

        `on_wait` is called, in the thread that opens and appends, before it waits for the disk, and again for each segment
        that is recovered and each batch that is committed meanwhile.

        Raises:
            MisconfiguredError: the vehicle_id or the settings make no sense, or the folder cannot be made.
            RetryLaterError: another process writes this spool, or the folder cannot be synced.
        """
        if not is_vehicle_id(vehicle_id):
            raise MisconfiguredError(
                f"vehicle_id {vehicle_id!r} is not 1 to 63 lower-case letters, digits, hyphens"
            )
        if settings.segment_bytes > settings.quota_bytes:
            raise MisconfiguredError(
                f"segment_bytes {settings.segment_bytes} is above quota_bytes {settings.quota_bytes}"
            )
        opened = open_account(folder, settings, clock, events, new_epoch(rng), carried, on_wait)
        return cls(
            settings=settings,
            vehicle_id=vehicle_id,
            key=key,
            clock=clock,
            events=events,
            opened=opened,
            on_wait=on_wait,
        )

    def append(self, sample: Sample, step: object | None = None) -> Identity:
        """Encode, sign and queue one sample; it is accepted by the commit that follows, not yet.

        The spool sets vehicle_id, epoch, previous_epoch, seq and spool_time_ns. `step` (plain JSON) of what the ledger
        carries is as durable as the sample, and so are the counts of `not_accepted` up to now.

        Raises:
            RejectedError: not taken, and not counted (that is the caller's): reason oversize, encode_error,
                quota_full or disk_error (for `disk_error_hold_s` after a disk error).
        """
        with self._append_lock:
            self._check_disk()
            identity = Identity(self._vehicle_id, self.epoch, self._next_seq)
            full = replace(
                sample,
                vehicle_id=self._vehicle_id,
                epoch=self.epoch,
                previous_epoch=self.previous_epoch,
                seq=identity.seq,
                spool_time_ns=self._clock.now_ns(),
            )
            signed = self._signed(full, identity)
            size_bytes = signed.size_bytes
            self._make_room(size_bytes, sample.value_class)
            made = None if step is None else self._step(identity.seq, step)
            is_over = self._queue.put(
                PendingRecord(identity.seq, sample.value_class, signed, size_bytes, made)
            )
            self._next_seq += 1
        if is_over:
            self._wait_for_room()
        return identity

    def _wait_for_room(self) -> None:
        """Block the caller while more bytes wait for the disk than `buffer_bytes`."""
        self._queue.cut()
        committer = self._committer
        if committer is None:
            self._commit_all()
            return

        def has_room(wait_s: float) -> bool:
            committer.check()
            return self._queue.wait_for_room(wait_s)

        self._wait_for_disk(has_room)
        committer.check()

    def _wait_for_disk(self, is_over: Callable[[float], bool]) -> None:
        """Wait, and call `on_wait` first and after each batch: a slow disk is no hang, one that stands still is."""
        pending_bytes = -1
        while True:
            if self._queue.pending_bytes != pending_bytes:
                pending_bytes = self._queue.pending_bytes
                self._on_wait()
            if is_over(1.0):
                return

    def _check_disk(self) -> None:
        left_ns = self._hold_until_ns - self._clock.monotonic_ns()
        if left_ns > 0:
            raise RejectedError(
                f"nothing is accepted for another {left_ns / 1e9:.3f} s after: {self.last_error}",
                reason=NotAcceptedReason.DISK_ERROR,
            )

    def _signed(self, sample: Sample, identity: Identity) -> wire.WireRecord:
        try:
            value = codec.encode_sample(sample)
        except RejectedError as error:
            raise RejectedError(str(error), reason=NotAcceptedReason.ENCODE_ERROR) from error
        if len(value) > self._settings.max_record_bytes:
            raise RejectedError(
                f"the record has {len(value)} bytes; at most {self._settings.max_record_bytes} are sent",
                reason=NotAcceptedReason.OVERSIZE,
            )
        return signing.sign_record(wire.TOPICS.samples, wire.KIND_SAMPLE, identity, value, self._key)

    def _make_room(self, size_bytes: int, value_class: ValueClass) -> None:
        quota_bytes = self._settings.quota_bytes
        if self._evictor.used_bytes + self._queue.pending_bytes + size_bytes <= quota_bytes:
            return
        self._on_wait()
        with self._commit_lock:
            if self._queue.pending_bytes:
                self._queue.cut()
                self._commit_all()  # pending records can make room only once they are accepted
            fits, gone = self._evictor.make_room(size_bytes, quota_bytes, value_class)
            self._forget(gone)
        if not fits:
            raise RejectedError(
                f"{self._evictor.used_bytes} bytes are spooled; {size_bytes} more do not fit under quota_bytes"
                f" {quota_bytes} without evicting a class above {value_class.label}",
                reason=NotAcceptedReason.QUOTA_FULL,
            )

    def _forget(self, numbers: list[int]) -> None:
        """Stop writing to segments that were removed."""
        for value_class, segment in list(self._open.items()):
            if segment.number in numbers:
                segment.close()
                del self._open[value_class]

    def start_committer(self) -> None:
        """Start a thread that commits what is handed over; `close` ends it."""
        self._committer = Committer(self._queue, self._commit_next)

    @property
    def is_commit_due(self) -> bool:
        """Whether enough records wait, or the last commit was handed over long enough ago."""
        waited_ns = self._clock.monotonic_ns() - self._handed_ns
        return (
            self._queue.waiting >= self._settings.commit_count
            or waited_ns >= self._settings.commit_interval_s * 1e9
        )

    def hand_over(self, step: object | None = None) -> None:
        """Have the pending records committed: by the thread if there is one, so that this returns at once.

        `step` (plain JSON) is that after all pending records, and so are the counts of `not_accepted` up to now.

        Raises:
            RuntimeError: the thread has died of a defect; nothing would be committed any more.
        """
        if self._committer is None:
            self.commit(step)
            return
        self._committer.check()
        self._cut(step)

    def commit(self, step: object | None = None) -> Receipt | None:
        """Make all pending records durable and visible, in this thread; `step` as in `hand_over`.

        None when nothing was accepted; never raises for the disk.
        """
        self._on_wait()
        with self._commit_lock:  # first, so that the thread takes none of what is committed here
            self._cut(step)
            return self._commit_all()

    def _cut(self, step: object | None) -> None:
        """Close the batch. Counts go with a step, from which a restart counts; without carried state, with every commit."""
        is_said = step is not None or (self._account.carried is None and self._refused.has_changed)
        self._queue.cut(self._step(-1, step) if is_said else None)
        self._handed_ns = self._clock.monotonic_ns()

    def _step(self, seq: int, state: object | None) -> Step:
        self._next_step += 1
        return Step(self._next_step, seq, state, self._refused.take())

    def _commit_all(self) -> Receipt | None:
        receipt: Receipt | None = None
        self._on_wait()
        with self._commit_lock:  # what the thread is at ends first
            while True:
                self._on_wait()
                part = self._commit_next()
                receipt = part if receipt is None else receipt.and_then(part)
                if not self._queue.has_batches:
                    return receipt

    def _commit_next(self) -> Receipt | None:
        """Commit the oldest batch, if there is one, and maintain the segments."""
        with self._commit_lock:
            batch = self._queue.take()
            receipt = None
            if batch is not None:
                try:
                    receipt = self._commit(batch)
                finally:
                    self._queue.done(batch)
            self._housekeep()
            if receipt is not None and self.on_commit is not None:
                self.on_commit(receipt)
            return receipt

    def _commit(self, batch: Batch) -> Receipt | None:
        accepted: list[PendingRecord] = []
        segments: list[list[object]] = []
        gaps = RangeSet()
        steps, durable_step = batch.steps(), 0
        for value_class in sorted({waiting.value_class for waiting in batch.records}, reverse=True):
            part = [waiting for waiting in batch.records if waiting.value_class == value_class]
            data, last_step = self._frames(value_class, batch)
            segment = self._write(value_class, part, data)
            if segment is None:
                gaps.update(RangeSet.of(waiting.seq for waiting in part))
                continue
            durable_step = max(durable_step, last_step)
            accepted += part
            seqs = RangeSet.of(waiting.seq for waiting in part)
            segments.append([segment.number, int(value_class), segment.end_bytes, seqs.to_json()])
        size_bytes = sum(len(waiting.wire.value) for waiting in accepted)
        frame: dict[str, object] = {
            "epoch": self.epoch,
            "segments": segments,
            "gaps": gaps.to_json(),
            "bytes": size_bytes,
            **for_ledger(steps, gaps),
        }
        self._loose.keep(steps, durable_step)
        if not self._log.record(LedgerKind.COMMIT, frame):
            self.last_error = self._log.last_error
            self._events.emit("ledger_not_written", level="error", error=self._log.last_error)
        if not accepted:
            return None
        accepted.sort(key=lambda waiting: waiting.seq)
        self._receipts.print(self.epoch, [(waiting.seq, waiting.wire) for waiting in accepted])
        return Receipt(self.epoch, accepted[0].seq, accepted[-1].seq, len(accepted), size_bytes)

    def _write(self, value_class: ValueClass, part: list[PendingRecord], data: bytes) -> SegmentFile | None:
        """Return the segment in which `part`, as `data`, is durable now, or None when the disk refused."""
        segment = self._open.get(value_class)
        if segment is not None and segment.end_bytes + len(data) > self._settings.segment_bytes:
            segment.close()
            del self._open[value_class]
            segment = None
            self._log.sync()
        try:
            if segment is None:
                segment = self._new_segment(value_class)
            segment.append(data)
        except OSError as error:
            self.last_error = f"{error.strerror} (spool segment)"
            self._events.emit("disk_error", level="error", error=self.last_error, records=len(part))
            self._hold_until_ns = self._clock.monotonic_ns() + round(self._settings.disk_error_hold_s * 1e9)
            if segment is not None:
                self._open.pop(value_class, None)
                segment.abandon()
                if segment.end_bytes:
                    self._evictor.set_size(segment.number, segment.end_bytes)
            return None
        self._open[value_class] = segment
        self._evictor.set_size(segment.number, segment.end_bytes)
        self.last_error = ""
        return segment

    def _frames(self, value_class: ValueClass, batch: Batch) -> tuple[bytes, int]:
        """Return the records of one class with all steps up to the last of them, and which step that is."""
        parts: list[Buffer] = []
        before, last_step = list(self._loose.steps), 0
        for one in batch.records:
            if one.step is not None:
                before.append(one.step)
            if one.value_class == value_class:
                if before:
                    parts += step_parts(one.seq, encode_steps(before))
                    before, last_step = [], before[-1].at
                parts += record_parts(self.epoch, one.seq, value_class, one.wire)
        return b"".join(parts), last_step

    def _new_segment(self, value_class: ValueClass) -> SegmentFile:
        number = self._account.next_segment
        self._account.next_segment += 1
        head = SegmentHead(number, value_class, self.epoch, self.previous_epoch, self._clock.now_ns())
        return SegmentFile(self._evictor.path(value_class, number), head)

    def not_accepted(self, reason: NotAcceptedReason, count: int = 1, bytes: int = 0) -> None:  # noqa: A002
        """Count frames that were seen and not taken. Cumulative over restarts; written with the next step or commit.

        Records that the disk refused are not counted here: the ledger knows their numbers.
        """
        self._refused.add(reason, count, bytes)

    def _housekeep(self) -> None:
        """Periodically sync the ledger, remove delivered segments, and retry what the disk refused."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._synced_ns >= self._settings.counts_sync_s * 1e9:
            self._synced_ns = now_ns
            if self._log.sync():
                self._loose.steps.clear()
        if now_ns - self._reclaimed_ns >= 1e9:
            self._reclaimed_ns = now_ns
            self._evictor.retry_removals()
            self._forget(self._evictor.reclaim())

    @property
    def pending_bytes(self) -> int:
        """Bytes in memory of records whose commit is not over."""
        return self._queue.pending_bytes

    def ledger(self) -> Ledger:
        """Return the ledger as this process knows it now. Raises CorruptError when the reader's journal cannot be read."""
        with self._commit_lock:
            self._delivery.poll()
            return compute_ledger(self._account, self._delivery.state, self._evictor.sizes)

    def close(self) -> Receipt | None:
        """Commit, write the counts, sync the ledger and close all files.

        Raises:
            RuntimeError: the thread that commits has died of a defect.
        """
        committer, self._committer = self._committer, None
        if committer is not None:
            self._queue.cut()
            committer.stop()
            self._wait_for_disk(committer.has_ended)
            committer.check()
        receipt = self.commit()
        with self._commit_lock:
            self._evictor.retry_removals()
            self._evictor.reclaim()
            self._log.sync()
            for segment in self._open.values():
                segment.close()
            self._open.clear()
            self._log.close()
            self._delivery.close()
            self._receipts.close()
            self._lock.__exit__(None, None, None)
        return receipt

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

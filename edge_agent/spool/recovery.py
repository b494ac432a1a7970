"""Recover from a crash: every record that may have been accepted is accepted, none is invented.

The ledger says how far each segment counts. Complete records after that (the batch of the crash; after a power loss,
what was committed since the ledger was last synced) are adopted. Adopting writes the same bytes again in place before
the fsync: after an fsync that failed in the previous process, the kernel may hold pages that it believes clean. Bodies
are read only there. Refuses to adopt a segment whose removal is recorded, or a record that the ledger counts as refused
(its fsync failed, and then the truncation that should have removed it), and to drop a number silently: one that is
missing beside damaged bytes is accepted and evicted as damaged, one that was never written is a gap. While a segment
cannot be read, nothing is called missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.spool.delivery import DeliveryState
from edge_agent.spool.evict import Evictor
from edge_agent.spool.ledger import EpochRow, LedgerKind, LedgerState, LiveSegment
from edge_agent.spool.ranges import RangeSet
from edge_agent.spool.segment import RecordEntry, SegmentHead, StepEntry, list_segments, scan_segment
from edge_agent.spool.steps import Step, decode_steps
from foundation import syscalls
from foundation.errors import CorruptError
from foundation.events import EventLog
from foundation.files import fsync_folder
from foundation.framing import Damage
from schemas.reasons import EvictReason, ValueClass

_CHUNK_BYTES = 1_000_000


@dataclass(slots=True)
class _Tail:
    """The records after the counted end of one segment."""

    epoch: str = ""
    previous_epoch: str = ""
    seqs: RangeSet = field(default_factory=RangeSet)
    begin: int = 0
    end: int = 0
    damaged_bytes: int = 0
    record_bytes: int = 0
    last_step: StepEntry | None = None
    last_body: bytes = b""
    steps: dict[int, Step] = field(default_factory=dict)
    """The steps of the adopted records, by `Step.at`."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """The result of recovery. `steps` are those of the adopted records: oldest first, each with whether it is accepted."""

    segments: int
    adopted: int
    lost: int
    gaps: int
    dropped_bytes: int
    missing_segments: int
    left_overs: int
    steps: tuple[tuple[Step, bool], ...]


def recover(
    folder: Path,
    account: LedgerState,
    delivery: DeliveryState,
    evictor: Evictor,
    events: EventLog,
    *,
    is_ledger_damaged: bool,
    on_wait: Callable[[], None],
) -> Recovery:
    """Bring `account` in line with the files of `folder`. Changes are applied to memory; the caller writes the ledger.

    `on_wait` is called before each segment. A segment that cannot be read is left as it is, with its tail unadopted, for the
    next start.
    """
    files = list_segments(folder)
    missing = _settle_missing(account, evictor, set(files))
    was_unreadable = bool(account.unadopted)
    refused = {row.epoch: row.gaps for row in account.epochs.values()}
    adopted = lost = gaps = dropped = left_overs = 0
    damaged_epochs: set[str] = set()
    touched: set[str] = set()
    steps: dict[str, dict[int, Step]] = {}
    begins: dict[str, int] = {}
    for number, (value_class, path) in files.items():
        on_wait()
        if account.was_removed(number):
            evictor.unlink_later(number, path)
            evictor.set_size(number, _size(path))
            left_overs += 1
            continue
        segment = account.segments.get(number)
        must_scan = segment is None or is_ledger_damaged or number in account.unadopted
        counted = segment if segment is not None else LiveSegment(number, value_class, "")
        try:
            tail = _adopt(path, counted, 0 if must_scan else counted.end_bytes, refused)
        except (OSError, CorruptError) as error:
            events.emit("segment_unreadable", level="error", segment=number, error=str(error))
            account.unadopted.add(number)
            account.next_segment = max(account.next_segment, number + 1)
            evictor.set_size(number, _size(path))
            continue
        account.unadopted.discard(number)
        evictor.set_size(number, _size(path))
        dropped += tail.damaged_bytes
        epoch = tail.epoch
        if tail.damaged_bytes:
            damaged_epochs.add(epoch)
        if not tail.seqs:
            if segment is None:
                evictor.unlink_later(number, path)
            continue
        adopted += len(tail.seqs)
        touched.add(epoch)
        steps.setdefault(epoch, {}).update(tail.steps)
        begins[epoch] = min(begins.get(epoch, number), number)
        _count(account, number, value_class, epoch, tail)
    if account.unadopted:
        touched.clear()
    elif was_unreadable:
        touched |= account.epochs.keys()
    for epoch in sorted(touched):
        is_damage = epoch in damaged_epochs or "" in damaged_epochs or is_ledger_damaged
        more_lost, more_gaps = _explain_missing(account, delivery, epoch, is_damage)
        lost, gaps = lost + more_lost, gaps + more_gaps
    if files:
        fsync_folder(folder)
    in_order: list[tuple[Step, bool]] = []
    for epoch in sorted(steps, key=lambda name: begins[name]):
        live = account.live_seqs(epoch)
        in_order += [(step, step.seq < 0 or step.seq in live) for _, step in sorted(steps[epoch].items())]
    return Recovery(len(account.segments), adopted, lost, gaps, dropped, missing, left_overs, tuple(in_order))


def _settle_missing(account: LedgerState, evictor: Evictor, present: set[int]) -> int:
    """Settle segments whose file is gone, and evictions that a crash interrupted; return how many."""
    missing = 0
    for segment in list(account.segments.values()):
        if segment.evicting:
            evictor.evict(segment, EvictReason(segment.evicting))
        elif segment.number not in present:
            evictor.evict(segment, EvictReason.DAMAGED)
            missing += 1
    return missing


def _explain_missing(
    account: LedgerState, delivery: DeliveryState, epoch: str, is_damage: bool
) -> tuple[int, int]:
    """Account for numbers below the newest of `epoch` that are in no file: delivered, damaged, or never written."""
    missing = RangeSet([(0, account.live_seqs(epoch).end)]).difference(account.known_seqs(epoch))
    if not missing:
        return 0, 0
    outcome = delivery.outcome(epoch, missing)
    unknown = missing.difference(outcome.delivered)
    lost, gaps = (unknown, RangeSet()) if is_damage else (RangeSet(), unknown)
    frame = {
        "epoch": epoch,
        "segments": [],
        "gaps": gaps.to_json(),
        "lost": lost.to_json(),
        "delivered": outcome.delivered.to_json(),
        "bytes": 0,
    }
    account.apply(LedgerKind.COMMIT, frame)
    return len(lost), len(gaps)


def _adopt(path: Path, counted: LiveSegment, start: int, refused: Mapping[str, RangeSet]) -> _Tail:
    """Make the complete records after `start` durable, truncate what follows them, and return them."""
    tail = _Tail(epoch=counted.epoch, begin=start, end=start)
    fd = syscalls.open(path, os.O_RDWR)
    try:
        size_bytes = os.fstat(fd).st_size
        if size_bytes <= start and counted.end_bytes:
            return tail
        for item in scan_segment(fd, start, size_bytes, check_bodies=True):
            if isinstance(item, Damage):
                tail.damaged_bytes += item.end - item.begin
            elif isinstance(item, SegmentHead):
                tail.epoch, tail.previous_epoch = tail.epoch or item.epoch, item.previous_epoch
            elif isinstance(item, StepEntry):
                tail.last_step = item
                tail.last_body = os.pread(fd, item.end - item.body_offset, item.body_offset)
            elif isinstance(item, RecordEntry):
                _take(tail, item, counted.seqs, refused)
        keep_bytes = max(tail.end, counted.end_bytes)
        if tail.seqs:
            _write_again(fd, tail.begin, tail.end)
        if keep_bytes < size_bytes and keep_bytes:
            syscalls.truncate(fd, keep_bytes)
        if tail.seqs:
            syscalls.fsync(fd)
    finally:
        syscalls.close(fd)
    return tail


def _take(tail: _Tail, entry: RecordEntry, known: RangeSet, refused: Mapping[str, RangeSet]) -> None:
    tail.epoch = tail.epoch or entry.epoch
    if entry.epoch in refused and entry.seq in refused[entry.epoch]:
        return
    if entry.epoch != tail.epoch:
        tail.damaged_bytes += entry.end - entry.offset
        return
    tail.end = entry.end
    if entry.seq not in known:
        step = tail.last_step if tail.last_step is not None and tail.last_step.seq == entry.seq else None
        if step is not None:
            tail.steps |= {each.at: each for each in decode_steps(tail.last_body)}
        if not tail.seqs:
            tail.begin = entry.offset if step is None else step.offset
        tail.seqs.add(entry.seq)
        tail.record_bytes += entry.end - entry.body_offset


def _write_again(fd: int, begin: int, end: int) -> None:
    at = begin
    while at < end:
        data = os.pread(fd, min(_CHUNK_BYTES, end - at), at)
        if not data:
            raise CorruptError("the file became shorter while it was read", offset_bytes=at)
        os.lseek(fd, at, os.SEEK_SET)
        syscalls.write_all(fd, data)
        at += len(data)


def _count(account: LedgerState, number: int, value_class: ValueClass, epoch: str, tail: _Tail) -> None:
    if epoch not in account.epochs:
        account.epochs[epoch] = EpochRow(epoch, tail.previous_epoch)
    account.apply(
        LedgerKind.COMMIT,
        {
            "epoch": epoch,
            "segments": [[number, int(value_class), tail.end, tail.seqs.to_json()]],
            "gaps": [],
            "bytes": tail.record_bytes,
        },
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

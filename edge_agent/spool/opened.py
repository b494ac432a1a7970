"""Open a spool for writing: lock, ledger, recovery, a new epoch, and a new snapshot of all of it on disk."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.spool.delivery import DeliveryState
from edge_agent.spool.evict import Evictor
from edge_agent.spool.ledger import LedgerKind, LedgerState
from edge_agent.spool.recovery import Recovery, recover
from edge_agent.spool.segment import FOLDER, list_segments
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.snapshot import DELIVERY_FILE, LEDGER_FILE
from edge_agent.spool.statelog import Follower, StateLog
from edge_agent.spool.steps import Carried
from foundation import syscalls
from foundation.clock import Clock
from foundation.errors import CorruptError, MisconfiguredError, RetryLaterError
from foundation.events import EventLog
from foundation.files import FileLock, fsync_folder

WRITER_LOCK = "writer.lock"
READER_LOCK = "reader.lock"
_TRANSIENT = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EINTR})


@dataclass(frozen=True, slots=True)
class OpenedAccount:
    """Everything that a writer needs, in order."""

    lock: FileLock
    account: LedgerState
    log: StateLog
    evictor: Evictor
    delivery: Follower[DeliveryState]
    recovery: Recovery
    epoch: str


def make_folders(folder: Path) -> None:
    """Create the spool's folders, durably.

    Raises:
        MisconfiguredError: a person must fix it (permissions, a file of that name, a read-only disk).
        RetryLaterError: the disk refused for now.
    """
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        fsync_folder(folder)
        fsync_folder(folder.parent)
    except OSError as error:
        message = f"the spool folder {folder} cannot be made: {error.strerror}"
        if error.errno in _TRANSIENT:
            raise RetryLaterError(message) from error
        raise MisconfiguredError(message) from error


def open_account(
    folder: Path,
    settings: SpoolSettings,
    clock: Clock,
    events: EventLog,
    epoch: str,
    carried: Carried | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> OpenedAccount:
    """Recover and begin `epoch`. Raises RetryLaterError (locked, or not synced) and MisconfiguredError (folder)."""
    make_folders(folder)
    lock = FileLock(folder / WRITER_LOCK, clock=clock)
    lock.__enter__()
    try:
        begun_ns = clock.monotonic_ns()
        ledger = Follower(folder / LEDGER_FILE, lambda: LedgerState(carried))
        is_damaged = read_state(ledger, folder / LEDGER_FILE, events)
        account = ledger.state
        ledger.close()
        delivery = Follower(folder / DELIVERY_FILE, DeliveryState)
        log = StateLog(
            folder / LEDGER_FILE,
            account,
            reserve_bytes=settings.reserve_bytes,
            before_snapshot=account.shrink,
            short_snapshot=lambda: account.snapshot(is_short=True),
        )
        evictor = Evictor(folder / FOLDER, account, log, delivery, events)
        evictor.poll_delivery()
        recovery = recover(
            folder / FOLDER,
            account,
            delivery.state,
            evictor,
            events,
            is_ledger_damaged=is_damaged,
            on_wait=on_wait,
        )
        if carried is not None:
            _carry_on(account, carried, recovery, events)
        files = list_segments(folder / FOLDER)
        account.next_segment = max(account.next_segment, max(files, default=0) + 1)
        account.apply(
            LedgerKind.EPOCH,
            {"epoch": epoch, "previous": account.last_epoch, "started_ns": clock.now_ns()},
        )
        if not log.rewrite():
            events.emit("ledger_not_written", level="error", error=log.last_error)
        evictor.retry_removals()
    except OSError as error:
        lock.__exit__(None, None, None)
        raise RetryLaterError(f"the spool {folder} cannot be opened now: {error.strerror}") from error
    except BaseException:
        lock.__exit__(None, None, None)
        raise
    events.emit(
        "spool_opened",
        epoch=epoch,
        previous_epoch=account.epochs[epoch].previous_epoch,
        seconds=round((clock.monotonic_ns() - begun_ns) / 1e9, 4),
        segments=recovery.segments,
        adopted=recovery.adopted,
        lost=recovery.lost,
        gaps=recovery.gaps,
        dropped_bytes=recovery.dropped_bytes,
        missing_segments=recovery.missing_segments,
        left_overs=recovery.left_overs,
        is_ledger_damaged=is_damaged,
    )
    return OpenedAccount(lock, account, log, evictor, delivery, recovery, epoch)


def _carry_on(account: LedgerState, carried: Carried, recovery: Recovery, events: EventLog) -> None:
    """Advance what the ledger carries, and its counts, to the last adopted record."""
    counts = carried.begin(lambda name: account.epochs[name].next_seq - 1 if name in account.epochs else -1)
    if counts is not None:
        account.apply(LedgerKind.COUNTS, counts)
    for step, is_accepted in recovery.steps:
        if carried.apply(step.state, is_accepted=is_accepted) and step.counts is not None:
            try:
                account.apply(LedgerKind.COUNTS, step.counts)
            except CorruptError as error:  # the next step that has counts has all of them
                events.emit("step_counts_unreadable", level="error", at=step.at, error=str(error))


def read_state(
    follower: Follower[LedgerState] | Follower[DeliveryState], path: Path, events: EventLog
) -> bool:
    """Read our own journal at start; return whether it was damaged. An unreadable one is set aside for a person."""
    existed = path.exists()
    try:
        follower.poll()
    except CorruptError as error:
        events.emit("journal_unreadable", level="error", path=path.name, error=str(error))
        aside = path.with_name(path.name + ".damaged")
        syscalls.rename(path, aside)
        return True
    is_empty = existed and follower.read_bytes == 0
    if follower.damaged or is_empty:
        events.emit("journal_damaged", level="error", path=path.name, stretches=follower.damaged)
    return bool(follower.damaged) or is_empty

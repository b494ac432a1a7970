"""With a thread that commits, accepted still means durable: nothing is told early, lost, reordered or unbounded."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.spool.commit_queue import CommitQueue
from edge_agent.spool.ledger import LedgerKind
from foundation.errors import RejectedError
from schemas.identity import Identity
from schemas.reasons import NotAcceptedReason
from tests.edge_agent.spool.spool_rig import SMALL, Faults, Spool, faults, sample, sha, whereabouts
from tests.waiting import until

WAIT_S = 20.0


@pytest.fixture
def hook() -> Iterator[Faults]:
    with faults(is_syncing=False) as made:
        yield made


@pytest.fixture
def spool(tmp_path: Path, hook: Faults) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool", replace(SMALL, receipt_path=str(tmp_path / "receipts")))
    made.writer.start_committer()
    yield made
    made.close()


class HeldFsync:
    """Every fsync waits until it is let go."""

    def __init__(self, hook: Faults) -> None:
        self.reached, self._go = threading.Event(), threading.Event()
        hook.before = self._before

    def _before(self, name: str, args: tuple[object, ...]) -> None:
        if name == "fsync":
            self.reached.set()
            assert self._go.wait(WAIT_S)

    def let_go(self) -> None:
        self._go.set()


def is_held(thread: threading.Thread) -> bool:
    """Whether the thread waits in `Condition.wait` right now."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == "wait"


def hand_over(spool: Spool, count: int, size_bytes: int = 100) -> list[Identity]:
    given = [spool.writer.append(sample(size_bytes, seed=seed)) for seed in range(count)]
    spool.writer.hand_over()
    return given


def test_handing_over_does_not_wait_for_the_disk_and_tells_nothing_before_its_fsync(
    spool: Spool, hook: Faults, tmp_path: Path
) -> None:
    held = HeldFsync(hook)
    given = hand_over(spool, 3)
    assert held.reached.wait(WAIT_S)
    assert (tmp_path / "receipts").read_text() == ""
    assert spool.ledger().counts.accepted == 0
    held.let_go()
    until(lambda: spool.ledger().counts.accepted == 3, "three are accepted")
    until(lambda: len((tmp_path / "receipts").read_text().splitlines()) == 3, "three receipts are printed")
    drained = {record.identity: sha(record) for record in spool.drain()}
    assert (tmp_path / "receipts").read_text().splitlines() == [
        f"RECEIPT {one.epoch} {one.seq} {drained[one]}" for one in given
    ]


def test_each_batch_that_is_handed_over_is_a_commit_of_its_own_in_its_order(spool: Spool) -> None:
    spans: list[tuple[int, int]] = []
    spool.writer.on_commit = lambda receipt: spans.append((receipt.first_seq, receipt.last_seq))
    for _ in range(20):
        hand_over(spool, 3)
    last = spool.writer.append(sample())
    receipt = spool.writer.commit()  # in this thread, after all that the other has not begun
    assert receipt is not None
    assert receipt.last_seq == last.seq == 60
    assert spans == [(first, first + 2) for first in range(0, 60, 3)] + [(60, 60)]
    assert spool.ledger().balances()


def test_an_error_of_the_disk_is_counted_and_the_thread_goes_on(
    spool: Spool, hook: Faults, tmp_path: Path
) -> None:
    hook.fail_next("write", 1, errno.ENOSPC)
    lost = hand_over(spool, 2)
    until(lambda: "No space" in spool.writer.last_error, "the full disk is told")
    until(lambda: spool.ledger().counts.not_accepted == {"disk_error": 2}, "both are counted")
    after = hand_over(spool, 2)
    until(lambda: spool.ledger().counts.accepted == 2, "the thread goes on")
    assert {seq for _, seq in whereabouts(spool.ledger())} == {one.seq for one in after}
    assert list(spool.ledger().epochs[0].never_accepted) == [one.seq for one in lost]
    receipts = (tmp_path / "receipts").read_text().splitlines()
    assert [int(line.split()[2]) for line in receipts] == [one.seq for one in after]


def test_after_an_error_in_the_thread_appending_is_refused_for_a_while(tmp_path: Path, hook: Faults) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, disk_error_hold_s=1.0))
    spool.writer.start_committer()
    hook.fail_next("fsync")
    hand_over(spool, 1)
    until(lambda: bool(spool.writer.last_error), "the error is told")
    with pytest.raises(RejectedError) as refused:
        spool.writer.append(sample())
    assert refused.value.reason == NotAcceptedReason.DISK_ERROR
    spool.clock.advance(1.1)
    hand_over(spool, 1)
    until(lambda: spool.ledger().counts.accepted == 1, "the next is accepted")
    spool.close()


def test_a_disk_that_hangs_holds_the_caller_before_memory_grows_beyond_its_bound(
    tmp_path: Path, hook: Faults
) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, buffer_bytes=10_000))
    spool.writer.start_committer()
    held = HeldFsync(hook)
    appended: list[int] = []

    def append() -> None:
        for seed in range(40):
            appended.append(spool.writer.append(sample(1_000, seed=seed)).seq)
        spool.writer.hand_over()

    caller = threading.Thread(target=append)
    caller.start()
    assert held.reached.wait(WAIT_S)
    until(lambda: is_held(caller) or not caller.is_alive(), "the caller is held")
    assert caller.is_alive()
    assert len(appended) < 40
    assert spool.writer.pending_bytes < 10_000 + 2_000, "at most one record beyond the bound"
    held.let_go()
    caller.join(WAIT_S)
    assert appended == list(range(40))
    until(lambda: spool.ledger().counts.accepted == 40, "all are accepted")
    assert spool.writer.pending_bytes == 0
    spool.close()


def test_closing_commits_what_waits_and_what_was_handed_over(spool: Spool, hook: Faults) -> None:
    for _ in range(10):
        hand_over(spool, 2)
    waiting = spool.writer.append(sample())
    threads = threading.active_count()
    spool.writer.close()
    assert spool.ledger().counts.accepted == waiting.seq + 1 == 21
    assert threading.active_count() == threads - 1
    spool.open_writer()


def test_a_defect_in_the_thread_is_raised_where_the_process_dies_of_it(
    tmp_path: Path, hook: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, buffer_bytes=5_000))
    spool.writer.start_committer()
    kinds: list[int] = []

    def record(kind: int, value: dict[str, object]) -> bool:
        kinds.append(kind)
        raise ValueError("a defect")

    monkeypatch.setattr(spool.writer._log, "record", record)
    hand_over(spool, 1)
    with pytest.raises(RuntimeError, match="has died") as died:
        until(lambda: spool.writer.hand_over() is not None, "the thread dies")  # type: ignore[func-returns-value]
    assert isinstance(died.value.__cause__, ValueError)
    assert kinds == [LedgerKind.COMMIT]
    with pytest.raises(RuntimeError, match="has died"):
        for seed in range(100):  # a caller that is held is let go, and told
            spool.writer.append(sample(1_000, seed=seed))
    monkeypatch.undo()
    spool.kill_writer()
    spool.open_writer()
    assert spool.ledger().balances()
    spool.close()


def test_counts_are_journalled_and_segments_looked_after_when_nothing_was_kept(spool: Spool) -> None:
    hand_over(spool, 4, 4_000)
    until(lambda: spool.ledger().counts.accepted == 4, "four are accepted")
    assert len(spool.drain()) == 4
    spool.clock.advance(1.1)
    spool.writer.not_accepted(NotAcceptedReason.NOT_SELECTED, 7, bytes=70)
    spool.writer.hand_over()
    until(lambda: spool.ledger().counts.not_accepted == {"not_selected": 7}, "the counts are journalled")
    until(lambda: not spool.segment_files(), "the delivered segment is removed")


@pytest.mark.parametrize("how", ["append", "make room", "commit", "close"])
@pytest.mark.parametrize("has_thread", [True, False])
def test_whoever_waits_for_the_disk_shows_it_first(
    tmp_path: Path, hook: Faults, how: str, has_thread: bool
) -> None:
    settings = replace(SMALL, buffer_bytes=1 if how == "append" else 1_000_000)
    if how == "make room":
        settings = replace(settings, segment_bytes=4_000, quota_bytes=4_000)
    spool = Spool(tmp_path / "spool", settings)
    if has_thread:
        spool.writer.start_committer()
    is_shown, is_at_fsync = threading.Event(), threading.Event()
    spool.on_wait = is_shown.set

    def before(name: str, _: tuple[object, ...]) -> None:
        if name == "fsync":
            is_at_fsync.set()
            assert is_shown.wait(WAIT_S)

    hook.before = before
    spool.writer.append(sample(2_500))
    if how == "make room":
        if has_thread:
            spool.writer.hand_over()
            assert is_at_fsync.wait(WAIT_S)
        spool.writer.append(sample(2_500))
    elif how == "commit":
        spool.writer.commit()
    elif how == "close":
        spool.writer.close()
    assert is_shown.is_set()
    hook.before = None
    spool.writer.commit() if how != "close" else None
    assert spool.ledger().counts.accepted == (2 if how == "make room" else 1)


def test_a_disk_that_stands_still_is_no_slow_one_whoever_waits_shows_each_batch_once(
    tmp_path: Path, hook: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, buffer_bytes=10_000))
    spool.writer.start_committer()
    held = HeldFsync(hook)
    shown: list[int] = []
    spool.on_wait = lambda: shown.append(spool.writer.pending_bytes)
    real, wakes = CommitQueue.wait_for_room, 0

    def wait_for_room(queue: CommitQueue, wait_s: float) -> bool:
        nonlocal wakes
        wakes += 1
        if wakes < 10:  # so often it woke, a second each, and nothing was committed
            return False
        assert len(shown) == 1
        held.let_go()
        return real(queue, wait_s)

    monkeypatch.setattr(CommitQueue, "wait_for_room", wait_for_room)
    for seed in range(3):
        spool.writer.append(sample(4_000, seed=seed))
    assert wakes >= 10
    spool.close()

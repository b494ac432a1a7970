"""An entry counts once sync returned; a journal that failed to sync never counts anything again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation import syscalls
from foundation.errors import CorruptError, RetryLaterError
from foundation.journal import Damage, Journal, JournalEntry, JournalFailedError, scan


def bodies(path: Path) -> list[bytes]:
    with Journal(path) as journal:
        return [entry.body for entry in journal.replay() if isinstance(entry, JournalEntry)]


def failing(code: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_entries_come_back_in_order_with_their_places(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        offsets = [journal.append(kind, b"m", b"body %d" % kind) for kind in range(3)]
        journal.sync()
        assert journal.synced_bytes == journal.size_bytes == (tmp_path / "j").stat().st_size
        entries = list(journal.replay())
    assert [entry.offset for entry in entries if isinstance(entry, JournalEntry)] == offsets
    assert bodies(tmp_path / "j") == [b"body 0", b"body 1", b"body 2"]


def test_a_new_journal_makes_its_own_name_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = syscalls.fsync

    def record(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    monkeypatch.setattr(syscalls, "fsync", record)
    Journal(tmp_path / "j").close()
    assert str(tmp_path) in synced


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.data())
def test_a_torn_tail_is_cut_and_appending_goes_on(
    tmp_path_factory: pytest.TempPathFactory, entries: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "j"
    with Journal(path) as journal:
        for body in entries:
            journal.append(1, b"", body)
        journal.sync()
        ends = [item.end for item in scan(path)]
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    kept = entries[: sum(end <= cut for end in ends)]
    with Journal(path) as journal:
        assert bool(journal.recovered) == (cut not in (0, *ends))
        journal.append(1, b"", b"after")
        journal.sync()
    assert bodies(path) == [*kept, b"after"]
    with Journal(path) as journal:
        assert journal.recovered == ()


def test_damage_in_the_middle_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        for body in (b"one", b"two", b"three"):
            journal.append(1, b"", body)
        journal.sync()
    data = bytearray(path.read_bytes())
    data[data.index(b"two")] ^= 1
    path.write_bytes(data)
    with Journal(path) as journal:
        assert len(journal.recovered) == 1
        assert [type(item) for item in journal.replay()] == [JournalEntry, Damage, JournalEntry]
    assert path.read_bytes() == bytes(data)


def test_a_failed_sync_seals_for_ever_and_nothing_after_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.append(1, b"", b"safe")
    journal.sync()
    journal.append(1, b"", b"unsafe")
    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "fsync", failing(errno.EIO))
        with pytest.raises(JournalFailedError, match="fsync failed"):
            journal.sync()
    assert journal.has_failed
    for again in (journal.sync, lambda: journal.append(1, b"", b"more")):
        with pytest.raises(JournalFailedError):
            again()
    journal.close()
    assert bodies(path) == [b"safe"]
    assert issubclass(JournalFailedError, CorruptError)


def test_a_full_disk_leaves_no_half_frame_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    real = syscalls.write

    def half(fd: int, data: bytes) -> int:
        if len(data) < 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, bytes(data)[: len(data) - 20])

    with Journal(path) as journal:
        journal.append(1, b"", b"first")
        journal.sync()
        before = path.stat().st_size
        with monkeypatch.context() as patch:
            patch.setattr(syscalls, "write", half)
            with pytest.raises(RetryLaterError, match="No space"):
                journal.append(1, b"", b"second" * 10)
        assert path.stat().st_size == before == journal.size_bytes
        journal.append(1, b"", b"third")
        journal.sync()
    assert bodies(path) == [b"first", b"third"]


def test_a_write_that_fails_otherwise_seals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j")
    monkeypatch.setattr(syscalls, "write", failing(errno.EIO))
    with pytest.raises(JournalFailedError, match="write failed"):
        journal.append(1, b"", b"x")
    with pytest.raises(JournalFailedError):
        journal.append(1, b"", b"x")
    journal.close()


def test_a_half_frame_that_cannot_be_removed_seals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j")
    monkeypatch.setattr(syscalls, "write", failing(errno.ENOSPC))
    monkeypatch.setattr(syscalls, "truncate", failing(errno.EIO))
    with pytest.raises(JournalFailedError, match="not removed"):
        journal.append(1, b"", b"x")
    journal.close()


def test_a_sync_with_nothing_new_costs_no_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append(1, b"", b"x")
        journal.sync()
        monkeypatch.setattr(syscalls, "fsync", failing(errno.EIO))
        journal.sync()

"""A file is the old one or the new one after a crash at any step; a lock has one holder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Never

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation import syscalls
from foundation.clock import ManualClock
from foundation.errors import CorruptError, MisconfiguredError, RetryLaterError
from foundation.files import FileLock, read_json, write_atomic, write_json_atomic

STEPS = ("open", "write", "fsync", "rename")


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_step_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(syscalls, step, fail)
    with pytest.raises(OSError, match="broken"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_synced_before_the_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_rename, real_write = syscalls.fsync, syscalls.rename, syscalls.write

    def fsync(fd: int) -> None:
        calls.append("fsync folder" if Path(f"/proc/self/fd/{fd}").resolve().is_dir() else "fsync file")
        real_fsync(fd)

    def rename(source: Path, target: Path) -> None:
        calls.append("rename")
        real_rename(source, target)

    def write(fd: int, data: bytes) -> int:
        calls.append("write")
        return real_write(fd, bytes(data)[:2])  # the system may take less than it is given

    monkeypatch.setattr(syscalls, "fsync", fsync)
    monkeypatch.setattr(syscalls, "rename", rename)
    monkeypatch.setattr(syscalls, "write", write)
    write_atomic(tmp_path / "f", b"12345")
    assert calls == ["write", "write", "write", "fsync file", "rename", "fsync folder"]
    assert (tmp_path / "f").read_bytes() == b"12345"


def test_a_writer_that_is_killed_at_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    code = (
        "import os, signal, sys\n"
        "from foundation import files, syscalls\n"
        "syscalls.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomic(sys.argv[1], b'new' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"


def test_the_mode_is_what_was_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", b"x", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    write_atomic(tmp_path / "open", b"x")
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o644


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(alphabet=st.characters(codec="utf-8")), json_values, max_size=4))
def test_json_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("json") / "f.json"
    write_json_atomic(path, value)
    assert read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_what_is_no_text_in_a_value_is_written_as_its_escape_and_read_again(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "f", {"reason": os.fsdecode(b"/v\xff/x"), "\ud800": "\u00e9"})
    assert read_json(tmp_path / "f") == {"reason": "/v\\udcff/x", "\\ud800": "\u00e9"}


def test_json_has_sorted_keys_and_no_nan(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "f", {"b": 1, "a": [2]})
    assert (tmp_path / "f").read_text() == '{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json_atomic(tmp_path / "f", float("nan"))


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_names_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(CorruptError, match=r"state\.json"):
        read_json(path)


def test_a_held_lock_names_its_holder_and_gives_up_in_time(tmp_path: Path) -> None:
    clock = ManualClock()
    with FileLock(tmp_path / "lock"):
        before_ns = clock.monotonic_ns()
        with (
            pytest.raises(RetryLaterError, match=f"process {os.getpid()}"),
            FileLock(tmp_path / "lock", wait_s=2.0, clock=clock),
        ):
            pass
        assert clock.monotonic_ns() - before_ns == pytest.approx(2e9, rel=0.05)
    with FileLock(tmp_path / "lock"):
        pass


def test_a_lock_is_held_on_a_full_disk_which_takes_no_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process that must free the disk could not start on it."""

    def refuse(*_arguments: object) -> Never:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        with (
            FileLock(tmp_path / "lock"),
            pytest.raises(RetryLaterError, match="is held by process unknown"),
            FileLock(tmp_path / "lock"),
        ):
            pass
    with FileLock(tmp_path / "lock"):
        pass


def test_a_disk_without_room_for_a_new_lock_file_is_no_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> Never:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(syscalls, "open", refuse)
    with pytest.raises(RetryLaterError, match="No space left"), FileLock(tmp_path / "lock"):
        pass


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from foundation.files import FileLock\n"
        "FileLock(sys.argv[1]).__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False)
    assert done.returncode == -9
    with FileLock(tmp_path / "lock"):
        pass


def test_a_lock_in_no_folder_is_a_matter_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="nowhere"), FileLock(tmp_path / "nowhere" / "lock"):
        pass

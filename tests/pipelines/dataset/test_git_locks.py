"""A lock that a killed git left is removed; one that somebody at work may hold is not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from foundation.errors import MisconfiguredError, RetryLaterError
from pipelines.dataset.git_locks import remove_left_behind


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "repo" / ".git" / "refs" / "heads" / "main.lock"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_a_lock_that_nobody_holds_is_removed(lock: Path) -> None:
    root = lock.parents[3]
    assert remove_left_behind(root, 0) == [lock]
    assert not lock.exists()
    assert remove_left_behind(root, 0) == []


def test_a_lock_from_before_the_cut_commit_is_not_its_own(lock: Path) -> None:
    assert remove_left_behind(lock.parents[3], lock.stat().st_ctime_ns + 1) == []
    assert lock.exists()


def test_a_lock_that_another_process_has_open_is_kept_and_the_process_named(lock: Path) -> None:
    with subprocess.Popen(
        ["/bin/sh", "-c", f"exec 9>'{lock}'; echo open; read line"], stdin=-1, stdout=-1
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(RetryLaterError, match=f"process {holder.pid}"):
            remove_left_behind(lock.parents[3], 0)
        holder.communicate()
    assert lock.exists()


def test_a_git_at_work_in_the_folder_keeps_every_lock(lock: Path) -> None:
    """As `git commit` that waits for its user's editor, with the lock closed but held."""
    root = lock.parents[3]
    git = root / "git"
    shutil.copy(shutil.which("cat") or "/bin/cat", git)
    with subprocess.Popen([str(git)], cwd=root, stdin=-1) as holder:
        processes = f"process {holder.pid}, which is git running"
        while not git.samefile(f"/proc/{holder.pid}/exe"):  # between fork and exec
            pass
        with pytest.raises(RetryLaterError, match=processes):
            remove_left_behind(root, 0)
        holder.communicate()
    assert lock.exists()
    assert remove_left_behind(root, 0) == [lock]


def test_where_processes_cannot_be_listed_no_lock_is_removed(lock: Path, tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="remove it if no git is running"):
        remove_left_behind(lock.parents[3], 0, processes=tmp_path / "none")
    assert lock.exists()

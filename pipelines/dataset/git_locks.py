"""Remove lock files that a killed git left behind, but never one that a running process may hold.

A git lock file does not name its holder. So a lock counts as left behind only if it was created after the interrupted
commit began, and if no process of this machine has it open or is a git running in this folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from foundation import syscalls
from foundation.errors import MisconfiguredError, RetryLaterError

_PROCESSES = Path("/proc")


def remove_left_behind(root: Path, since_ns: int, processes: Path = _PROCESSES) -> list[Path]:
    """Remove the lock files below `root`/.git whose status changed at `since_ns` or later, and return them.

    Args:
        root: the folder of the repository.
        since_ns: when the interrupted commit began (ns since 1970, by the file system's clock).
        processes: the procfs folder of the system.

    Raises:
        RetryLaterError: a running process may hold one; nothing was removed.
        MisconfiguredError: this system has no procfs, so the holder cannot be determined.
    """
    locks = [path for path in sorted((root / ".git").rglob("*.lock")) if _is_since(path, since_ns)]
    if not locks:
        return []
    if not processes.is_dir():
        raise MisconfiguredError(f"{locks[0]} may belong to a running git: remove it if no git is running")
    for pid, why in _users(root, {str(path) for path in locks}, processes):
        raise RetryLaterError(
            f"{locks[0]} may belong to process {pid}, which {why}: let it finish, then try again"
        )
    for path in locks:
        syscalls.unlink(path)
    return locks


def _is_since(path: Path, since_ns: int) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_ctime_ns >= since_ns


def _users(root: Path, locks: set[str], processes: Path) -> Iterator[tuple[str, str]]:
    """Yield processes that may hold a lock, with the reason. Unreadable processes of other users cannot write here."""
    for process in processes.iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            name = (process / "comm").read_text().strip()
            if name.startswith("git") and (process / "cwd").readlink().is_relative_to(root.resolve()):
                yield process.name, f"is {name} running in {root}"
            for opened in (process / "fd").iterdir():
                if str(opened.readlink()) in locks:
                    yield process.name, f"is {name} and has it open"
        except OSError:  # it ended, or belongs to another user
            continue

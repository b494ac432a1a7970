"""Lock files that a killed git left behind are removed; one that a living process may hold never is.

A lock of git names nobody. So a lock counts as left behind only when it was made since the commit that was cut began, and
when no process of this machine has it open or is a git at work in this folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from foundation import syscalls
from foundation.errors import MisconfiguredError, RetryLaterError

_PROCESSES = Path("/proc")


def remove_left_behind(root: Path, since_ns: int, processes: Path = _PROCESSES) -> list[Path]:
    """Remove the lock files below `root`/.git whose status changed at `since_ns` or later, and name them.

    Args:
        root: the folder of the repository.
        since_ns: when the commit began that was cut (ns since 1970, as the file system tells it).
        processes: where the system lists its processes.

    Raises:
        RetryLaterError: a process that lives may hold one; nothing was removed.
        MisconfiguredError: this system does not list its processes, so nobody can know.
    """
    locks = [path for path in sorted((root / ".git").rglob("*.lock")) if _is_since(path, since_ns)]
    if not locks:
        return []
    if not processes.is_dir():
        raise MisconfiguredError(f"{locks[0]} may be that of a git at work: remove it when none is")
    for pid, why in _users(root, {str(path) for path in locks}, processes):
        raise RetryLaterError(
            f"{locks[0]} may be that of process {pid}, which {why}: let it end, then try again"
        )
    for path in locks:
        syscalls.unlink(path)
    return locks


def _is_since(path: Path, since_ns: int) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_ctime_ns >= since_ns


def _users(root: Path, locks: set[str], processes: Path) -> Iterator[tuple[str, str]]:
    """Processes that may hold a lock, and why. Those of other people, which may not be looked at, cannot write here."""
    for process in processes.iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            name = (process / "comm").read_text().strip()
            if name.startswith("git") and (process / "cwd").readlink().is_relative_to(root.resolve()):
                yield process.name, f"is {name} at work in {root}"
            for opened in (process / "fd").iterdir():
                if str(opened.readlink()) in locks:
                    yield process.name, f"is {name} and has it open"
        except OSError:  # it ended meanwhile, or is somebody else's
            continue

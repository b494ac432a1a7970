"""Folders and files that only their owner may read: made so, and made so again where they existed before.

Only the owner of a folder can do that, so nothing is done about a folder of somebody else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from foundation.errors import MisconfiguredError

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
OTHERS: Final = 0o077
PASSAGE: Final = 0o011
"""The rights of others that only let them pass to a folder below whose name they know."""


def private_umask() -> None:
    """Let everything that this process and its children make from now on be for their owner alone; for daemons."""
    os.umask(OTHERS)


def make_private(folder: Path) -> None:
    """Make `folder` with mode 0700; one that exists already gets that mode.

    Raises:
        MisconfiguredError: it cannot be made, or others could read it and that cannot be changed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    except OSError as error:
        raise MisconfiguredError(f"cannot make {folder}: {error.strerror}") from error
    close_to_others(folder)


def close_to_others(folder: Path, *, allowed: int = 0) -> None:
    """Take the rights of group and others from a folder of this account, unless they are within `allowed`.

    A link is not followed, and a folder that is missing is left alone.

    Raises:
        MisconfiguredError: the system refused; names the folder, its mode and the command.
    """
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or not mode & OTHERS & ~allowed:
        return
    why = "the file system keeps no modes"
    try:
        folder.chmod(mode & ~OTHERS)
        if not folder.lstat().st_mode & OTHERS:
            return
    except OSError as error:
        why = str(error.strerror)
    raise MisconfiguredError(
        f"{folder} has mode {mode:04o}, so other accounts can read it and hold its locks, and that cannot be changed"
        f" ({why}): run `chmod 700 {folder}`, or use a folder on another file system"
    )


def close_tree_to_others(folder: Path) -> int:
    """Take the rights of group and others from everything of this account below `folder`; return how many were changed.

    Links are not followed. What is removed meanwhile, or refused by the system, is left: the folder itself is closed.
    """
    changed = 0
    for entry in _below(folder):
        try:
            found = entry.stat(follow_symlinks=False)
            mode = stat.S_IMODE(found.st_mode)
            if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or not mode & OTHERS:
                continue
            Path(entry.path).chmod(mode & ~OTHERS)
            changed += 1
        except OSError:
            continue
    return changed


def _below(folder: Path) -> list[os.DirEntry[str]]:
    found: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                found.append(entry)
                if entry.is_dir(follow_symlinks=False):
                    found += _below(Path(entry.path))
    except OSError:
        return found
    return found

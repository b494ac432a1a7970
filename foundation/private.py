"""Folders and files that only their owner may read: made so, and made so again where they existed before.

Only the owner of a folder can do that, so nothing is done about a folder of somebody else.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Closed:
    """What `close_tree_to_others` did: how many files and folders it closed, and how many it could not."""

    changed: int = 0
    refused: int = 0
    """The system refused to list, look at or change them, or they are another account's and open."""
    first_refused: str = ""
    """One of these, with the system's reason."""

    def __str__(self) -> str:
        return (
            f"{self.refused} files or folders stay open to other accounts, or could not be looked into: {self.first_refused}"
            if self.refused
            else f"{self.changed} files or folders were closed to other accounts"
        )


def close_tree_to_others(folder: Path) -> Closed:
    """Take the rights of group and others from everything of this account below `folder`.

    Links are not followed, and what is removed meanwhile is left out. What the system refuses is counted; the folder itself
    is closed, so that nobody comes to it.
    """
    changed = 0
    refused: list[str] = []
    for entry in _below(folder, refused):
        try:
            found = entry.stat(follow_symlinks=False)
            mode = stat.S_IMODE(found.st_mode)
            if stat.S_ISLNK(found.st_mode) or not mode & OTHERS:
                continue
            if found.st_uid != os.geteuid():
                refused.append(f"{entry.path}: of account {found.st_uid}, mode {mode:04o}")
                continue
            Path(entry.path).chmod(mode & ~OTHERS)
            if Path(entry.path).lstat().st_mode & OTHERS:
                refused.append(f"{entry.path}: the file system keeps no modes")
                continue
            changed += 1
        except FileNotFoundError:
            continue
        except OSError as error:
            refused.append(f"{entry.path}: {error.strerror}")
    return Closed(changed, len(refused), refused[0] if refused else "")


def _below(folder: Path, refused: list[str]) -> list[os.DirEntry[str]]:
    found: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                found.append(entry)
                if entry.is_dir(follow_symlinks=False):
                    found += _below(Path(entry.path), refused)
    except FileNotFoundError:
        return found
    except OSError as error:
        refused.append(f"{folder}: {error.strerror}")
    return found

"""List the regular files below a folder in natural order (img2 before img10).

Symbolic links are not followed; pipes, sockets and devices are never opened. They are counted by kind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from connectors.sensors.ports import SourceNote
from foundation.errors import MisconfiguredError
from schemas.limits import MAX_TEXT_CHARS

MAX_DEPTH: Final = 64
LINK: Final = "left out: a symbolic link, which is not followed"
NO_FILE: Final = "left out: no regular file (a pipe, a socket or a device)"
UNLISTED: Final = "left out: a folder that cannot be listed"
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A regular file. `name` is its path below the folder with "/", printable and at most 256 characters long."""

    path: Path
    name: str
    drive: str
    size_bytes: int
    modified_ns: int
    is_settled: bool = True

    def settled_since(self, before: Mapping[str, tuple[int, int]]) -> ListedFile:
        """Return the file, settled if the previous listing found it with the same size and modification time."""
        return replace(self, is_settled=before.get(self.name) == (self.size_bytes, self.modified_ns))


class FolderListing:
    """One listing of a folder. `left_out` counts, by kind, entries that are not regular files."""

    def __init__(self, folder: Path) -> None:
        self.left_out: dict[str, SourceNote] = {}
        self._folder = folder

    def read(self) -> list[ListedFile]:
        """Return all regular files in natural order. Raises MisconfiguredError if the folder cannot be listed."""
        return sorted(self._walk(self._folder, ()), key=lambda file: natural_key(file.name))

    def _walk(self, folder: Path, parts: tuple[str, ...]) -> Iterator[ListedFile]:
        if len(parts) > MAX_DEPTH:
            self._leave_out(UNLISTED, printable("/".join(parts)))
            return
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError as error:
            if not parts:
                raise MisconfiguredError(f"cannot list {folder}: {error.strerror}") from error
            self._leave_out(UNLISTED, printable("/".join(parts)))
            return
        for entry in entries:
            name = "/".join((*parts, entry.name))
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # it was removed after the listing
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(Path(entry.path), (*parts, entry.name))
            elif stat.S_ISREG(status.st_mode):
                drive = printable(parts[0]) if parts else ""
                yield ListedFile(Path(entry.path), printable(name), drive, status.st_size, status.st_mtime_ns)
            else:
                self._leave_out(LINK if stat.S_ISLNK(status.st_mode) else NO_FILE, printable(name))

    def _leave_out(self, kind: str, name: str) -> None:
        note = self.left_out.get(kind)
        self.left_out[kind] = SourceNote(note.count + 1, note.first) if note else SourceNote(1, name)


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a sort key that compares numbers by value, and puts a folder before names that it is a prefix of."""
    parts = []
    for part in name.split("/"):
        pieces = _DIGITS.split(part)
        parts.append(
            tuple((0, int(piece), "") if number % 2 else (1, 0, piece) for number, piece in enumerate(pieces))
        )
    flat = tuple(piece for part in parts for piece in (*part, (-1, 0, "")))
    return flat, name


def printable(name: str) -> str:
    """Return a name that can be stored: invalid UTF-8 is escaped as `\\xff`, and a long name is shortened with a hash."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    if len(text) <= MAX_TEXT_CHARS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text[:180]}~{digest}~{text[-40:]}"


def read_regular(path: Path, most_bytes: int, *, cut: bool = False) -> bytes:
    """Return the bytes of a regular file, without blocking on a pipe or following a symbolic link.

    Args:
        path: the file.
        most_bytes: the most bytes to read. A larger file is refused, or cut off if `cut` is set.
        cut: whether the first `most_bytes` bytes are enough.

    Raises:
        OSError: it cannot be opened, is not a regular file, or is larger than `most_bytes`.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size > most_bytes and not cut:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, the limit is {most_bytes}")
        return file.read(most_bytes)

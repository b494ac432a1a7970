"""An append-only journal of frames: an entry counts once `sync` has returned; after a failed sync no write is taken.

One process writes it; others may `scan` it. After a failed fsync it takes no more writes, because the kernel may have
dropped the pages and a second fsync would report success ("fsyncgate", PostgreSQL 2018).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from foundation import syscalls
from foundation.errors import CorruptError, RetryLaterError
from foundation.files import fsync_folder
from foundation.framing import (
    Buffer,
    Damage,
    Frame,
    FrameHeader,
    ScannedFrame,
    encode_frame,
    read_body,
    scan,
)

__all__ = [
    "Buffer",
    "Damage",
    "Frame",
    "FrameHeader",
    "Journal",
    "JournalEntry",
    "JournalFailedError",
    "ScannedFrame",
    "encode_frame",
    "read_body",
    "scan",
]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class JournalFailedError(CorruptError):
    """This journal takes no more writes because a sync or a repair failed. Synced entries stay readable."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One appended frame and its offset."""

    offset: int
    kind: int
    meta: bytes
    body: bytes


class Journal:
    """An append-only file of frames.

    Opening creates the file durably, or truncates a torn tail; `recovered` lists the damage found.

    Raises:
        CorruptError: the file cannot be read.
        OSError: the file cannot be created or opened.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._failure = ""
        is_new = not self._path.exists()
        self._fd = syscalls.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            self.recovered = self._recover()
            self._size_bytes = os.fstat(self._fd).st_size
            self._synced_bytes = self._size_bytes
            if is_new:
                fsync_folder(self._path.parent)
        except BaseException:
            syscalls.close(self._fd)
            raise

    def _recover(self) -> tuple[Damage, ...]:
        """Return the damage in the file after truncating a torn tail, and sync the rest so that it counts."""
        damage = tuple(item for item in scan(self._fd) if isinstance(item, Damage))
        size_bytes = os.fstat(self._fd).st_size
        if damage and damage[-1].end == size_bytes:
            syscalls.truncate(self._fd, damage[-1].begin)
        if size_bytes:
            syscalls.fsync(self._fd)
        return damage

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._path

    @property
    def size_bytes(self) -> int:
        """Size in bytes, synced or not."""
        return self._size_bytes

    @property
    def synced_bytes(self) -> int:
        """Size in bytes that a sync covered; readers in other processes read up to here."""
        return self._synced_bytes

    @property
    def has_failed(self) -> bool:
        """Whether a sync or repair failed, so that only reading and closing are possible."""
        return bool(self._failure)

    def append(self, kind: int, meta: Buffer, body: Buffer) -> int:
        """Append a frame and return its offset; the entry does not count before `sync`.

        Raises:
            RetryLaterError: the disk is full; nothing of the frame is left in the file.
            JournalFailedError: an earlier sync failed, or this write left the file in an unknown state.
            RejectedError: kind, meta or body is out of bounds.
        """
        return self.append_encoded(encode_frame(kind, meta, body))

    def append_encoded(self, frame: Buffer) -> int:
        """Append the bytes of one or more frames from `encode_frame`; otherwise as `append`."""
        self._check_open()
        offset = self._size_bytes
        try:
            syscalls.write_all(self._fd, frame)
        except OSError as error:
            self._undo(offset, error)
            raise RetryLaterError(
                f"{self._path}: {len(frame)} bytes not written: {error.strerror}"
            ) from error
        self._size_bytes = offset + len(frame)
        return offset

    def _undo(self, offset: int, cause: OSError) -> None:
        """Remove a partial frame; if the state of the file is unknown then, refuse every later write."""
        try:
            syscalls.truncate(self._fd, offset)
        except OSError as error:
            self._fail(f"a frame was half written and not removed: {error.strerror}", cause)
        if cause.errno not in _FULL:
            self._fail(f"write failed: {cause.strerror}", cause)

    def sync(self) -> None:
        """Return once everything appended is on disk.

        Raises:
            JournalFailedError: a sync failed, now or before. The journal takes no more writes; entries after
                `synced_bytes` do not count and are truncated if possible.
        """
        self._check_open()
        if self._synced_bytes == self._size_bytes:
            return
        size_bytes = self._size_bytes
        try:
            syscalls.fsync(self._fd)
        except OSError as error:
            try:
                syscalls.truncate(self._fd, self._synced_bytes)
            except OSError:
                pass  # the journal fails below in either case
            self._fail(f"fsync failed: {error.strerror}", error)
        self._synced_bytes = size_bytes

    def _fail(self, why: str, cause: OSError) -> None:
        self._failure = why
        raise JournalFailedError(
            f"closed to writes: {why}", path=self._path, offset_bytes=self._synced_bytes
        ) from cause

    def _check_open(self) -> None:
        if self._failure:
            raise JournalFailedError(
                f"closed to writes: {self._failure}", path=self._path, offset_bytes=self._synced_bytes
            )

    def replay(self) -> Iterator[JournalEntry | Damage]:
        """Yield all entries in order, bodies checked, and damage where it lies. Raises CorruptError."""
        for item in scan(self._fd):
            if isinstance(item, Damage):
                yield item
            else:
                yield JournalEntry(item.offset, item.kind, item.meta, read_body(self._fd, item))

    def close(self) -> None:
        """Close the file without syncing it."""
        if self._fd >= 0:
            syscalls.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

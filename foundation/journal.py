"""An append-only file of frames: an entry counts once `sync` returned, and after a failed one none does.

Written by one process only; others may `scan` it. Refuses to go on after a failed fsync: the kernel may have
dropped the pages and a second fsync would claim success (fsyncgate, PostgreSQL 2018).
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
    "ScannedFrame",
    "SealedError",
    "encode_frame",
    "read_body",
    "scan",
]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class SealedError(CorruptError):
    """This journal accepts nothing more: a sync or a repair failed. What was synced before stays readable."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One frame as it was appended, and its place."""

    offset: int
    kind: int
    meta: bytes
    body: bytes


class Journal:
    """Frames appended to one file.

    Opening creates the file (durably) or cuts a torn tail off it; `recovered` says what was found damaged.

    Raises:
        CorruptError: the file cannot be read.
        OSError: the file cannot be created or opened.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._sealed = ""
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
        """Damage in the file; a torn tail is cut off. The rest is synced, so that it may count."""
        damage = tuple(item for item in scan(self._fd) if isinstance(item, Damage))
        size_bytes = os.fstat(self._fd).st_size
        if damage and damage[-1].end == size_bytes:
            syscalls.truncate(self._fd, damage[-1].begin)
        if size_bytes:
            syscalls.fsync(self._fd)
        return damage

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def size_bytes(self) -> int:
        """Bytes appended, synced or not."""
        return self._size_bytes

    @property
    def synced_bytes(self) -> int:
        """Bytes that a sync covered: a reader of another process looks no further than this."""
        return self._synced_bytes

    @property
    def is_sealed(self) -> bool:
        """Whether it refuses everything but reading and closing."""
        return bool(self._sealed)

    def append(self, kind: int, meta: Buffer, body: Buffer) -> int:
        """The offset of the new frame, which does not count before `sync`.

        Raises:
            RetryLaterError: the disk is full; nothing of the frame is left in the file.
            SealedError: an earlier sync failed, or this write failed in a way that leaves the file unknown.
            RejectedError: kind, meta or body is out of bounds.
        """
        return self.append_encoded(encode_frame(kind, meta, body))

    def append_encoded(self, frame: Buffer) -> int:
        """As `append`, for the bytes that `encode_frame` gave (also several frames at once)."""
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
        """Leave no half frame behind; where that cannot be known, seal."""
        try:
            syscalls.truncate(self._fd, offset)
        except OSError as error:
            self._seal(f"a frame was half written and not removed: {error.strerror}", cause)
        if cause.errno not in _FULL:
            self._seal(f"write failed: {cause.strerror}", cause)

    def sync(self) -> None:
        """Return once everything appended is on the disk.

        Raises:
            SealedError: it failed now or before. The journal is sealed for ever; entries after
                `synced_bytes` never counted and are cut off where the disk still allows it.
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
                pass  # sealed below in either case
            self._seal(f"fsync failed: {error.strerror}", error)
        self._synced_bytes = size_bytes

    def _seal(self, why: str, cause: OSError) -> None:
        self._sealed = why
        raise SealedError(f"sealed: {why}", path=self._path, offset_bytes=self._synced_bytes) from cause

    def _check_open(self) -> None:
        if self._sealed:
            raise SealedError(f"sealed: {self._sealed}", path=self._path, offset_bytes=self._synced_bytes)

    def replay(self) -> Iterator[JournalEntry | Damage]:
        """Everything in the file, in order, bodies checked; damage where it lies. Raises CorruptError."""
        for item in scan(self._fd):
            if isinstance(item, Damage):
                yield item
            else:
                yield JournalEntry(item.offset, item.kind, item.meta, read_body(self._fd, item))

    def close(self) -> None:
        """Give the file back. Syncs nothing: call `sync` for what shall count."""
        if self._fd >= 0:
            syscalls.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

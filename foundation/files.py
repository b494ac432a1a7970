"""Atomic file replacement: after a crash at any moment a file holds its old or its new content, complete.

Steps: temporary file in the same folder, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from foundation import syscalls
from foundation.clock import Clock, SystemClock
from foundation.documents import DocumentType, parse_json
from foundation.errors import CorruptError, MisconfiguredError, RetryLaterError
from foundation.private import FILE_MODE, OTHERS

T = TypeVar("T")
_LOCK_POLL_S = 0.05
_PIECE_BYTES = 1024 * 1024
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_FILE_BYTES = 512 * 1024 * 1024
"""Bound of a JSON file; it holds the reports of a fleet of several hundred thousand vehicles."""


_DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


def is_disk_trouble(error: OSError) -> bool:
    """Return whether the disk is full, over a quota or fails: it may pass, and no setting is wrong."""
    return error.errno in _DISK_TROUBLE


def fsync_folder(path: Path | str) -> None:
    """Sync folder `path`, which makes renamed and new files in it durable. Raises OSError, which names the folder."""
    fd = syscalls.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with naming_file(path):
            syscalls.fsync(fd)
    finally:
        syscalls.close(fd)


@contextmanager
def naming_file(path: Path | str) -> Iterator[None]:
    """Give an OSError inside, which came of a descriptor, the name of the file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_atomic(path: Path | str, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the content of `path` by `data` atomically; durable once this returns.

    Raises:
        OSError: writing failed; the old file is unchanged and the temporary file is removed (unless that failed too).
    """
    _replace(Path(path), [data], mode)


def copy_atomic(source: Path, target: Path, *, mode: int = 0o644) -> str:
    """Make `target` a copy of a file of any size, a piece at a time, as durable as `write_atomic`. Returns its sha256.

    Raises:
        OSError: it cannot be read, or the disk refused; `target` is as it was.
    """
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
            yield piece

    with naming_file(source), source.open("rb") as stream:
        _replace(target, pieces(), mode)
    return digest.hexdigest()


def _replace(target: Path, pieces: Iterable[bytes], mode: int) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    fd = syscalls.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            os.fchmod(fd, mode)
            for piece in pieces:
                syscalls.write_all(fd, piece)
            syscalls.fsync(fd)
        finally:
            syscalls.close(fd)
        syscalls.rename(temporary, target)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:  # of the descriptor
            error.filename = str(target)
        with suppress(OSError):  # the first failure is the one to report
            syscalls.unlink(temporary)
        raise
    fsync_folder(target.parent)


def write_json_atomic(path: Path | str, obj: object, *, mode: int = 0o644) -> None:
    """Write `json_bytes` of a value with `write_atomic`."""
    write_atomic(path, json_bytes(obj), mode=mode)


def json_bytes(obj: object) -> bytes:
    """Encode JSON: sorted keys, indent 2, a final newline. Raises ValueError for NaN and infinities.

    A lone surrogate, as Python produces for a path that is not UTF-8, is written as the text of its escape (backslash,
    udcff), so that the file is valid UTF-8.
    """
    text = json.dumps(obj, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = _SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text).encode()
    return data + b"\n"


def write_document(path: Path | str, kind: DocumentType[Any], document: object, *, mode: int = 0o644) -> None:
    """`write_json_atomic` of a document in the newest version of its kind."""
    write_json_atomic(path, kind.tree(document), mode=mode)


def read_document(path: Path | str, kind: DocumentType[T]) -> T:
    """Return the document that a JSON file holds, in whichever released version.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptError: it is not such a document; names the file, the place, the value and the bound.
    """
    corrupt = partial(CorruptError, path=path)
    return kind.read(_bounded(path, kind.max_bytes), family=corrupt)


def read_json(path: Path | str) -> object:
    """Read a JSON file into plain values.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptError: it is not JSON within the bounds of `foundation.documents`; names the file and the location.
    """
    corrupt, most = partial(CorruptError, path=path), MAX_FILE_BYTES
    value: object = parse_json(_bounded(path, most), "it", family=corrupt, max_bytes=most)
    return value


def _bounded(path: Path | str, max_bytes: int) -> bytes:
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise CorruptError(f"has {size} bytes; at most {max_bytes} are read", path=path)
        return file.read()


class FileLock:
    """An exclusive lock between processes (fcntl.flock), which the kernel releases when its holder dies.

    Only its owner can open the file, so that no other account can hold the lock.

    Args:
        path: the lock file; it holds the pid of its last holder and is never removed.
        wait_s: how long to wait for another holder; 0 tries once.

    Raises on entering:
        RetryLaterError: another process holds it (names its pid), or the disk has no room for a new lock file.
        MisconfiguredError: the lock file cannot be opened.
    """

    def __init__(self, path: Path | str, *, wait_s: float = 0.0, clock: Clock | None = None) -> None:
        self._path = Path(path)
        self._wait_s = wait_s
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._fd: int | None = None

    def __enter__(self) -> Self:
        try:
            fd = syscalls.open(self._path, os.O_RDWR | os.O_CREAT, FILE_MODE)
        except OSError as error:
            kind = RetryLaterError if is_disk_trouble(error) else MisconfiguredError
            raise kind(f"cannot open the lock {self._path}: {error.strerror}") from error
        with suppress(OSError):  # a lock of another account, or on a file system without modes
            if os.fstat(fd).st_mode & OTHERS:  # of an earlier release: who may read a file may hold its lock
                os.fchmod(fd, FILE_MODE)
        try:
            self._take(fd)
        except OSError as error:
            os.close(fd)
            raise RetryLaterError(f"cannot take the lock {self._path}: {error.strerror}") from error
        except BaseException:
            os.close(fd)
            raise
        # Why suppressed? On a full disk there is no room for the pid, which is only told to those who wait.
        with suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return self

    def _take(self, fd: int) -> None:
        deadline_ns = self._clock.monotonic_ns() + round(self._wait_s * 1e9)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if self._clock.monotonic_ns() >= deadline_ns:
                    holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    raise RetryLaterError(
                        f"{self._path} is held by process {holder}; waited {self._wait_s} s"
                    ) from error
                self._clock.sleep(_LOCK_POLL_S)

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)  # closing releases the lock
            self._fd = None

"""Atomic file replacement: after any crash a file holds its old or its new content, whole.

Temporary file in the same folder, fsync, rename, fsync of the folder. Damaged content is never repaired by
guessing.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from pathlib import Path
from types import TracebackType
from typing import Self

from foundation import syscalls
from foundation.clock import Clock, SystemClock
from foundation.documents import parse_json
from foundation.errors import CorruptError, MisconfiguredError, RetryLaterError

_LOCK_POLL_S = 0.05
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_FILE_BYTES = 512 * 1024 * 1024
"""Of a JSON file of our own: what a fleet of hundreds of thousands of vehicles said fits."""


def fsync_folder(path: Path | str) -> None:
    """Make the names in folder `path` durable; a rename or a new file is not before. Raises OSError."""
    fd = syscalls.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syscalls.fsync(fd)
    finally:
        syscalls.close(fd)


def write_atomic(path: Path | str, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`: old or new after a crash at any instant, durable once this returns.

    Raises:
        OSError: the disk refused; the old file is still there and no temporary file is left (unless even
            removing it failed).
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    fd = syscalls.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            os.fchmod(fd, mode)
            syscalls.write_all(fd, data)
            syscalls.fsync(fd)
        finally:
            syscalls.close(fd)
        syscalls.rename(temporary, target)
    except BaseException:
        try:
            syscalls.unlink(temporary)
        except OSError:
            pass  # the first failure is the one to report
        raise
    fsync_folder(target.parent)


def write_json_atomic(path: Path | str, obj: object, *, mode: int = 0o644) -> None:
    """`write_atomic` of JSON: sorted keys, indent 2, a newline at the end. Not a number is refused.

    A lone surrogate, such as Python makes of a path that is not UTF-8, is no text: it is written as the six characters
    of its escape (backslash, udcff), so that it can be read again.
    """
    text = json.dumps(obj, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = _SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text).encode()
    write_atomic(path, data + b"\n", mode=mode)


def read_json(path: Path | str) -> object:
    """What the JSON file holds.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptError: it is not JSON within the bounds of `foundation.documents`; names the file and the place.
    """

    def corrupt(message: str) -> CorruptError:
        return CorruptError(message, path=path)

    value: object = parse_json(Path(path).read_bytes(), "it", family=corrupt, max_bytes=MAX_FILE_BYTES)
    return value


class FileLock:
    """One holder at a time, between processes, released by the kernel when its holder dies (fcntl.flock).

    Args:
        path: the lock file; it holds the pid of its last holder and is never removed.
        wait_s: how long to wait for another holder; 0 tries once.

    Raises on entering:
        RetryLaterError: another process holds it (names its pid), or the disk refuses the pid of this one.
        MisconfiguredError: the lock file cannot be opened.
    """

    def __init__(self, path: Path | str, *, wait_s: float = 0.0, clock: Clock | None = None) -> None:
        self._path = Path(path)
        self._wait_s = wait_s
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._fd: int | None = None

    def __enter__(self) -> Self:
        try:
            fd = syscalls.open(self._path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise MisconfiguredError(f"cannot open the lock {self._path}: {error.strerror}") from error
        try:
            self._take(fd)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(fd)
            raise RetryLaterError(f"cannot write the lock {self._path}: {error.strerror}") from error
        except BaseException:
            os.close(fd)
            raise
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)  # closing gives the lock back
            self._fd = None

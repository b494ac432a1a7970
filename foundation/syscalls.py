"""The system calls for changes to files that must survive a crash, as a seam for tests.

A test replaces one (`monkeypatch.setattr(syscalls, "fsync", ...)`) to record the order of calls or to make one fail, so
callers use `syscalls.fsync(fd)` and never `from ... import fsync`. Nothing here retries.
"""

from __future__ import annotations

import os
from pathlib import Path


def open(path: str | Path, flags: int, mode: int = 0o644) -> int:  # noqa: A001 - named as the system call is
    """Open a file close-on-exec and return its descriptor. Raises OSError."""
    return os.open(path, flags | os.O_CLOEXEC, mode)


def write(fd: int, data: bytes | bytearray | memoryview) -> int:
    """Write and return the number of bytes written, which may be fewer than given. Raises OSError."""
    return os.write(fd, data)


def fsync(fd: int) -> None:
    """Return once the bytes of `fd` are on disk; after a failure their state is unknown. Raises OSError."""
    os.fsync(fd)


def rename(source: str | Path, target: str | Path) -> None:
    """Replace `target` by `source` atomically. Raises OSError."""
    os.replace(source, target)  # noqa: PTH105 - the seam is one system call deep


def unlink(path: str | Path) -> None:
    """Remove a file. Raises OSError."""
    os.unlink(path)  # noqa: PTH108


def truncate(fd: int, length_bytes: int) -> None:
    """Truncate the file, or extend it with zeros, to `length_bytes`. Raises OSError."""
    os.ftruncate(fd, length_bytes)


def close(fd: int) -> None:
    """Close the descriptor. Raises OSError."""
    os.close(fd)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all bytes, in as many calls as needed. Raises OSError; a part may then be in the file."""
    written = write(fd, data)
    if written == len(data):
        return
    rest = memoryview(data)[written:]
    while rest:
        rest = rest[write(fd, rest) :]

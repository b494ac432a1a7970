"""Every change to a file that must survive a crash goes through these few functions, one system call each.

They are a seam: a test replaces one (`monkeypatch.setattr(syscalls, "fsync", ...)`) to record the order of
calls or to fail one of them. Callers use `syscalls.fsync(fd)`, never `from ... import fsync`. Nothing here retries.
"""

from __future__ import annotations

import os
from pathlib import Path


def open(path: str | Path, flags: int, mode: int = 0o644) -> int:  # noqa: A001 - named as the system call is
    """A file descriptor, close-on-exec. Raises OSError."""
    return os.open(path, flags | os.O_CLOEXEC, mode)


def write(fd: int, data: bytes | bytearray | memoryview) -> int:
    """Bytes written, which may be fewer than given. Raises OSError."""
    return os.write(fd, data)


def fsync(fd: int) -> None:
    """Return once the bytes of `fd` are on the disk; after a failure nothing is known. Raises OSError."""
    os.fsync(fd)


def rename(source: str | Path, target: str | Path) -> None:
    """Replace `target` by `source` in one step. Raises OSError."""
    os.replace(source, target)  # noqa: PTH105 - the seam is one system call deep


def unlink(path: str | Path) -> None:
    """Remove one name. Raises OSError."""
    os.unlink(path)  # noqa: PTH108


def truncate(fd: int, length_bytes: int) -> None:
    """Cut (or extend with zeros) the file to `length_bytes`. Raises OSError."""
    os.ftruncate(fd, length_bytes)


def close(fd: int) -> None:
    """Give the descriptor back. Raises OSError."""
    os.close(fd)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte, in as many calls as it takes. Raises OSError; then a part may be in the file."""
    written = write(fd, data)
    if written == len(data):
        return
    rest = memoryview(data)[written:]
    while rest:
        rest = rest[write(fd, rest) :]

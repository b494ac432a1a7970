"""The heartbeat of a process: a few numbers in a memory-mapped file.

A beat is a store to memory: it needs no room on the disk and never waits for it, so a process on a full or slow disk
does not look hung. The supervisor reads the file and compares the numbers; no clock is compared.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from foundation.clock import Clock

_LAYOUT = struct.Struct("<QQQQ")
"""pid, number of beats, monotonic time in ns, activity."""


class Activity(IntEnum):
    """What a process is doing; it decides how long the process may be silent, and what is blamed for a hang or a crash."""

    STARTING = 0
    WORKING = 1
    MODEL = 2
    """A model computes an answer."""
    LOADING = 3
    """A model is verified, loaded or swapped."""
    DISK = 4
    """The disk is waited for: a commit, room in the spool, a source that is opened. No restart makes it faster."""


MODEL_AT_WORK = frozenset({Activity.MODEL, Activity.LOADING})
"""A crash or a hang in one of these is blamed on the model."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The last heartbeat of a process."""

    pid: int
    count: int
    monotonic_ns: int
    activity: Activity


class Heartbeat:
    """Written by one thread of one process. Without a file (a full disk) it does nothing: `error` says why."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._words: memoryview | None = None
        self._count = 0
        self.error = ""
        try:
            self._words = map_file(path, _LAYOUT.size).cast("Q")
        except OSError as error:
            self.error = f"{path}: {error.strerror}"
            return
        self._words[0] = os.getpid()
        self.beat(Activity.STARTING)

    def beat(self, activity: Activity = Activity.WORKING) -> None:
        """Record that the process is alive, and what it is doing."""
        if self._words is None:
            return
        self._count += 1
        self._words[3] = activity
        self._words[2] = self._clock.monotonic_ns()
        self._words[1] = self._count


def read_beat(path: Path) -> Beat | None:
    """Return the last heartbeat in the file; None without one, or when it is not such a file."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) != _LAYOUT.size:
        return None
    pid, count, monotonic_ns, activity = _LAYOUT.unpack(data)
    try:
        return Beat(pid, count, monotonic_ns, Activity(activity))
    except ValueError:
        return None


def map_file(path: Path, size_bytes: int) -> memoryview:
    """Replace the file by zeros, mapped into memory: a reader of the old file sees no change. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        # Why not a sparse file? A store to a page without a block on a full disk ends the process (SIGBUS).
        os.posix_fallocate(descriptor, 0, size_bytes)
        mapped = mmap.mmap(descriptor, size_bytes)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return memoryview(mapped)

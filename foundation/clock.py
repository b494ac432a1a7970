"""The clock port: time is injected, so that tests never wait and clock jumps can be simulated.

Wall time (`now_ns`) may jump by decades on a vehicle; only monotonic time measures how long something took,
and only within one `boot_id`. This module never orders anything by wall time.
"""

from __future__ import annotations

import threading
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Wall time, monotonic time and waiting."""

    def now_ns(self) -> int:
        """Wall time: nanoseconds since 1970 in UTC. May jump either way."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some instant of this boot. Never goes back; not comparable between boots."""

    def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time (at once when it is not positive)."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Whether `event` was set within `seconds`."""


class SystemClock:
    """The clocks of this machine."""

    def now_ns(self) -> int:
        """Wall time in nanoseconds."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Monotonic time in nanoseconds."""
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        if seconds > 0:
            time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block until the event or the time is there."""
        return event.wait(max(0.0, seconds))


class ManualClock:
    """A clock that moves only when it is told to, or slept on. Safe to share between threads."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000, monotonic_ns: int = 1_000_000_000) -> None:
        self._lock = threading.Lock()
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns

    def now_ns(self) -> int:
        """Wall time as last set."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Monotonic time as last set."""
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Let `seconds` (not negative) pass on both clocks."""
        step_ns = max(0, round(seconds * 1e9))
        with self._lock:
            self._now_ns += step_ns
            self._monotonic_ns += step_ns

    def jump_wall(self, seconds: float) -> None:
        """Move wall time only, either way, as a late time synchronisation does."""
        with self._lock:
            self._now_ns += round(seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        """Advance instead of blocking."""
        self.advance(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Advance by the whole time unless the event is set already."""
        if not event.is_set():
            self.advance(seconds)
        return event.is_set()


@cache
def boot_id() -> str:
    """An id (32 lower hex characters) that changes with every boot of this machine.

    Where the kernel gives none, a random id is drawn per process: monotonic times are then never compared
    between processes.
    """
    try:
        return _BOOT_ID.read_text("ascii").strip().replace("-", "")
    except OSError:
        return uuid.uuid4().hex

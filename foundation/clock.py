"""The clock port: injected time, so that tests never wait and can simulate clock jumps.

Wall time (`now_ns`) may jump by decades on a vehicle; only monotonic time measures durations, and only within one
`boot_id`.
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
        """Return wall time in nanoseconds since 1970 (UTC). It may jump in either direction."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds since an instant of this boot. Never decreases; not comparable between boots."""

    def sleep(self, seconds: float) -> None:
        """Block for `seconds` of monotonic time; return at once if it is not positive."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait up to `seconds` for `event` and return whether it was set."""


class SystemClock:
    """The system clocks of this machine."""

    def now_ns(self) -> int:
        """Return wall time in nanoseconds."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return monotonic time in nanoseconds."""
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """Block this thread for `seconds`."""
        if seconds > 0:
            time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block until the event is set or the time is over."""
        return event.wait(max(0.0, seconds))


class ManualClock:
    """A clock that advances only by `advance`, `sleep` and `wait`. Thread-safe."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000, monotonic_ns: int = 1_000_000_000) -> None:
        self._lock = threading.Lock()
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns

    def now_ns(self) -> int:
        """Return wall time as last set."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Return monotonic time as last set."""
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Advance both clocks by `seconds`, which is not negative."""
        step_ns = max(0, round(seconds * 1e9))
        with self._lock:
            self._now_ns += step_ns
            self._monotonic_ns += step_ns

    def jump_wall(self, seconds: float) -> None:
        """Shift wall time only, in either direction, as a late time synchronisation does."""
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
    """Return an id of 32 lower-case hex characters that changes with every boot of this machine.

    If the kernel provides none, each process draws a random id, so that monotonic times of two processes are never
    compared.
    """
    try:
        return _BOOT_ID.read_text("ascii").strip().replace("-", "")
    except OSError:
        return uuid.uuid4().hex

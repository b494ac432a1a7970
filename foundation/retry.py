"""Jittered delays between two tries, and a deadline in monotonic time."""

from __future__ import annotations

import random

from foundation.clock import Clock
from foundation.errors import DeadlineError, MisconfiguredError


class Backoff:
    """Exponential back-off with full jitter: delays drawn from [0, min(max_s, first_s * multiplier ** attempt)).

    Source: Exponential Backoff And Jitter, AWS Architecture Blog, 2015 (the "full jitter" variant).
    """

    def __init__(
        self,
        first_s: float = 0.1,
        max_s: float = 30.0,
        multiplier: float = 2.0,
        rng: random.Random | None = None,
    ) -> None:
        if not (0 < first_s <= max_s and multiplier >= 1):
            raise MisconfiguredError(
                f"backoff needs 0 < first_s <= max_s and multiplier >= 1: {first_s=} {max_s=} {multiplier=}"
            )
        self._first_s = first_s
        self._max_s = max_s
        self._multiplier = multiplier
        self._rng = rng if rng is not None else random.Random()  # noqa: S311 - jitter, not a secret
        self._ceiling_s = first_s

    def next_s(self) -> float:
        """Return the next delay in seconds; its upper bound grows with every call up to `max_s`."""
        delay_s = self._rng.random() * self._ceiling_s
        self._ceiling_s = min(self._max_s, self._ceiling_s * self._multiplier)
        return delay_s

    def reset(self) -> None:
        """Start again at `first_s`, after a success."""
        self._ceiling_s = self._first_s


class Deadline:
    """A deadline `seconds` from now, in monotonic time."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._end_ns = clock.monotonic_ns() + round(seconds * 1e9)

    def remaining_s(self) -> float:
        """Return the seconds left, never below 0."""
        return max(0, self._end_ns - self._clock.monotonic_ns()) / 1e9

    def check(self, what: str = "the call") -> None:
        """Raise DeadlineError, which names `what` and the bound, once the time is over."""
        if self.remaining_s() <= 0:
            raise DeadlineError(f"{what} took longer than {self._seconds} s")

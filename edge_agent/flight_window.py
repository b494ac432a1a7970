"""Bound the bytes in flight: few on a slow network, many on a fast one, by how long acknowledgements take.

A vehicle does not know its uplink. With a fixed bound, a network slower than that bound divided by the client's
request time-out would deliver nothing at all: every request times out, and everything is sent again. The window starts
small, doubles with each full window that is acknowledged in time, halves with one that is late, and falls to its
minimum when nothing is acknowledged. Not thread-safe.
"""

from __future__ import annotations

from typing import Final

FIRST_BYTES: Final = 256_000
LEAST_BYTES: Final = 16_000
"""About one small picture. A single larger record may always be sent, alone."""


class FlightWindow:
    """`bytes` is the bound now, between the least and `most_bytes`. Answers within `in_time_s` are in time."""

    def __init__(self, most_bytes: int, in_time_s: float) -> None:
        self._most_bytes = most_bytes
        self._in_time_s = in_time_s
        self._least_bytes = min(LEAST_BYTES, most_bytes)
        self.bytes = min(FIRST_BYTES, most_bytes)

    def answered(self, size_bytes: int, after_s: float, in_flight_bytes: int) -> None:
        """Record one answer (a failure counts as one after infinite time) with `in_flight_bytes` in flight.

        A window that is not used does not grow.
        """
        if after_s > self._in_time_s:
            self.bytes = max(self._least_bytes, self.bytes - size_bytes // 2)
        elif 2 * in_flight_bytes >= self.bytes:
            self.bytes = min(self._most_bytes, self.bytes + size_bytes)

    def silence(self) -> None:
        """Record that nothing is answered any more."""
        self.bytes = self._least_bytes

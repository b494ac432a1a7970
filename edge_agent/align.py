"""Merge the streams of all sources into one order: by capture time, but no stream waits for another.

A stream that has nothing now is passed over. Why a bound on the lead: a stream whose clock is years behind would
always be the earliest and starve the others. It does no I/O and asks no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_LEAD = 32
"""Turns that others may take in a row while a stream has an observation to give."""


@dataclass(slots=True)
class Aligner:
    """Whose turn it is. Streams are named by any text."""

    _passed: dict[str, int] = field(default_factory=dict)

    def choose(self, capture_times_ns: Mapping[str, int]) -> str | None:
        """Return the stream whose next observation is taken, of those that have one; None when none has.

        `capture_times_ns`: capture time of the next observation of each stream that has one.
        """
        if not capture_times_ns:
            return None
        starving = max(capture_times_ns, key=lambda name: self._passed.get(name, 0))
        if self._passed.get(starving, 0) >= MAX_LEAD:
            chosen = starving
        else:
            chosen = min(capture_times_ns, key=lambda name: (capture_times_ns[name], name))
        for name in capture_times_ns:
            self._passed[name] = 0 if name == chosen else self._passed.get(name, 0) + 1
        return chosen

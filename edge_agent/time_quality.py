"""Judge how far a wall clock can be trusted; order never depends on it."""

from __future__ import annotations

from foundation.clock import Clock
from schemas.reasons import Provenance, TimeQuality

FIRST_POSSIBLE_TIME_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z: this agent was built after it, so no live clock can truly show less."""

FAR_FUTURE_AFTER_NS = 8 * 365 * 86_400 * 1_000_000_000
"""8 years after `FIRST_POSSIBLE_TIME_NS`: no vehicle runs this agent for so long without an update. Below ten, so
that a clock that is ten years ahead is noticed without having been seen to jump."""

JUMP_NS = 2_000_000_000
"""A difference of 2 s between wall and monotonic time since the last check is a jump, not drift."""


STEADY_NS = 60_000_000_000
"""A wall clock that has kept pace with the monotonic clock for 60 s since it jumped is believed again. Why so long: a
clock is set in steps while time synchronisation settles, and a window around a trigger is shorter."""


def is_believable(wall_ns: int) -> bool:
    """Return whether a live wall clock may show this time (ns since 1970): not before this agent was built, nor far ahead."""
    return FIRST_POSSIBLE_TIME_NS <= wall_ns <= FIRST_POSSIBLE_TIME_NS + FAR_FUTURE_AFTER_NS


class WallClockWatch:
    """Notices when wall time jumps against monotonic time while the process runs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ns = clock.now_ns() - clock.monotonic_ns()
        self._jumped_ns: int | None = None
        self.jumps = 0

    def judge(self, capture_time_ns: int, provenance: Provenance) -> TimeQuality:
        """Return the quality of the times of one observation.

        What was recorded just now must also have a believable capture time; what is played back
        may be as old as it likes. After a jump, times are `unsynchronised` until the clock has kept pace for
        STEADY_NS: what was taken shortly before and after a jump does not share a clock.
        """
        now_ns, monotonic_ns = self._clock.now_ns(), self._clock.monotonic_ns()
        offset_ns = now_ns - monotonic_ns
        if abs(offset_ns - self._offset_ns) > JUMP_NS:
            self.jumps += 1
            self._jumped_ns = monotonic_ns
        self._offset_ns = offset_ns
        times = (now_ns, capture_time_ns) if provenance is Provenance.RECORDED else (now_ns,)
        if any(time_ns < FIRST_POSSIBLE_TIME_NS for time_ns in times):
            return TimeQuality.BEFORE_BUILD
        if any(time_ns > FIRST_POSSIBLE_TIME_NS + FAR_FUTURE_AFTER_NS for time_ns in times):
            return TimeQuality.FAR_FUTURE
        is_unsteady = self._jumped_ns is not None and monotonic_ns - self._jumped_ns < STEADY_NS
        return TimeQuality.UNSYNCHRONISED if is_unsteady else TimeQuality.OK

"""A table pairs each duty with its predicate and its interval; one runner a lane goes round it.

A duty's step is bounded and answers idle, ok or failed. An error of ours counts as failed and is told; any
other error is a defect and ends the process, which the supervisor starts again. A lane is one thread: what
may take long (downloads, trials) never delays what must not (the uploader).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_agent.step import Failed, Idle, StepResult
from foundation.clock import Clock
from foundation.errors import FleetLoopError
from foundation.events import EventLog

LONGEST_WAIT_S = 0.5
"""Why so short: a stop signal and a drain request are noticed within it."""
FAILED_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Duty:
    """One row of the table. `interval_s` 0: again at once after ok, after the step's own wait when idle."""

    name: str
    step: Callable[[], StepResult]
    is_wanted: Callable[[], bool]
    interval_s: float
    lane: str = "main"


@dataclass(slots=True)
class _Row:
    duty: Duty
    due_ns: int
    last_failure: str = ""


class DutyRunner:
    """Runs the duties of one lane, in the order of the table. Not thread-safe."""

    def __init__(self, duties: Sequence[Duty], clock: Clock, events: EventLog) -> None:
        self._clock = clock
        self._events = events
        self._rows = [_Row(duty, clock.monotonic_ns()) for duty in duties]

    def run_due(self) -> float:
        """Step every duty that is due and wanted. Returns the seconds until the next one is."""
        for row in self._rows:
            if self._clock.monotonic_ns() >= row.due_ns:
                wait_s = self._step(row) if row.duty.is_wanted() else row.duty.interval_s or LONGEST_WAIT_S
                row.due_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)
        now_ns = self._clock.monotonic_ns()
        next_ns = min((row.due_ns for row in self._rows), default=now_ns + round(LONGEST_WAIT_S * 1e9))
        return min(LONGEST_WAIT_S, max(0.0, (next_ns - now_ns) / 1e9))

    def _step(self, row: _Row) -> float:
        try:
            result = row.duty.step()
        except FleetLoopError as error:
            result = Failed(f"{type(error).__name__}: {error}", FAILED_WAIT_S)
        if isinstance(result, Failed):
            if result.reason != row.last_failure:
                self._events.emit("duty_failed", level="warning", duty=row.duty.name, reason=result.reason)
            row.last_failure = result.reason
            return max(row.duty.interval_s, min(result.wait_s, 60.0), 0.01)
        row.last_failure = ""
        if isinstance(result, Idle):
            return max(row.duty.interval_s, result.wait_s)
        return row.duty.interval_s

    def run_until(self, stop: threading.Event) -> None:
        """Go round the table until `stop` is set."""
        while not stop.is_set():
            self._clock.wait(stop, self.run_due())


class LaneThread:
    """One lane in a thread of its own. `failure` holds the defect that ended it."""

    def __init__(self, name: str, runner: DutyRunner, stop: threading.Event) -> None:
        self.failure: BaseException | None = None
        self._runner = runner
        self._stop = stop
        self._thread = threading.Thread(target=self._run, name=f"lane-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, deadline_s: float) -> bool:
        """Whether the lane ended within the deadline (the process ends anyway: the thread is a daemon)."""
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._runner.run_until(self._stop)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self.failure = error
            self._stop.set()

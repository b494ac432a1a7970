"""Run periodic jobs from a table of steps, conditions and intervals, with one thread per lane.

The step of a job is bounded and returns idle, ok or failed. A FleetLoopError counts as failed and is reported; any other
error is a defect and ends the process, which the supervisor restarts. A lane is one thread, so that jobs that may take
long (downloads, trials) never delay others (the uploader).
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
"""Bound on the wait between rounds, so that a stop signal or a drain request is noticed soon."""
FAILED_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the table. With `interval_s` 0 it runs again at once after ok, and after the step's own wait when idle."""

    name: str
    step: Callable[[], StepResult]
    is_wanted: Callable[[], bool]
    interval_s: float
    lane: str = "main"


@dataclass(slots=True)
class _Row:
    job: Job
    due_ns: int
    last_failure: str = ""


class JobRunner:
    """Runs the jobs of one lane in the order of the table. Not thread-safe."""

    def __init__(self, jobs: Sequence[Job], clock: Clock, events: EventLog) -> None:
        self._clock = clock
        self._events = events
        self._rows = [_Row(job, clock.monotonic_ns()) for job in jobs]

    def run_due(self) -> float:
        """Run every job that is due and wanted, and return the seconds until the next one is due."""
        for row in self._rows:
            if self._clock.monotonic_ns() >= row.due_ns:
                wait_s = self._step(row) if row.job.is_wanted() else row.job.interval_s or LONGEST_WAIT_S
                row.due_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)
        now_ns = self._clock.monotonic_ns()
        next_ns = min((row.due_ns for row in self._rows), default=now_ns + round(LONGEST_WAIT_S * 1e9))
        return min(LONGEST_WAIT_S, max(0.0, (next_ns - now_ns) / 1e9))

    def _step(self, row: _Row) -> float:
        try:
            result = row.job.step()
        except FleetLoopError as error:
            result = Failed(f"{type(error).__name__}: {error}", FAILED_WAIT_S)
        if isinstance(result, Failed):
            if result.reason != row.last_failure:
                # Event and key keep the names of the first release.
                self._events.emit("duty_failed", level="warning", duty=row.job.name, reason=result.reason)
            row.last_failure = result.reason
            return max(row.job.interval_s, min(result.wait_s, 60.0), 0.01)
        row.last_failure = ""
        if isinstance(result, Idle):
            return max(row.job.interval_s, result.wait_s)
        return row.job.interval_s

    def run_until(self, stop: threading.Event) -> None:
        """Go round the table until `stop` is set."""
        while not stop.is_set():
            self._clock.wait(stop, self.run_due())


class LaneThread:
    """One lane in a thread of its own. `failure` holds the defect that ended it."""

    def __init__(self, name: str, runner: JobRunner, stop: threading.Event) -> None:
        self.failure: BaseException | None = None
        self._runner = runner
        self._stop = stop
        self._thread = threading.Thread(target=self._run, name=f"lane-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, deadline_s: float) -> bool:
        """Return whether the lane ended within the deadline (the process ends anyway: the thread is a daemon)."""
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._runner.run_until(self._stop)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self.failure = error
            self._stop.set()

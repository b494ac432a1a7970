"""The deliver process: sends accepted samples and fetches models. Started by the supervisor; may die independently.

Its work is a table of jobs. Starting without a broker, and staying without one for months, is normal.
Refuses to change anything that perceive writes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

from connectors.kafka.ports import RecordSink, RecordTail
from connectors.kafka.sink import KafkaSink
from connectors.kafka.tail import KafkaTail
from edge_agent.jobs import Job, JobRunner, LaneThread
from edge_agent.key_file import load_key
from edge_agent.models.fetch import ModelFetcher
from edge_agent.notices import NoticeJob
from edge_agent.process import ProcessContext, run_process
from edge_agent.spool.reader import SpoolReader
from edge_agent.state_folder import StatusFile
from edge_agent.step import Failed, Idle, StepResult
from edge_agent.telemetry import TelemetryJob
from edge_agent.uploader import Uploader
from foundation.clock import boot_id
from foundation.errors import MisconfiguredError
from schemas.topics import TOPICS

STATUS_INTERVAL_S = 1.0
LOOK_WITHIN_S = 0.5
"""How soon after a notice the idle fetcher is asked again."""
LANE_STOP_S = 3.0
LAST_WORD_S = 3.0


class Deliver:
    """Everything that the process holds, from start to stop."""

    def __init__(self, context: ProcessContext) -> None:
        settings, state, clock, events = context.settings, context.state, context.clock, context.events
        self._context = context
        self._status = StatusFile(state.status_path("deliver"), events)
        self._state_word = "running"
        key = load_key(state.key_path)
        self.reader = SpoolReader.open(state.spool, settings.spool, settings.vehicle_id, clock, events)
        self.uploader = Uploader(self.reader, self._make_sink, settings.upload.pace, clock, events)
        self.telemetry = TelemetryJob(
            state,
            settings.vehicle_id,
            key,
            self._make_sink,
            clock,
            other_roles=settings.serving.model.other_roles,
        )
        self.fetcher = (
            ModelFetcher(
                settings.updates,
                state.root,
                clock,
                events,
                providers=settings.serving.model.providers,
                cpu_fallback=settings.serving.model.cpu_fallback,
                htp_arch=settings.serving.model.htp_arch,
                other_roles=settings.serving.model.other_roles,
            )
            if settings.updates.base_url
            else None
        )
        self.notices = (
            NoticeJob(settings.vehicle_id, self._make_tail, self.fetcher.look_now, clock)
            if self.fetcher is not None and settings.updates.listen_for_notices
            else None
        )
        self.jobs = (
            Job("upload", self.uploader.step, _always, 0.0),
            Job("telemetry", self.telemetry.step, _always, settings.telemetry.interval_s),
            Job("status", self._publish, _always, STATUS_INTERVAL_S),
            Job("models", self._fetch, lambda: self.fetcher is not None, 0.0, lane="downloads"),
            Job("notices", self._listen, lambda: self.notices is not None, 0.0, lane="notices"),
        )

    def run(self) -> int:
        """Run the jobs until the stop signal or the end of a drain. Returns the exit code."""
        context = self._context
        stop = context.stop
        lanes = {
            lane: JobRunner([job for job in self.jobs if job.lane == lane], context.clock, context.events)
            for lane in sorted({job.lane for job in self.jobs})
        }
        threads = {
            lane: LaneThread(lane, runner, stop.event) for lane, runner in lanes.items() if lane != "main"
        }
        for thread in threads.values():
            thread.start()
        try:
            self._go_round(lanes["main"])
        finally:
            stop.event.set()
            self._state_word = "stopped"
            has_ended = {lane: thread.join(LANE_STOP_S) for lane, thread in threads.items()}
            if self.fetcher is not None and has_ended["downloads"]:
                self.fetcher.close()
            if self.notices is not None and has_ended["notices"]:
                self.notices.close()
            self.uploader.close()
            self.telemetry.finish(LAST_WORD_S if self.uploader.status().connected else 0.0)
            self._publish()
            self.reader.close()
        for thread in threads.values():
            if thread.failure is not None:
                raise thread.failure
        return 0

    def _go_round(self, runner: JobRunner) -> None:
        context = self._context
        drain_until_ns: int | None = None
        while not context.stop.is_set():
            context.heartbeat.beat()
            is_draining = drain_until_ns is not None
            wait_s = runner.run_due()
            if drain_until_ns is None and context.state.drain_path.exists():
                drain_until_ns = context.clock.monotonic_ns() + round(context.settings.upload.drain_s * 1e9)
                self._state_word = "draining"
            elif is_draining and self.uploader.is_drained:
                context.events.emit("drained")
                return
            elif drain_until_ns is not None and context.clock.monotonic_ns() >= drain_until_ns:
                context.events.emit("drain_deadline", level="warning", pending=self.reader.pending)
                return
            context.clock.wait(context.stop.event, wait_s)

    def _fetch(self) -> StepResult:
        if self.fetcher is None:
            return Idle(STATUS_INTERVAL_S)
        done = self.fetcher.step()
        if done.outcome == "failed":
            return Failed(done.detail, done.wait_s)
        return Idle(min(done.wait_s, LOOK_WITHIN_S) if self.notices is not None else done.wait_s)

    def _listen(self) -> StepResult:
        return Idle(STATUS_INTERVAL_S) if self.notices is None else self.notices.step()

    def _make_tail(self) -> RecordTail:
        return KafkaTail(self._context.settings.upload.kafka, TOPICS.notices)

    def _make_sink(self) -> RecordSink:
        return KafkaSink(self._context.settings.upload.kafka, self._context.clock)

    def _publish(self) -> StepResult:
        """Publish the status; a disk error is no reason to stop."""
        uploader = self.uploader.status()
        document = {
            "pid": os.getpid(),
            "state": self._state_word,
            "heartbeat_ns": self._context.clock.monotonic_ns(),
            "boot_id": boot_id(),
            "uploader": asdict(uploader),
            "broker": {
                "connected": uploader.connected,
                "state": uploader.state,
                "last_error": uploader.last_error,
            },
            "pending": self.reader.pending,
            "models": asdict(self.fetcher.status()) if self.fetcher is not None else None,
            "notices": self.notices.status() if self.notices is not None else None,
            "telemetry": {
                "sent": self.telemetry.sent,
                "acknowledged": self.telemetry.acknowledged,
                "last_error": self.telemetry.last_error,
            },
        }
        self._status.publish(document)
        return Idle(STATUS_INTERVAL_S)


def _always() -> bool:
    return True


def body(context: ProcessContext) -> int:
    """Run deliver. Raises MisconfiguredError without enrolment, and what opening its parts raises."""
    if not context.state.key_path.exists():
        raise MisconfiguredError(f"{context.state.key_path} does not exist; enrol this vehicle first")
    return Deliver(context).run()


if __name__ == "__main__":
    sys.exit(run_process("deliver", body))

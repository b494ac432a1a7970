"""The perceive process: frames in, accepted samples out. Started by the supervisor; may die without the
other.

A source that ended leaves the process waiting (models may still be swapped), unless it was told to end with
its source. Refuses to talk to any network.
"""

from __future__ import annotations

import dataclasses
import os
import sys

from edge_agent.config import AgentSettings
from edge_agent.frame_loop import FrameLoop
from edge_agent.key_file import load_key
from edge_agent.models.serving import ServingModel
from edge_agent.prediction_log import PredictionLog
from edge_agent.process import ProcessContext, run_process
from edge_agent.progress_journal import AcceptedSeq, ProgressJournal, ProgressLimits
from edge_agent.selection.decision import Selector
from edge_agent.selection.novelty import NoveltySelector
from edge_agent.selection.policy import SelectionPolicy
from edge_agent.selection.random_arm import RandomArm
from edge_agent.selection.track_limit import TrackLimit
from edge_agent.selection.uncertainty import UncertaintySelector
from edge_agent.sources import SourceFailedError, frames_from, open_source, source_id
from edge_agent.spool.snapshot import read_ledger
from edge_agent.spool.writer import SpoolWriter
from edge_agent.state_folder import StateFolder, publish_json
from foundation.errors import FleetLoopError, MisconfiguredError
from modelkit.runtimes import open_runtime

STATUS_INTERVAL_NS = 1_000_000_000
IDLE_WAIT_S = 0.2
FOLLOW_INTERVAL_NS = 1_000_000_000
SWITCH_INTERVAL_S = 0.0005
"""How long the thread that commits may keep the interpreter from the frame loop; Python's own 5 ms is a frame."""


def build_policy(settings: AgentSettings, track_limit: TrackLimit) -> SelectionPolicy:
    """The selectors that the settings switch on, in the order in which they speak."""
    selection = settings.selection
    rules: list[Selector] = []
    if selection.uncertainty.enabled:
        rules.append(
            UncertaintySelector(
                selection.uncertainty.measure,
                selection.uncertainty.threshold,
                selection.uncertainty.value_class,
            )
        )
    if selection.novelty.enabled:
        rules.append(NoveltySelector(selection.novelty.threshold, selection.novelty.value_class))
    arm = RandomArm(
        settings.vehicle_id,
        selection.random.seed,
        selection.random.probability,
        selection.random.value_class,
    )
    return SelectionPolicy(tuple(rules), arm, track_limit)


def progress_limits(settings: AgentSettings) -> ProgressLimits:
    """What bounds the state that survives a restart."""
    selection = settings.selection
    capacity = selection.novelty.memory_frames if selection.novelty.enabled else 0
    return ProgressLimits(selection.budget.limits(), selection.track_limit, capacity)


def accepted_by_ledger(state: StateFolder) -> AcceptedSeq:
    """What the spool's own ledger says was accepted of an epoch."""
    last_seq = {row.epoch: row.next_seq - 1 for row in read_ledger(state.spool).epochs}
    return lambda epoch: last_seq.get(epoch, -1)


class Perceive:
    """Everything that the process holds, from start to stop."""

    def __init__(self, context: ProcessContext) -> None:
        settings, state, clock, events = context.settings, context.state, context.clock, context.events
        self._context = context
        self._status_ns = 0
        self._followed_ns = 0
        self._told_notes: dict[str, int] = {}
        self._source_state = "starting"
        self._source_error: FleetLoopError | None = None
        key = load_key(state.key_path)
        self.source = open_source(settings.source)
        self.serving = ServingModel(
            state.root,
            open_runtime(),
            settings.serving.model,
            clock,
            events,
            has_crashed=context.after_crash,
        )
        self.writer = SpoolWriter.open(state.spool, settings.spool, settings.vehicle_id, key, clock, events)
        limits = progress_limits(settings)
        self.journal, trouble = ProgressJournal.open(
            state.progress_path, source_id(settings.source), limits, accepted_by_ledger(state), clock
        )
        if trouble:
            events.emit("progress_damaged", level="error", error=trouble)
        running = self.journal.progress.copy_limits(
            limits.budget, limits.max_per_track, limits.memory_capacity
        )
        self.log = PredictionLog(settings.serving.prediction_log)
        self.loop = FrameLoop(
            vehicle_id=settings.vehicle_id,
            serving=self.serving,
            policy=build_policy(settings, running.tracks),
            capture=settings.capture,
            spool=settings.spool,
            writer=self.writer,
            journal=self.journal,
            running=running,
            prediction_log=self.log,
            clock=clock,
            events=events,
        )
        # Last: from here on `run` is called, whose end gives everything back.
        self.writer.start_committer()
        sys.setswitchinterval(SWITCH_INTERVAL_S)

    def run(self) -> int:
        """Play the source to its end or until the stop signal. Returns the exit code.

        A source that turns out to be damaged ends the playing, not the vehicle; with `until_source_ends`
        the exit code says so."""
        context, progress = self._context, self.journal.progress
        try:
            if progress.has_ended:
                self._play_rest()
            else:
                self._play_once()
            self._publish()
            while not context.stop.is_set() and (self._must_follow() or not context.until_source_ends):
                self._follow()
                self.loop.poll_model()
                self.loop.tick()
                self._publish_when_due()
                context.clock.wait(context.stop.event, IDLE_WAIT_S)
        finally:
            self._close()
        return self._source_error.exit_code if self._source_error and context.until_source_ends else 0

    def _must_follow(self) -> bool:
        """Whether a file of the source is still being written, which is to be played before the end."""
        return getattr(self.source, "is_waiting", False) and self._source_error is None

    def _follow(self) -> None:
        """Look for what the source gained, when its settings say so and it is time."""
        if not self._context.settings.source.follow or self._source_error is not None:
            return
        now_ns = self._context.clock.monotonic_ns()
        if now_ns - self._followed_ns >= FOLLOW_INTERVAL_NS:
            self._followed_ns = now_ns
            self._play_rest()

    def _play_rest(self) -> None:
        """Play what a source gained since it ended: a recorder fills one folder all day."""
        progress, played = self.journal.progress, self.loop.frames_this_run
        try:
            has_ended = self._play(progress.frame_id, progress.lap, has_ended=True)
        except SourceFailedError as failure:
            self._fail(failure)
            return
        if not has_ended:
            self.loop.pause()
            self._source_state = "stopping"
            return
        if self.loop.frames_this_run > played:
            self.loop.end_source()
        self._source_state = "source_ended"

    def _fail(self, failure: SourceFailedError) -> None:
        self._source_error = failure.error
        self._context.events.emit("source_failed", level="error", error=str(failure))
        self.loop.pause()
        self._source_state = "source_failed"

    def _play_once(self) -> None:
        progress = self.journal.progress
        is_resumed = progress.frame_id is not None
        try:
            has_ended = self._play(progress.frame_id, progress.lap)
        except SourceFailedError as failure:
            self._fail(failure)
            return
        if not has_ended:
            self.loop.pause()
            self._source_state = "stopping"
            return
        if self._must_follow():
            self.loop.pause()
            self._source_state = "running"
            return
        if not is_resumed and self.loop.frames_this_run == 0:
            self.loop.empty_drive()
        self.loop.end_source()
        self._source_state = "source_ended"

    def _play(self, resume_after: str | None, lap: int, *, has_ended: bool = False) -> bool:
        """Whether the source came to its end. Raises SourceFailedError."""
        context = self._context
        source = context.settings.source
        interval_ns = round(1e9 / source.rate_hz) if source.rate_hz else 0
        due_ns = context.clock.monotonic_ns()
        self._source_state = "running"
        for frame, turn in frames_from(
            self.source,
            resume_after,
            lap,
            loop=source.loop and not has_ended,
            events=context.events,
            has_ended=has_ended,
        ):
            if context.stop.is_set():
                return False
            due_ns = self._wait_until(due_ns) + interval_ns
            if context.stop.event.is_set():
                return False
            self.loop.process(frame, turn)
            self._publish_when_due()
        return True

    def _wait_until(self, due_ns: int) -> int:
        """Wait for the frame's turn, committing meanwhile; one that fell behind does not hurry."""
        clock, stop = self._context.clock, self._context.stop
        while (left_ns := due_ns - clock.monotonic_ns()) > 0 and not stop.is_set():
            clock.wait(stop.event, min(left_ns / 1e9, IDLE_WAIT_S))
            self.loop.tick()
        return max(due_ns, clock.monotonic_ns())

    def _publish_when_due(self) -> None:
        now_ns = self._context.clock.monotonic_ns()
        if now_ns - self._status_ns >= STATUS_INTERVAL_NS:
            self._status_ns = now_ns
            self._publish()

    def _publish(self) -> None:
        """Tell the others how things stand; a disk that refuses is no reason to stop."""
        self._tell_notes()
        progress = self.journal.progress
        document = {
            "pid": os.getpid(),
            "state": self._source_state,
            "source_error": str(self._source_error or ""),
            "heartbeat_ns": self._context.clock.monotonic_ns(),
            "epoch": self.writer.epoch,
            "source_notes": dict(self._told_notes),
            "frames_seen": progress.frames_seen,
            "frames_held": self.loop.ring.held,
            "shortened_windows": self.loop.ring.counts.shortened_windows,
            "progress_error": self.loop.progress_error,
            "spool_error": self.writer.last_error,
            "prediction_log_lost_lines": self.log.lost_lines,
            "bytes_kept": progress.budget.total_bytes,
            "model": {
                "name": self.serving.name,
                "digest": self.serving.digest,
                "state": self.serving.state.value,
                "release_id": self.serving.release_id,
            },
            "placement": dataclasses.asdict(self.serving.placement),
            "swaps": self.serving.swaps,
            "rollbacks": self.serving.rollbacks,
            "health": dataclasses.asdict(self.serving.health()),
            "model_events": [dataclasses.asdict(event) for event in self.serving.events],
        }
        try:
            publish_json(self._context.state.status_path("perceive"), document)
        except OSError as error:
            self._context.events.emit("status_not_written", level="warning", error=str(error))

    def _tell_notes(self) -> None:
        """What the source left out, or took with a doubt, is an event each time that it grew."""
        for words, note in self.source.notes().items():
            if self._told_notes.get(words) != note.count:
                self._told_notes[words] = note.count
                level = "warning" if words.startswith("left out") else "info"
                self._context.events.emit(
                    "source_note", level=level, note=words, count=note.count, first=note.first
                )

    def _close(self) -> None:
        if self._source_state not in ("source_ended", "source_failed"):
            self._source_state = "stopped"
        self._publish()
        self.source.close()
        self.log.close()
        self.journal.close()
        self.writer.close()


def body(context: ProcessContext) -> int:
    """Run perceive. Raises MisconfiguredError without enrolment, and what opening its parts raises."""
    if not context.state.key_path.exists():
        raise MisconfiguredError(f"{context.state.key_path} does not exist; enrol this vehicle first")
    return Perceive(context).run()


if __name__ == "__main__":
    sys.exit(run_process("perceive", body))

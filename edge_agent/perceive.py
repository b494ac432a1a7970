"""The perceive process: turns observations into accepted samples. Started by the supervisor; may die independently.

A source that ended, or that cannot be read, leaves the process waiting (models may still be swapped), unless it is to
end with its sources. Refuses to use any network.
"""

from __future__ import annotations

import dataclasses
import os
import sys

from edge_agent.align import Aligner
from edge_agent.config import AgentSettings, source_id
from edge_agent.crash_mark import CrashMark
from edge_agent.durable_progress import DurableProgress
from edge_agent.heartbeat import MODEL_AT_WORK, Activity
from edge_agent.key_file import load_key
from edge_agent.look import Viewer
from edge_agent.models.model_set import ModelSet
from edge_agent.observation_loop import ObservationLoop
from edge_agent.place_keeper import PlaceKeeper
from edge_agent.prediction_log import PredictionLog
from edge_agent.process import ProcessContext, run_process
from edge_agent.progress import ProgressLimits
from edge_agent.selection.decision import Selector
from edge_agent.selection.novelty import NoveltySelector
from edge_agent.selection.policy import SelectionPolicy
from edge_agent.selection.random_arm import RandomArm
from edge_agent.selection.track_limit import TrackLimit
from edge_agent.selection.uncertainty import UncertaintySelector
from edge_agent.sources import SourceFeed
from edge_agent.spool.writer import SpoolWriter
from edge_agent.state_folder import StatusFile
from foundation.clock import boot_id
from foundation.errors import MisconfiguredError
from modelkit.images import ImageLimits
from modelkit.runtimes import open_runtime

STATUS_INTERVAL_NS = 1_000_000_000
IDLE_WAIT_S = 0.2
SWITCH_INTERVAL_S = 0.0005
"""How long the committing thread may hold the interpreter lock; Python's default of 5 ms is as long as a frame."""


def build_policy(settings: AgentSettings, track_limit: TrackLimit) -> SelectionPolicy:
    """Return the policy of the enabled selectors, in their order of precedence."""
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


def picture_limits(settings: AgentSettings) -> ImageLimits:
    """Return the bounds of one picture, for the decoder."""
    return ImageLimits(**dataclasses.asdict(settings.pictures))


def progress_limits(settings: AgentSettings) -> ProgressLimits:
    """Return the bounds of the state that survives a restart."""
    selection = settings.selection
    capacity = selection.novelty.memory_frames if selection.novelty.enabled else 0
    return ProgressLimits(selection.budget.limits(), selection.track_limit, capacity)


class Perceive:
    """Everything that the process holds, from start to stop."""

    def __init__(self, context: ProcessContext) -> None:
        settings, state, clock, events = context.settings, context.state, context.clock, context.events
        self._context = context
        self._status = StatusFile(state.status_path("perceive"), events)
        self._status_ns = 0
        self._told_notes: dict[tuple[str, str], int] = {}
        self._is_closed = False
        key = load_key(state.key_path)
        self._note_loading()
        self.models = ModelSet(
            state.root,
            open_runtime(),
            settings.serving.model,
            clock,
            events,
            has_crashed=context.crashed_in in MODEL_AT_WORK,
            on_progress=self._note_loading,
        )
        context.heartbeat.beat(Activity.STARTING)
        self.serving = self.models.serving
        limits = progress_limits(settings)
        sources = [source_id(source) for source in settings.all_sources]
        durable = DurableProgress(limits, sources, clock, state.released_progress_path)
        self.writer = SpoolWriter.open(
            state.spool,
            settings.spool,
            settings.vehicle_id,
            key,
            clock,
            events,
            carried=durable,
            on_wait=self._note_disk,
        )
        if durable.trouble:
            events.emit("progress_damaged", level="error", error=durable.trouble)
        progress = durable.progress
        running = progress.copy_limits(limits)
        self.log = PredictionLog(settings.serving.prediction_log)
        self.loop = ObservationLoop(
            vehicle_id=settings.vehicle_id,
            viewer=Viewer(
                self.models,
                running.memory,
                self.log,
                clock,
                events,
                picture_limits(settings),
                heartbeat=context.heartbeat,
            ),
            policy=build_policy(settings, running.tracks),
            capture=settings.capture,
            writer=self.writer,
            keeper=PlaceKeeper(progress),
            mark=CrashMark(
                state.crash_mark_path,
                crashed_in=context.crashed_in,
                is_model_suspect=self.models.is_suspect,
            ),
            running=running,
            tail=progress.tail,
            prediction_log=self.log,
            clock=clock,
            events=events,
        )
        feeds = [
            SourceFeed(source, progress.place(source_id(source)), clock, events, on_open=self._note_disk)
            for source in settings.all_sources
        ]
        self.feeds = {feed.source_id: feed for feed in feeds}
        self._aligner = Aligner()
        self._unsettled = set(self.feeds)
        self._without_any = {name for name, feed in self.feeds.items() if not feed.is_resumed}
        # Last: from here on `run` is called, whose end gives everything back.
        self.writer.start_committer()
        sys.setswitchinterval(SWITCH_INTERVAL_S)

    def run(self) -> int:
        """Play the sources until the stop signal. Returns the exit code.

        A source that fails is retried and stops nothing else; with `until_source_ends` the process ends with the
        sources, and the exit code is that of the first one that failed.
        """
        context = self._context
        try:
            while not context.stop.is_set():
                context.heartbeat.beat()
                if self._take_turn():
                    self._publish_when_due()
                    continue
                self._note_ends()
                if context.until_source_ends and all(
                    feed.is_over or feed.error for feed in self.feeds.values()
                ):
                    break
                self.loop.poll_model()
                self.loop.tick()
                self._publish_when_due()
                due_ns = min(feed.due_ns for feed in self.feeds.values()) - context.clock.monotonic_ns()
                context.clock.wait(context.stop.event, min(max(due_ns, 0) / 1e9, IDLE_WAIT_S))
            self.loop.pause()
            self.models.end_in_order()
        finally:
            self._close()
        errors = [feed.error for feed in self.feeds.values() if feed.error is not None]
        return errors[0].exit_code if errors and context.until_source_ends else 0

    def _note_disk(self) -> None:
        """Show the supervisor that what follows may take as long as the disk does."""
        self._context.heartbeat.beat(Activity.DISK)

    def _note_loading(self) -> None:
        """Show the supervisor that a model is being verified or loaded."""
        self._context.heartbeat.beat(Activity.LOADING)

    def _take_turn(self) -> bool:
        """Process the next observation of all sources; return False when none is due."""
        heads = {
            name: head.capture_time_ns
            for name, feed in self.feeds.items()
            if (head := feed.head()) is not None
        }
        self._context.heartbeat.beat()
        if self._without_any:
            self._count_empty()
        chosen = self._aligner.choose(heads)
        if chosen is None:
            return False
        observation, lap = self.feeds[chosen].take()
        self._unsettled.add(chosen)
        self._without_any.discard(chosen)
        self.loop.process(observation, lap, chosen)
        return True

    def _count_empty(self) -> None:
        """Count each source that ended without one observation, once, whatever the others do."""
        for name in sorted(self._without_any):
            feed = self.feeds[name]
            if feed.is_over and feed.given == 0:
                self._without_any.discard(name)
                self.loop.empty_drive()

    def _note_ends(self) -> None:
        """Empty the window when no source has more to give now, and record which have ended."""
        if not self._unsettled or any(feed.is_playing for feed in self.feeds.values()):
            return
        for name in sorted(self._unsettled):
            if self.feeds[name].is_over:
                self.loop.end_source(name)
            else:
                self.loop.pause()
        self._unsettled.clear()

    @property
    def _source_state(self) -> str:
        if self._is_closed or self._context.stop.is_set():
            states = {feed.state for feed in self.feeds.values()}
            word = "stopped" if self._is_closed else "stopping"
            return (
                {"ended": "source_ended", "waiting": "source_failed"}.get(states.pop(), word)
                if len(states) == 1
                else word
            )
        if any(feed.is_playing for feed in self.feeds.values()):
            return "running"
        return "source_failed" if any(feed.error for feed in self.feeds.values()) else "source_ended"

    def _publish_when_due(self) -> None:
        now_ns = self._context.clock.monotonic_ns()
        if now_ns - self._status_ns >= STATUS_INTERVAL_NS:
            self._status_ns = now_ns
            self._publish()

    def _publish(self) -> None:
        """Publish the status; a disk error is no reason to stop."""
        self._tell_notes()
        document = {
            "pid": os.getpid(),
            "state": self._source_state,
            "source_error": "; ".join(str(feed.error) for feed in self.feeds.values() if feed.error),
            "sources": [
                {
                    "path": str(feed.settings.path),
                    "state": feed.state,
                    "error": str(feed.error or ""),
                    "silent_s": feed.silent_s,
                }
                for feed in self.feeds.values()
            ],
            "heartbeat_ns": self._context.clock.monotonic_ns(),
            "boot_id": boot_id(),
            "epoch": self.writer.epoch,
            "source_notes": self._summed_notes(),
            "frames_seen": self.loop.frames_seen,
            "shortened_windows": self.loop.window.counts.shortened_windows,
            "late_triggers": self.loop.window.counts.late_triggers,
            "spool_error": self.writer.last_error,
            "prediction_log_lost_lines": self.log.lost_lines,
            "model": {
                "name": self.serving.name,
                "digest": self.serving.digest,
                "state": self.serving.state.value,
                "release_id": self.serving.release_id,
            },
            "placement": dataclasses.asdict(placement) if (placement := self.serving.placement) else {},
            "swaps": self.serving.swaps,
            "rollbacks": self.serving.rollbacks,
            "health": dataclasses.asdict(self.serving.health()),
            "other_roles": self.models.other_roles(),
            "model_events": [dataclasses.asdict(event) for event in self.serving.events],
        }
        self._status.publish(document)

    def _tell_notes(self) -> None:
        """Emit an event each time a source's count of skipped or doubtful observations grew."""
        for name, feed in self.feeds.items():
            for words, note in feed.notes().items():
                if self._told_notes.get((name, words)) != note.count:
                    self._told_notes[name, words] = note.count
                    level = "warning" if words.startswith("left out") else "info"
                    self._context.events.emit(
                        "source_note",
                        level=level,
                        source=name,
                        note=words,
                        count=note.count,
                        first=note.first,
                    )

    def _summed_notes(self) -> dict[str, int]:
        sums: dict[str, int] = {}
        for (_, words), count in self._told_notes.items():
            sums[words] = sums.get(words, 0) + count
        return sums

    def _close(self) -> None:
        self._is_closed = True
        self._publish()
        for feed in self.feeds.values():
            feed.close()
        self.log.close()
        self.writer.close()


def body(context: ProcessContext) -> int:
    """Run perceive. Raises MisconfiguredError without enrolment, and what opening its parts raises."""
    if not context.state.key_path.exists():
        raise MisconfiguredError(f"{context.state.key_path} does not exist; enrol this vehicle first")
    return Perceive(context).run()


if __name__ == "__main__":
    sys.exit(run_process("perceive", body))

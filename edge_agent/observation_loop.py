"""The loop over observations: perceive, select, window, record, spool, and the resume position with the commit.

One thread. Each observation that comes in gets exactly one outcome: accepted by the spool, or counted by reason.
Nothing here waits for the disk: commits are handed over (`edge_agent.spool.committer`), and only a full queue of
them, or a full spool, blocks an observation.
"""

from __future__ import annotations

from connectors.sensors.ports import Observation
from edge_agent.config import CaptureSettings
from edge_agent.crash_mark import CrashMark, observation_key
from edge_agent.look import Looked, Viewer
from edge_agent.place_keeper import PlaceKeeper, kept_frame
from edge_agent.prediction_log import PredictionLog
from edge_agent.progress import Progress
from edge_agent.record import Seen, incident_name, record
from edge_agent.selection.decision import ScoredObservation, Selection
from edge_agent.selection.policy import SelectionPolicy
from edge_agent.spool.writer import SpoolWriter
from edge_agent.time_quality import WallClockWatch
from edge_agent.window import CaptureWindow, Kept, Outcome
from edge_agent.window_tail import WindowTail
from foundation.clock import Clock, boot_id
from foundation.errors import RejectedError
from foundation.events import EventLog
from schemas.reasons import NotAcceptedReason


class ObservationLoop:
    """The state of perceive between two observations. Not thread-safe."""

    def __init__(
        self,
        *,
        vehicle_id: str,
        viewer: Viewer,
        policy: SelectionPolicy,
        capture: CaptureSettings,
        writer: SpoolWriter,
        keeper: PlaceKeeper,
        mark: CrashMark,
        running: Progress,
        tail: WindowTail,
        prediction_log: PredictionLog,
        clock: Clock,
        events: EventLog,
    ) -> None:
        """`running` has the limits including what waits in the window; `tail` what left it in earlier processes."""
        self._vehicle_id = vehicle_id
        self._viewer = viewer
        self._policy = policy
        self._writer = writer
        self._keeper = keeper
        self._mark = mark
        self._running = running
        self._log = prediction_log
        self._clock = clock
        self._events = events
        self._wall = WallClockWatch(clock)
        self.frames_this_run = 0
        self.window: CaptureWindow[Seen] = CaptureWindow(
            pre_ns=capture.pre_ns,
            post_ns=capture.post_ns,
            ring_bytes=capture.ring_bytes,
            hold_ns=round(capture.hold_s * 1e9),
            reserve=self._reserve,
            name_incident=lambda seen: incident_name(vehicle_id, seen),
            on_kept=self._note_kept,
        )
        self.window.restore(tail)

    @property
    def frames_seen(self) -> int:
        """The number of observations that left the window, since enrolment."""
        return self._keeper.frames_seen

    def process(self, observation: Observation, lap: int, source_id: str) -> None:
        """Add one observation to the window, and settle those that leave it."""
        self.frames_this_run += 1
        self.poll_model()
        now_ns = self._clock.monotonic_ns()
        quality = self._wall.judge(observation.capture_time_ns, observation.provenance)
        looked = self._look(observation, lap, source_id)
        seen = Seen(observation, source_id, lap, now_ns, quality, looked.predictions)
        left = self.window.offer(
            seen,
            observation.sensor_id,
            observation.drive_id,
            observation.capture_time_ns,
            len(observation.payload),
            self._select(seen, looked),
            arrived_ns=now_ns,
        )
        for outcome in left:
            self._settle(outcome)
        if looked.failed_for is NotAcceptedReason.CRASHED:
            self.pause()  # the next start begins after it, however many of its kind follow
        self.tick()

    def _look(self, observation: Observation, lap: int, source_id: str) -> Looked:
        """Run the models on it, unless the process crashed twice while it did so."""
        if self._mark.begin(observation_key(source_id, observation.resume_place, lap)):
            looked = self._viewer.look(observation, lap)
            self._mark.end()
            return looked
        self._events.emit(
            "observation_passed_over",
            level="error",
            source=source_id,
            frame_id=observation.frame_id,
            reason="the process crashed twice while it looked at it",
        )
        return Looked(failed_for=NotAcceptedReason.CRASHED)

    def poll_model(self) -> None:
        """Swap in a waiting model or withdraw a halted one, between two observations."""
        self._viewer.poll()

    def tick(self) -> None:
        """Settle observations that were held long enough, and hand over pending records when a commit is due.

        Raises RuntimeError when the thread that commits has died.
        """
        for outcome in self.window.expire(self._clock.monotonic_ns()):
            self._settle(outcome)
        if self._writer.is_commit_due:
            self._writer.hand_over(self._keeper.step())
            self._keeper.taken()
            self._log.flush()

    def pause(self) -> None:
        """Empty the window and commit, so that no decided observation waits any more."""
        for outcome in self.window.flush():
            self._settle(outcome)
        self._commit()

    def end_source(self, source_id: str) -> None:
        """Empty the window, commit, and record that the source has ended."""
        self.pause()
        self._keeper.end(source_id)
        self._commit()

    def empty_drive(self) -> None:
        """Count a source that gave nothing at all."""
        self._writer.not_accepted(NotAcceptedReason.EMPTY_DRIVE)
        self._keeper.refuse()
        self._commit()
        self._events.emit("empty_drive", level="warning")

    def _commit(self) -> None:
        """Commit in this thread."""
        self._writer.commit(self._keeper.step())
        self._keeper.taken()
        self._log.flush()

    def _select(self, seen: Seen, looked: Looked) -> Selection:
        if looked.failed_for is not None:
            return Selection(None, 0.0, looked.failed_for)
        said, one = seen.serving, seen.observation
        if said is None:  # context only: nothing was said that a rule could judge
            return Selection(None, 0.0, NotAcceptedReason.NOT_SELECTED)
        size_bytes = len(one.payload)
        frame = ScoredObservation(one.frame_id, one.drive_id, one.track_id, size_bytes, said.scores, seen.lap)
        is_affordable = self._running.budget.can_pay(one.drive_id, size_bytes, seen.monotonic_ns)
        return self._policy.select(frame, affordable=is_affordable)

    def _reserve(self, drive_id: str, amount_bytes: int) -> bool:
        return self._running.budget.reserve(drive_id, amount_bytes, self._clock.monotonic_ns())

    def _note_kept(self, seen: Seen, selection: Selection | None) -> None:
        said, one = seen.serving, seen.observation
        if said is not None:
            self._running.memory.remember(said.embedding, said.model_digest)
        if selection is not None and selection.by_rule:
            self._running.tracks.count(one.drive_id, one.track_id)

    def _forget_kept(self, seen: Seen, kept: Kept) -> None:
        """Undo what was counted for an observation that the spool refused."""
        said, one = seen.serving, seen.observation
        self._running.budget.give_back(one.drive_id, len(one.payload))
        if said is not None:
            self._running.memory.forget(said.embedding, said.model_digest)
        if kept.by_rule:
            self._running.tracks.give_back(one.drive_id, one.track_id)

    def _settle(self, outcome: Outcome[Seen]) -> None:
        seen, kept = outcome.item, outcome.kept
        self._keeper.settle(seen, outcome.change)
        if kept is None:
            self._refuse(outcome.refused_for or NotAcceptedReason.NOT_SELECTED, seen)
            return
        remembers = self._running.memory.capacity > 0
        step = self._keeper.step(kept_frame(seen, by_rule=kept.by_rule, remembers=remembers))
        try:
            self._writer.append(record(seen, kept, vehicle_id=self._vehicle_id, boot_id=boot_id()), step)
        except RejectedError as error:
            self._refuse(_not_accepted(error), seen)
            self._forget_kept(seen, kept)
            frame_id = seen.observation.frame_id
            self._events.emit(
                "not_accepted", level="warning", frame_id=frame_id, reason=error.reason, error=str(error)
            )
            return
        self._keeper.taken()

    def _refuse(self, reason: NotAcceptedReason, seen: Seen) -> None:
        """Count what will not be sent, in the next step, so that position and counts are durable together."""
        self._writer.not_accepted(reason, bytes=len(seen.observation.payload))
        self._keeper.refuse()


def _not_accepted(error: RejectedError) -> NotAcceptedReason:
    """Return the counter of a refusal by the spool; one that is in no list is an encode error."""
    try:
        return NotAcceptedReason(error.reason)
    except ValueError:
        return NotAcceptedReason.ENCODE_ERROR

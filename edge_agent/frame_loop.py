"""One frame after another: decode, predict, judge, keep or count. Nothing here waits for the disk: commits are
handed over (`edge_agent.spool.committer`), and only a full line of them, or a full spool, holds a frame.

Frame -> Prediction -> Decision -> Spooled, in that order, in one thread. Each frame that comes in gets
exactly one outcome: accepted by the spool, or counted by reason. A frame that cannot be read or predicted
is counted and the loop goes on; an error of the disk is counted and the loop goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

from connectors.sensors.ports import Frame
from edge_agent.capture import CaptureRing, Kept, Outcome, StreamTail
from edge_agent.config import CaptureSettings
from edge_agent.models.serving import Served, ServingModel
from edge_agent.prediction_log import PredictionLog
from edge_agent.progress import KeptFrame, Progress, Refused, Step
from edge_agent.progress_journal import ProgressJournal
from edge_agent.selection.decision import Candidate, Selection
from edge_agent.selection.policy import SelectionPolicy
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.writer import SpoolWriter
from edge_agent.time_quality import WallClockWatch
from foundation.clock import Clock, boot_id
from foundation.errors import FleetLoopError, RejectedError
from foundation.events import EventLog
from modelkit.images import ImageLimits, Pixels, decode_image
from modelkit.predictor import Prediction, to_wire
from modelkit.scores import score
from schemas.predictions import ModelPrediction
from schemas.reasons import NotAcceptedReason, TimeQuality
from schemas.records import Incident, Sample, Scores
from schemas.roles import SERVING

NO_SCORES = Scores()
JOURNAL_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """One frame with all that was found out about it, while it waits in the ring. No pixels."""

    frame: Frame
    lap: int
    monotonic_ns: int
    time_quality: TimeQuality
    model_name: str = ""
    model_digest: str = ""
    prediction: Prediction | None = None
    scores: Scores = NO_SCORES


class FrameLoop:
    """The state of perceive between two frames. Not thread-safe."""

    def __init__(
        self,
        *,
        vehicle_id: str,
        serving: ServingModel,
        policy: SelectionPolicy,
        capture: CaptureSettings,
        spool: SpoolSettings,
        writer: SpoolWriter,
        journal: ProgressJournal,
        running: Progress,
        prediction_log: PredictionLog,
        clock: Clock,
        events: EventLog,
        limits: ImageLimits | None = None,
    ) -> None:
        self._vehicle_id = vehicle_id
        self._serving = serving
        self._policy = policy
        self._spool = spool
        self._writer = writer
        self._journal = journal
        self._running = running
        self._log = prediction_log
        self._clock = clock
        self._events = events
        self._limits = limits
        self._wall = WallClockWatch(clock)
        self._last_seq = -1
        self._tails: dict[str, StreamTail] = {}
        self._place: tuple[str, int] | None = None
        self._committed_ns = clock.monotonic_ns()
        self._has_journal = True
        self._lost_ns = 0
        self.progress_error = ""
        """Why the place is not written down now; empty while it is."""
        if journal.start_error:
            self._lose_journal(journal.start_error)
        self._has_refused = False
        if journal.progress.refused is not None:
            writer.recount_refused_frames(journal.progress.refused.counts, journal.progress.refused.bytes)
        self.frames_this_run = 0
        self.ring: CaptureRing[SeenFrame] = CaptureRing(
            pre_frames=capture.pre_frames,
            post_frames=capture.post_frames,
            ring_bytes=capture.ring_bytes,
            reserve=self._reserve,
            name_incident=self._name_incident,
            on_kept=self._note_kept,
        )
        self.ring.restore(list(journal.progress.tails.values()))

    def process(self, frame: Frame, lap: int = 0) -> None:
        """Take one frame through to its place in the ring, and settle those that leave it."""
        self.frames_this_run += 1
        self.poll_model()
        seen, selection = self._judge(frame, lap)
        for outcome in self.ring.offer(seen, frame.sensor_id, frame.drive_id, len(frame.payload), selection):
            self._settle(outcome)
        self.tick()

    def poll_model(self) -> None:
        """Between two frames: let a waiting model take over, or a halted one go."""
        self._serving.poll()

    def tick(self) -> None:
        """Hand over what waits when it is time: the place first, then the samples and counts that belong to it.

        Raises RuntimeError when the thread that commits has died.
        """
        now_ns = self._clock.monotonic_ns()
        is_due = now_ns - self._committed_ns >= self._spool.commit_interval_s * 1e9
        if not is_due and self._writer.waiting < self._spool.commit_count:
            return
        if self._must_compact():
            self._commit()
            return
        self._write_place()
        self._writer.hand_over()
        self._committed_ns = self._clock.monotonic_ns()
        self._log.flush()

    def _commit(self) -> None:
        """Commit here and now: afterwards every step that was written holds, so that the journal may be compacted."""
        self._write_place()
        self._writer.commit()
        self._committed_ns = self._clock.monotonic_ns()
        if self._must_compact():
            self._compact()
        self._log.flush()

    def _must_compact(self) -> bool:
        """Whether the journal has grown, or was lost and is to be tried anew: a whole snapshot mends it."""
        if self._has_journal:
            return self._journal.is_large
        return self._clock.monotonic_ns() - self._lost_ns >= JOURNAL_RETRY_S * 1e9

    def _compact(self) -> None:
        try:
            self._journal.compact()
        except (OSError, FleetLoopError) as error:
            self._lose_journal(str(error))
            return
        if not self._has_journal:
            self._has_journal, self.progress_error = True, ""
            self._events.emit("progress_kept_again")

    def _lose_journal(self, error: str) -> None:
        """Without a place on disk the vehicle still works: a restart repeats frames."""
        if self._has_journal:
            self._events.emit("progress_lost", level="error", error=error)
        self._has_journal, self.progress_error = False, error
        self._lost_ns = self._clock.monotonic_ns()

    def end_source(self) -> None:
        """Let the ring run dry, commit, and remember that the source has ended."""
        self.pause()
        if self._journal.progress.frame_id is not None:
            self._write_place(has_ended=True)

    def pause(self) -> None:
        """Let the ring run dry and commit: nothing that was decided waits any more."""
        for outcome in self.ring.flush():
            self._settle(outcome)
        self._commit()

    def empty_drive(self) -> None:
        """Count a source that had no frame at all."""
        self._writer.not_accepted(NotAcceptedReason.EMPTY_DRIVE)
        self._writer.commit()
        self._events.emit("empty_drive", level="warning")

    def _judge(self, frame: Frame, lap: int) -> tuple[SeenFrame, Selection]:
        now_ns = self._clock.monotonic_ns()
        quality = self._wall.judge(frame.capture_time_ns, frame.provenance)
        bare = SeenFrame(frame, lap, now_ns, quality)
        try:
            pixels = decode_image(frame.payload, self._limits)
        except RejectedError as error:
            self._events.emit("unreadable_image", level="warning", frame_id=frame.frame_id, error=str(error))
            return bare, Selection(None, 0.0, NotAcceptedReason.UNREADABLE_IMAGE)
        self._serving.remember(frame.payload)
        served = self._predict(pixels)
        if served is None:
            return bare, Selection(None, 0.0, NotAcceptedReason.MODEL_ERROR)
        prediction, digest = served.predictions[0], served.model_digest
        self._log.write(
            frame_id=frame.frame_id,
            drive_id=frame.drive_id,
            lap=lap,
            model_digest=digest,
            predicted_class=prediction.summary(),
            time_ns=self._clock.now_ns(),
        )
        memory = self._running.memory
        memory.use_model(digest)
        compared = memory.compared_with(len(prediction.embedding)) if prediction.embedding else None
        scores = _flat(score(prediction, compared))
        candidate = Candidate(frame.frame_id, frame.drive_id, frame.track_id, len(frame.payload), scores, lap)
        is_affordable = self._running.budget.can_pay(frame.drive_id, len(frame.payload), now_ns)
        seen = SeenFrame(frame, lap, now_ns, quality, served.model_name, digest, prediction, scores)
        return seen, self._policy.select(candidate, affordable=is_affordable)

    def _predict(self, pixels: Pixels) -> Served | None:
        """Return the serving model's answer, after a rollback that of the model before; None without any."""
        try:
            served = self._serving.predict([pixels])
        except RejectedError as error:
            self._events.emit("model_error", level="warning", reason=error.reason, error=str(error))
            return None
        return served if served.predictions[0].is_finite else None

    def _reserve(self, drive_id: str, amount_bytes: int) -> bool:
        return self._running.budget.reserve(drive_id, amount_bytes, self._clock.monotonic_ns())

    def _note_kept(self, seen: SeenFrame, selection: Selection | None) -> None:
        frame = seen.frame
        if seen.prediction is not None:
            self._running.memory.remember(seen.prediction.embedding, seen.model_digest)
        if selection is not None and selection.by_rule:
            self._running.tracks.count(frame.drive_id, frame.track_id)

    def _forget_kept(self, seen: SeenFrame, kept: Kept) -> None:
        """The spool refused it: nothing of it will be sent, so nothing of it may stand in a later frame's way."""
        frame = seen.frame
        self._running.budget.give_back(frame.drive_id, len(frame.payload))
        if seen.prediction is not None:
            self._running.memory.forget(seen.prediction.embedding, seen.model_digest)
        if kept.by_rule:
            self._running.tracks.give_back(frame.drive_id, frame.track_id)

    def _name_incident(self, seen: SeenFrame) -> str:
        frame = seen.frame
        names = (self._vehicle_id, frame.drive_id, frame.sensor_id, frame.frame_id, str(seen.lap))
        return hashlib.sha256("\0".join(names).encode()).hexdigest()[:32]

    def _settle(self, outcome: Outcome[SeenFrame]) -> None:
        seen, progress = outcome.item, self._journal.progress
        self._tails[outcome.tail.sensor_id] = outcome.tail
        self._place = (seen.frame.resume_place, seen.lap)
        progress.frames_seen += 1
        if outcome.kept is None:
            self._refuse(outcome.refused_for or NotAcceptedReason.NOT_SELECTED, seen)
            return
        step = self._step(seen, self._last_seq + 1, self._kept_frame(seen, outcome.kept))
        self._write(step)
        try:
            identity = self._writer.append(self._sample(seen, outcome.kept))
        except RejectedError as error:
            self._refuse(_not_accepted(error), seen)
            self._forget_kept(seen, outcome.kept)
            self._events.emit(
                "not_accepted",
                level="warning",
                frame_id=seen.frame.frame_id,
                reason=error.reason,
                error=str(error),
            )
            return
        self._last_seq = identity.seq
        self._apply(step)

    def _refuse(self, reason: NotAcceptedReason, seen: SeenFrame) -> None:
        """Count a frame that will not be sent: with the next commit, and in the next step, which holds or does
        not hold together with its place."""
        self._writer.not_accepted(reason, bytes=len(seen.frame.payload))
        self._has_refused = True

    def _kept_frame(self, seen: SeenFrame, kept: Kept) -> KeptFrame:
        embedding = seen.prediction.embedding if seen.prediction is not None else ()
        return KeptFrame(
            drive_id=seen.frame.drive_id,
            track_id=seen.frame.track_id,
            payload_bytes=len(seen.frame.payload),
            counts_for_track=kept.by_rule,
            monotonic_ns=seen.monotonic_ns,
            model_digest=seen.model_digest,
            embedding=np.asarray(embedding if self._running.memory.capacity else (), dtype=np.float32),
        )

    def _step(self, seen: SeenFrame, seq: int, kept: KeptFrame) -> Step:
        return Step(
            epoch=self._writer.epoch,
            seq=seq,
            frame_id=seen.frame.resume_place,
            lap=seen.lap,
            frames_seen=self._journal.progress.frames_seen,
            tails=tuple(self._tails.values()),
            kept=kept,
            refused=self._refused(),
        )

    def _write_place(self, *, has_ended: bool = False) -> None:
        """Write where the loop is, although nothing was kept there."""
        if self._place is None and not has_ended:
            return
        progress = self._journal.progress
        frame_id, lap = self._place or (progress.frame_id or "", progress.lap)
        step = Step(
            epoch=self._writer.epoch,
            seq=self._last_seq,
            frame_id=frame_id,
            lap=lap,
            frames_seen=progress.frames_seen,
            tails=tuple(self._tails.values()),
            has_ended=has_ended,
            refused=self._refused(),
        )
        self._write(step)
        self._apply(step)

    def _refused(self) -> Refused | None:
        """The counts, when they changed since the last step."""
        if not self._has_refused:
            return None
        self._has_refused = False
        counts, size_bytes = self._writer.refused_frames()
        counts.pop(NotAcceptedReason.EMPTY_DRIVE, None)
        return Refused(counts, size_bytes)

    def _apply(self, step: Step) -> None:
        self._journal.progress.apply(step)
        self._tails.clear()
        self._place = None

    def _write(self, step: Step) -> None:
        if not self._has_journal:
            return
        try:
            self._journal.write(step)
        except (OSError, FleetLoopError) as error:  # a full disk, a sealed file
            self._lose_journal(str(error))

    def _sample(self, seen: SeenFrame, kept: Kept) -> Sample:
        frame, prediction = seen.frame, seen.prediction
        return Sample(
            vehicle_id=self._vehicle_id,
            epoch=self._writer.epoch,
            previous_epoch=self._writer.previous_epoch,
            seq=self._last_seq + 1,
            drive_id=frame.drive_id,
            sensor_id=frame.sensor_id,
            capture_time_ns=frame.capture_time_ns,
            capture_time_uncertainty_ns=frame.capture_time_uncertainty_ns,
            monotonic_ns=seen.monotonic_ns,
            boot_id=boot_id(),
            spool_time_ns=self._clock.now_ns(),
            frame_id=frame.frame_id,
            payload_sha256=hashlib.sha256(frame.payload).hexdigest(),
            payload_bytes=len(frame.payload),
            payload=frame.payload,
            content_type=frame.content_type,
            calibration_ref=frame.calibration_ref,
            time_quality=seen.time_quality,
            track_id=frame.track_id,
            incident=None
            if kept.incident_id is None
            else Incident(kept.incident_id, kept.window_role, frame.sensor_id),
            predictions=() if prediction is None else (_serving_prediction(seen, prediction),),
            rule_id=kept.rule_id,
            rule_score=kept.rule_score,
            value_class=kept.value_class,
            selection_probability=kept.inclusion_probability,
            provenance=frame.provenance,
        )


def _flat(scores: Mapping[str, float]) -> Scores:
    return Scores(**{field.name: scores.get(field.name) for field in fields(Scores)})


def _serving_prediction(seen: SeenFrame, prediction: Prediction) -> ModelPrediction:
    scores = {name: value for name, value in asdict(seen.scores).items() if value is not None}
    return to_wire(
        prediction, scores, role_name=SERVING, model_name=seen.model_name, model_digest=seen.model_digest
    )


def _not_accepted(error: RejectedError) -> NotAcceptedReason:
    """Return the counter of a refusal by the spool; one that is in no list is an encode error."""
    try:
        return NotAcceptedReason(error.reason)
    except ValueError:
        return NotAcceptedReason.ENCODE_ERROR

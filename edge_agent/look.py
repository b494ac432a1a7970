"""Run the models on one observation and attach their predictions to it.

An image is decoded and given to the models; anything else passes without a prediction. What cannot be read or
predicted passes with its reason: nothing in a payload stops the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from connectors.sensors.ports import Observation
from edge_agent.heartbeat import Activity, Heartbeat
from edge_agent.models.model_set import ModelSet
from edge_agent.models.role_model import Served
from edge_agent.prediction_log import PredictionLog
from edge_agent.selection.novelty import NoveltyMemory
from foundation.clock import Clock
from foundation.errors import RejectedError
from foundation.events import EventLog
from modelkit.images import ImageLimits, Pixels, decode_image
from modelkit.predictor import to_wire
from modelkit.scores import CountMemory, score
from modelkit.tasks import TASKS
from schemas.predictions import ModelPrediction
from schemas.reasons import Modality, NotAcceptedReason
from schemas.roles import SERVING


@dataclass(frozen=True, slots=True)
class Looked:
    """The predictions of the models, or why there are none (`failed_for`)."""

    predictions: tuple[ModelPrediction, ...] = ()
    failed_for: NotAcceptedReason | None = None


class Viewer:
    """Runs the models on observations. One thread only."""

    def __init__(
        self,
        models: ModelSet,
        memory: NoveltyMemory,
        log: PredictionLog,
        clock: Clock,
        events: EventLog,
        limits: ImageLimits | None = None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        """`memory` is the reference of novelty; `heartbeat` is called when a model runs."""
        self._models = models
        self._memory = memory
        self._log = log
        self._clock = clock
        self._events = events
        self._limits = limits
        self._counts = CountMemory()
        self._beat = heartbeat.beat if heartbeat is not None else _beat_nobody_sees

    def poll(self) -> None:
        """Between two observations: let a waiting model take over, or a halted one go."""
        if not self._models.is_poll_due():
            return
        self._beat(Activity.LOADING)
        try:
            self._models.poll()
        finally:
            self._beat(Activity.WORKING)

    def look(self, observation: Observation, lap: int) -> Looked:
        """Return the predictions; the scores of each are named by its task, and `novelty` is measured here."""
        if observation.modality is not Modality.IMAGE:
            return Looked()
        try:
            pixels = decode_image(observation.payload, self._limits)
        except (RejectedError, MemoryError) as error:
            why = str(error) or type(error).__name__
            self._events.emit("unreadable_image", level="warning", frame_id=observation.frame_id, error=why)
            return Looked(failed_for=NotAcceptedReason.UNREADABLE_IMAGE)
        self._models.remember(observation.payload)
        answers = self._predict(pixels)
        if not answers:
            return Looked(failed_for=NotAcceptedReason.MODEL_ERROR)
        served = answers[0]
        prediction, digest = served.predictions[0], served.model_digest
        self._log.write(
            frame_id=observation.frame_id,
            drive_id=observation.drive_id,
            lap=lap,
            model_digest=digest,
            predicted_class=prediction.summary(),
            time_ns=self._clock.now_ns(),
        )
        self._memory.use_model(digest)
        compared = self._memory.compared_with(len(prediction.embedding)) if prediction.embedding else None
        scores = score(prediction, compared)
        count = TASKS[prediction.task].count(prediction.output)
        if count is not None:
            flicker = self._counts.flicker(observation.sensor_id, observation.drive_id, count)
            scores |= {} if flicker is None else {"count_flicker": flicker}
        said = to_wire(
            prediction, scores, role_name=SERVING, model_name=served.model_name, model_digest=digest
        )
        return Looked((said, *self._models.recorded(answers[1:])))

    def _predict(self, pixels: Pixels) -> list[Served]:
        """Return the serving model's answer (after a rollback that of the model before) and those of the other roles.

        Empty without a finite answer of the role serving.
        """
        self._beat(Activity.MODEL)
        try:
            answers = self._models.predict([pixels])
        except RejectedError as error:
            self._events.emit("model_error", level="warning", reason=error.reason, error=str(error))
            return []
        finally:
            self._beat(Activity.WORKING)
        return answers if answers[0].predictions[0].is_finite else []


def _beat_nobody_sees(_activity: Activity) -> None:
    """For callers without a supervisor."""

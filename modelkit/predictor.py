"""Turn pictures into predictions: the one path that vehicle, training and evaluation share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from foundation.errors import RejectedError
from modelkit.contract import ModelContract
from modelkit.images import Pixels
from modelkit.placement import state_placement
from modelkit.prepare import feeds, place_all
from modelkit.runtime import LoadedModel
from modelkit.tasks import TASKS
from modelkit.tasks.task import per_picture, wrong_io
from schemas.predictions import ModelPrediction
from schemas.reasons import RefuseReason

DEFAULT_MAX_BATCH: Final = 64
CPU_SCORE: Final = "fallback_cpu_ratio"
"""Score of a prediction whose model fell back to the CPU on this vehicle: the share of its work (MACs) that ran there."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's prediction for one picture; the type of `output` is the task's.

    When `is_finite` is False (a NaN or infinity in what comes out of the head, or in the embedding) there is no
    answer: `output` is None and `embedding` empty. A model without an embedding always has an empty one.
    """

    task: str
    output: Any
    embedding: tuple[float, ...]
    is_finite: bool
    scores: Mapping[str, float] = field(default_factory=dict)
    """The task's scores of how much there is to learn from it, by measure, in [0, 1]; empty without an answer."""

    def summary(self) -> str:
        """Return the answer in a few words, "" without one."""
        return TASKS[self.task].summary(self.output) if self.is_finite else ""


def to_wire(
    prediction: Prediction, scores: Mapping[str, float], *, role_name: str, model_name: str, model_digest: str
) -> ModelPrediction:
    """Return the prediction as the record that is sent."""
    fields = TASKS[prediction.task].wire_fields(prediction.output) if prediction.is_finite else {}
    fields.setdefault("embedding", prediction.embedding)
    return ModelPrediction(role_name, prediction.task, model_name, model_digest, scores, **fields)


class Predictor:
    """Runs a loaded model on pictures exactly as its contract says."""

    def __init__(
        self,
        loaded: LoadedModel,
        contract: ModelContract,
        max_batch: int = DEFAULT_MAX_BATCH,
        wanted: Sequence[str] = (),
    ) -> None:
        """`wanted`: the providers that a vehicle prefers, best first; if the model fell back, each prediction says so.

        Raises RejectedError(wrong_io) when `contract` is not the loaded model's own.
        """
        if contract != loaded.contract:
            raise RejectedError(
                f"the loaded model is {loaded.contract.name!r}, not {contract.name!r}",
                reason=RefuseReason.WRONG_IO,
            )
        self.loaded = loaded
        self.contract = contract
        self.task = TASKS[contract.task]
        self.placement = state_placement(loaded, wanted)
        self._flags = (
            {CPU_SCORE: self.placement.cpu_ratio} if wanted and self.placement.is_fallen_back else {}
        )
        self._no_answer = Prediction(contract.task, None, (), False)
        self._batch = contract.input.batch or max_batch

    def predict(self, images: Sequence[Pixels]) -> list[Prediction]:
        """Return one prediction per picture, in order; pictures of any size, (H, W, 3) 8-bit RGB.

        Raises:
            RejectedError: reason `run_failed` or `wrong_io`, from the runtime or the task.
        """
        found: list[Prediction] = []
        for start in range(0, len(images), self._batch):
            found.extend(self._predict_batch(images[start : start + self._batch]))
        return found

    def _predict_batch(self, images: Sequence[Pixels]) -> list[Prediction]:
        contract = self.contract
        placed = place_all(images, contract)
        raw = self.loaded.run(feeds(images, placed, contract))
        try:
            outputs = self.task.decode(raw, contract, placed)
        except (ArithmeticError, LookupError, ValueError, TypeError) as error:
            # A model's output is untrusted: numbers and shapes that no head expects must not end the process.
            raise wrong_io(f"the answer fits no {contract.task}: {type(error).__name__}: {error}") from error
        embeddings: list[list[float]] = [[] for _ in images]
        finite = [output is not None for output in outputs]
        if contract.embedding_size:
            matrix = per_picture(raw, "embedding", contract, len(images), contract.embedding_size)
            embeddings = matrix.tolist()
            finite = (np.isfinite(matrix).all(axis=1) & np.array(finite)).tolist()
        return [
            Prediction(
                contract.task,
                output,
                tuple(embedding),
                True,
                {**self.task.scores(output, contract), **self._flags},
            )
            if is_finite
            else self._no_answer
            for output, embedding, is_finite in zip(outputs, embeddings, finite, strict=True)
        ]

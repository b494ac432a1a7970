"""Pictures in, predictions out: the one path that vehicle, training and evaluation share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from foundation.errors import RejectedError
from modelkit.contract import ModelContract
from modelkit.images import Pixels, preprocess
from modelkit.runtime import LoadedModel
from schemas.reasons import RefuseReason

DEFAULT_MAX_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says about one picture.

    When `logits_finite` is False (a NaN or infinity in logits or embedding) there is no answer:
    `class_index` is -1, `class_name` empty, `probabilities` and `embedding` are empty tuples.
    """

    class_index: int
    class_name: str
    probabilities: tuple[float, ...]
    embedding: tuple[float, ...]
    logits_finite: bool


NO_ANSWER: Final = Prediction(-1, "", (), (), False)


class Predictor:
    """Runs a loaded model on pictures exactly as its contract says."""

    def __init__(
        self, loaded: LoadedModel, contract: ModelContract, max_batch: int = DEFAULT_MAX_BATCH
    ) -> None:
        """Raises RejectedError(wrong_io) when `contract` is not the loaded model's own."""
        if contract != loaded.contract:
            raise RejectedError(
                f"the loaded model is {loaded.contract.name!r}, not {contract.name!r}",
                reason=RefuseReason.WRONG_IO,
            )
        self.loaded = loaded
        self.contract = contract
        self._max_batch = max_batch

    def predict(self, images: Sequence[Pixels]) -> list[Prediction]:
        """One prediction a picture, in order; pictures of any size, (H, W, 3) 8-bit RGB.

        Raises:
            RejectedError: reason `run_failed` or `wrong_io`, from the runtime.
        """
        found: list[Prediction] = []
        for start in range(0, len(images), self._max_batch):
            found.extend(self._predict_batch(images[start : start + self._max_batch]))
        return found

    def _predict_batch(self, images: Sequence[Pixels]) -> list[Prediction]:
        raw = self.loaded.run(preprocess(images, self.contract))
        logits = raw.logits.astype(np.float64)
        finite = np.asarray(np.isfinite(logits).all(axis=1) & np.isfinite(raw.embedding).all(axis=1))
        safe = np.where(finite[:, None], logits, 0.0)
        exponents = np.exp(safe - safe.max(axis=1, keepdims=True))
        probabilities = exponents / exponents.sum(axis=1, keepdims=True)
        best = probabilities.argmax(axis=1)
        return [
            Prediction(
                int(best[row]),
                self.contract.classes[int(best[row])],
                tuple(probabilities[row].tolist()),
                tuple(raw.embedding[row].tolist()),
                True,
            )
            if finite[row]
            else NO_ANSWER
            for row in range(len(images))
        ]

"""How much a prediction is worth learning from: the same numbers on the vehicle and in curation.

Every score is 0 (nothing to learn) to 1 (most to learn). A score that cannot be computed is None, never a
guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foundation.errors import RejectedError
from schemas.records import Scores

if TYPE_CHECKING:
    from modelkit.predictor import Prediction

Floats = NDArray[np.float64]


def _distributions(probabilities: ArrayLike) -> Floats:
    """Probabilities over the last axis as float64; each row is finite, non-negative and sums to 1."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim < 1 or p.shape[-1] < 2:
        raise RejectedError(
            f"probabilities of shape {p.shape}: at least 2 classes are needed", reason="invalid_value"
        )
    if (
        not bool(np.isfinite(p).all())
        or bool((p < 0).any())
        or bool((np.abs(p.sum(axis=-1) - 1.0) > 1e-3).any())
    ):
        raise RejectedError("probabilities must be finite, at least 0 and sum to 1", reason="invalid_value")
    return p


def entropy(probabilities: ArrayLike) -> Floats:
    """Shannon entropy over the last axis, divided by that of the uniform distribution; (..., C) to (...)."""
    return _unit_range(_entropy(_distributions(probabilities)))


def _entropy(p: Floats) -> Floats:
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0)
    return np.asarray(-terms.sum(axis=-1) / np.log(p.shape[-1]))


def margin(probabilities: ArrayLike) -> Floats:
    """One minus the gap between the two most likely classes; (..., C) to (...)."""
    return _unit_range(_margin(_distributions(probabilities)))


def _margin(p: Floats) -> Floats:
    top = np.partition(p, p.shape[-1] - 2, axis=-1)[..., -2:]
    return np.asarray(1.0 - (top[..., 1] - top[..., 0]))


def least_confidence(probabilities: ArrayLike) -> Floats:
    """One minus the largest probability, 1 for the uniform distribution; (..., C) to (...)."""
    return _unit_range(_least_confidence(_distributions(probabilities)))


def _least_confidence(p: Floats) -> Floats:
    classes = p.shape[-1]
    return np.asarray((1.0 - p.max(axis=-1)) * classes / (classes - 1))


def _unit_range(values: ArrayLike) -> Floats:
    return np.asarray(np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0), dtype=np.float64)


def _unit_number(value: Floats) -> float:
    return min(max(float(value), 0.0), 1.0)


class EmbeddingMemory:
    """The last `capacity` embeddings, as unit vectors: what novelty is measured against. Not thread-safe."""

    def __init__(self, capacity: int, size: int) -> None:
        """`size` is the embedding's length; memory is capacity * size * 4 bytes, taken at once."""
        if not 1 <= capacity <= 1_000_000 or not 1 <= size <= 4096:
            raise RejectedError(
                f"capacity {capacity}, size {size}: allowed are 1 to 1000000 and 1 to 4096",
                reason="invalid_value",
            )
        self._rows = np.zeros((capacity, size), dtype=np.float32)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self._rows.shape[0])

    def add(self, embedding: ArrayLike) -> bool:
        """Remember an embedding, forgetting the oldest when full; False for one without direction."""
        unit = self._unit(embedding)
        if unit is None:
            return False
        self._rows[self._added % self._rows.shape[0]] = unit
        self._added += 1
        return True

    def nearest_similarity(self, embedding: ArrayLike) -> float | None:
        """Largest cosine to what is remembered; None for an empty memory or a vector without direction."""
        unit = self._unit(embedding)
        if unit is None or self._added == 0:
            return None
        return float((self._rows[: len(self)] @ unit).max())

    def has_direction(self, embedding: ArrayLike) -> bool:
        """The embedding is finite and not all zero: it can be compared at all."""
        return self._unit(embedding) is not None

    def _unit(self, embedding: ArrayLike) -> NDArray[np.float32] | None:
        vector = np.asarray(embedding, dtype=np.float32)
        if vector.shape != (self._rows.shape[1],):
            raise RejectedError(
                f"embedding of shape {vector.shape}, this memory holds ({self._rows.shape[1]},)",
                reason="invalid_value",
            )
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if not np.isfinite(length) or length <= 0.0:
            return None
        return np.asarray(vector / length, dtype=np.float32)


def novelty(embedding: ArrayLike, memory: EmbeddingMemory) -> float | None:
    """Cosine distance to the nearest remembered embedding, halved to 0..1; 1 when nothing is remembered yet.

    None when the embedding has no direction (all zero, or not finite).
    """
    similarity = memory.nearest_similarity(embedding)
    if similarity is None:
        return 1.0 if memory.has_direction(embedding) else None
    return float(min(max((1.0 - similarity) / 2.0, 0.0), 1.0))


def score(prediction: Prediction, memory: EmbeddingMemory | None) -> Scores:
    """All scores of one prediction; all None when the output was not finite. Leaves the memory alone."""
    if not prediction.logits_finite:
        return Scores(entropy=None, margin=None, least_confidence=None, novelty=None)
    p = _distributions(prediction.probabilities)  # once, not once a score: this is on every frame's way
    return Scores(
        entropy=_unit_number(_entropy(p)),
        margin=_unit_number(_margin(p)),
        least_confidence=_unit_number(_least_confidence(p)),
        novelty=None if memory is None else novelty(prediction.embedding, memory),
    )

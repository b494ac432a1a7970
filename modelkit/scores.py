"""Score how much a prediction is worth learning from: the same numbers on the vehicle and in curation.

Every score is 0 (nothing to learn) to 1 (most to learn). A score that cannot be computed is left out, never
guessed. The task defines uncertainty; novelty is the same for all models with an embedding.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foundation.errors import RejectedError

if TYPE_CHECKING:
    from modelkit.predictor import Prediction


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
        """Return the largest cosine to a remembered embedding; None for an empty memory or a vector without direction."""
        unit = self._unit(embedding)
        if unit is None or self._added == 0:
            return None
        return float((self._rows[: len(self)] @ unit).max())

    def has_direction(self, embedding: ArrayLike) -> bool:
        """Return whether the embedding is finite and not all zero, so that it can be compared."""
        return self._unit(embedding) is not None

    def _unit(self, embedding: ArrayLike) -> NDArray[np.float32] | None:
        vector = np.asarray(embedding, dtype=np.float32)
        if vector.shape != (self._rows.shape[1],):
            raise RejectedError(
                f"embedding of shape {vector.shape}, this memory holds ({self._rows.shape[1]},)",
                reason="invalid_value",
            )
        wide = vector.astype(np.float64)
        length = math.sqrt(wide.dot(wide))
        if not 0.0 < length < math.inf:
            return None
        return np.asarray(vector / length, dtype=np.float32)


class CountMemory:
    """The last counts of objects per stream, to notice one that differs from its neighbours in time. Not thread-safe."""

    def __init__(self, length: int = 5, max_streams: int = 64) -> None:
        """`length` counts of each of at most `max_streams` streams; the stream that was silent longest is forgotten."""
        if not 2 <= length <= 1000 or not 1 <= max_streams <= 10_000:
            raise RejectedError(
                f"length {length}, max_streams {max_streams}: allowed are 2 to 1000 and 1 to 10000",
                reason="invalid_value",
            )
        self._length, self._max_streams = length, max_streams
        self._streams: dict[str, tuple[str, deque[int]]] = {}

    def flicker(self, stream: str, drive: str, count: int) -> float | None:
        """Remember a count, and return how far it is from the median of those before it in this drive.

        It is |count - median| / max(count, median): 0 for a steady count, 1 where all objects vanish or appear at once.
        None until there are two counts before it.
        """
        known_drive, counts = self._streams.pop(stream, ("", deque(maxlen=self._length)))
        if known_drive != drive:
            counts = deque(maxlen=self._length)
        found = None
        if len(counts) >= 2:
            usual = median(counts)
            largest = max(count, usual)
            found = abs(count - usual) / largest if largest else 0.0
        counts.append(count)
        self._streams[stream] = drive, counts
        while len(self._streams) > self._max_streams:
            del self._streams[next(iter(self._streams))]
        return found


def novelty(embedding: ArrayLike, memory: EmbeddingMemory) -> float | None:
    """Return the cosine distance to the nearest remembered embedding, halved to 0..1; 1 when none is remembered.

    None when the embedding has no direction (all zero, or not finite).
    """
    similarity = memory.nearest_similarity(embedding)
    if similarity is None:
        return 1.0 if memory.has_direction(embedding) else None
    return float(min(max((1.0 - similarity) / 2.0, 0.0), 1.0))


def score(prediction: Prediction, memory: EmbeddingMemory | None) -> dict[str, float]:
    """Return all scores of one prediction by name, those of its task and `novelty`; empty without an answer.

    A score that cannot be computed is not there. Leaves the memory alone.
    """
    distance = novelty(prediction.embedding, memory) if memory is not None and prediction.embedding else None
    return {**prediction.scores} if distance is None else {**prediction.scores, "novelty": distance}

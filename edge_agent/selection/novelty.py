"""Keep frames unlike anything this vehicle already kept for sending.

Why kept and not sent: an accepted frame will be sent (or its eviction is counted), perhaps weeks later. Compared
with what the broker has already, a vehicle without a network would keep the same novelty a hundred times. A frame
that the spool refuses was not kept, and is forgotten again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.selection.decision import Decision, ScoredObservation
from modelkit.scores import EmbeddingMemory
from schemas.reasons import ValueClass


@dataclass(frozen=True, slots=True)
class NoveltySelector:
    """Fires when novelty (`modelkit.scores.novelty`, 0 to 1) against what was kept reaches `threshold`.

    What was kept is what will be sent: see the module's docstring for why not what was sent already.
    """

    threshold: float
    value_class: ValueClass

    def decide(self, frame: ScoredObservation) -> Decision | None:
        """Return a decision with the novelty that reached the threshold; None for a frame without it."""
        score = frame.scores.get("novelty")
        if score is None or score < self.threshold:
            return None
        return Decision("novelty", score, self.value_class, 1.0)


class NoveltyMemory:
    """The embeddings of the last `capacity` kept frames, of one model only.

    Embeddings of two models are not comparable, so another digest empties the memory. Bounded: capacity x
    embedding_size float32 values, twice. A capacity of 0 remembers nothing.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.model_digest = ""
        self._rows: deque[NDArray[np.float32]] = deque(maxlen=capacity)
        self._compared: EmbeddingMemory | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def remember(self, embedding: Sequence[float] | NDArray[np.float32], model_digest: str) -> None:
        """Add one kept frame's embedding; the oldest leaves when the memory is full."""
        self.use_model(model_digest)
        row = np.asarray(embedding, dtype=np.float32)
        if self._rows and self._rows[-1].shape != row.shape:
            self._forget()
        self._rows.append(row)
        if self._compared is not None:
            self._compared.add(row)

    def forget(self, embedding: Sequence[float] | NDArray[np.float32], model_digest: str) -> None:
        """Remove one frame's embedding: it was not kept after all. An unknown (or displaced) one is no error."""
        row = np.asarray(embedding, dtype=np.float32)
        if model_digest != self.model_digest:
            return
        for index in reversed(range(len(self._rows))):
            if np.array_equal(self._rows[index], row):
                del self._rows[index]
                self._compared = None  # made again from the rows when it is next asked for
                return

    def use_model(self, model_digest: str) -> None:
        """Forget everything when `model_digest` is not the model that the memory was made with."""
        if model_digest != self.model_digest:
            self.model_digest = model_digest
            self._forget()

    def compared_with(self, embedding_size: int) -> EmbeddingMemory | None:
        """Return the memory to compare a new embedding of this size with; None when nothing is remembered."""
        if self.capacity < 1:
            return None
        if self._compared is None:
            self._compared = EmbeddingMemory(self.capacity, embedding_size)
            for row in self._rows:
                self._compared.add(row)
        return self._compared

    def matrix(self) -> NDArray[np.float32]:
        """Return all rows, oldest first: shape (n, embedding_size), (0, 0) when empty."""
        return np.stack(self._rows) if self._rows else np.zeros((0, 0), dtype=np.float32)

    def restore(self, rows: NDArray[np.float32], model_digest: str) -> None:
        """Replace the contents by `rows` of shape (n, embedding_size), oldest first."""
        self._forget()
        self.model_digest = model_digest
        self._rows.extend(np.asarray(row, dtype=np.float32) for row in rows)

    def _forget(self) -> None:
        self._rows.clear()
        self._compared = None

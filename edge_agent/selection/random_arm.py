"""Keep each frame with one known probability, so that estimates over the fleet can be unbiased."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from edge_agent.selection.decision import Decision, ScoredObservation
from schemas.reasons import ValueClass

_DRAWS = 1 << 64


@dataclass(frozen=True, slots=True)
class RandomArm:
    """Keeps a frame with `probability`, by a hash of (seed, vehicle, drive, frame, lap).

    Why a hash and not a generator: a frame that is judged again after a crash gets the same answer,
    whatever was judged before it.
    """

    vehicle_id: str
    seed: int
    probability: float
    value_class: ValueClass

    def draw(self, frame: ScoredObservation) -> float:
        """Return a uniform number in [0, 1), a pure function of the names."""
        names = (str(self.seed), self.vehicle_id, frame.drive_id, frame.frame_id, str(frame.lap))
        digest = hashlib.sha256("\0".join(names).encode()).digest()
        return int.from_bytes(digest[:8], "big") / _DRAWS

    def decide(self, frame: ScoredObservation) -> Decision | None:
        """Return a decision that carries the probability; its score is None, for nothing was measured."""
        if self.probability <= 0 or self.draw(frame) >= self.probability:
            return None
        return Decision("random", None, self.value_class, self.probability)

"""Keep each frame with one known probability, so that estimates over the fleet can be unbiased."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from edge_agent.selection.decision import Candidate, Decision
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

    def draw(self, candidate: Candidate) -> float:
        """Uniform in [0, 1), a pure function of the candidate's names."""
        names = (str(self.seed), self.vehicle_id, candidate.drive_id, candidate.frame_id, str(candidate.lap))
        digest = hashlib.sha256("\0".join(names).encode()).digest()
        return int.from_bytes(digest[:8], "big") / _DRAWS

    def judge(self, candidate: Candidate) -> Decision | None:
        """Return a decision that carries the probability; its score is None, for nothing was measured."""
        if self.probability <= 0 or self.draw(candidate) >= self.probability:
            return None
        return Decision("random", None, self.value_class, self.probability)

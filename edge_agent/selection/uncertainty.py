"""Keep frames that the serving model is unsure about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edge_agent.selection.decision import Decision, ScoredObservation
from schemas.reasons import ValueClass


class UncertaintyMeasure(StrEnum):
    """Which score is compared. All run from 0 (sure) to 1 (unsure); see `modelkit.scores`.

    The last three are of detection: means over the boxes, and a count that differs from those just before it.
    """

    ENTROPY = "entropy"
    MARGIN = "margin"
    LEAST_CONFIDENCE = "least_confidence"
    MEAN_BOX_ENTROPY = "mean_box_entropy"
    MEAN_BOX_MARGIN = "mean_box_margin"
    COUNT_FLICKER = "count_flicker"


@dataclass(frozen=True, slots=True)
class UncertaintySelector:
    """Fires when the chosen uncertainty is at least `threshold`."""

    measure: UncertaintyMeasure
    threshold: float
    value_class: ValueClass

    def decide(self, frame: ScoredObservation) -> Decision | None:
        """Return a decision with the score that reached the threshold; None for a frame without it."""
        score = frame.scores.get(self.measure.value)
        if score is None or score < self.threshold:
            return None
        return Decision(f"uncertainty.{self.measure.value}", score, self.value_class, 1.0)

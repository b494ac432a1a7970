"""Combine all selectors into one decision per frame, with the probability that makes it usable for estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.selection.decision import Decision, ScoredObservation, Selection, Selector
from edge_agent.selection.random_arm import RandomArm
from edge_agent.selection.track_limit import TrackLimit
from schemas.reasons import NotAcceptedReason


@dataclass(frozen=True, slots=True)
class SelectionPolicy:
    """Rules select with certainty, the random arm at random; rules take precedence over random sampling.

    A frame that a rule keeps has trigger probability 1, whatever the arm drew. A frame that no rule keeps
    (none fired, or its track is full) has the arm's p. A frame that the budget cannot pay has 0.
    """

    rules: Sequence[Selector]
    random_arm: RandomArm
    track_limit: TrackLimit

    def select(self, frame: ScoredObservation, *, affordable: bool) -> Selection:
        """Judge one frame. Changes nothing: the caller counts what it then keeps."""
        fired = [decision for rule in self.rules if (decision := rule.decide(frame)) is not None]
        drawn = self.random_arm.decide(frame)
        track_is_full = self.track_limit.is_full(frame.drive_id, frame.track_id)
        by_rule = bool(fired) and not track_is_full
        if not affordable:
            if by_rule or drawn:
                reason = NotAcceptedReason.OVER_BUDGET
            elif fired:
                reason = NotAcceptedReason.TRACK_LIMIT
            else:
                reason = NotAcceptedReason.NOT_SELECTED
            return Selection(None, 0.0, reason)
        if by_rule:
            return Selection(_strongest(fired), 1.0, None, by_rule=True)
        if drawn is not None:
            return Selection(drawn, drawn.selection_probability, None)
        reason = NotAcceptedReason.TRACK_LIMIT if fired else NotAcceptedReason.NOT_SELECTED
        return Selection(None, self.random_arm.probability, reason)


def _strongest(fired: Sequence[Decision]) -> Decision:
    """Return the decision of the highest value class; among equals the first in the table of rules."""
    return max(fired, key=lambda decision: decision.value_class)


def chance_of_any(probabilities: Sequence[float]) -> float:
    """1 - product of (1 - p): the chance that at least one of several independent draws happens."""
    miss = 1.0
    for probability in probabilities:
        miss *= 1.0 - probability
    return 1.0 - miss

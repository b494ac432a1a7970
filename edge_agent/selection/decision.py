"""Input and output of a selector: plain values, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from schemas.reasons import NotAcceptedReason, ValueClass


@dataclass(frozen=True, slots=True)
class ScoredObservation:
    """One observation after prediction; `scores` by name, in [0, 1]. `lap`: starts of a looped replay before."""

    frame_id: str
    drive_id: str
    track_id: str | None
    payload_bytes: int
    scores: Mapping[str, float]
    lap: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """One selector's decision to keep a frame.

    `selection_probability` is the chance (0 < p <= 1) with which this rule alone keeps such a frame: 1 for a
    threshold, p for the random arm.
    """

    rule_id: str
    score: float | None
    value_class: ValueClass
    selection_probability: float


@dataclass(frozen=True, slots=True)
class Selection:
    """The policy's decision on one frame.

    `trigger` keeps the frame (and opens its window); without one, `refused_for` says why not.
    `trigger_probability` in [0, 1] is the chance that this frame would have triggered, given all that was
    kept before it: 1 when a rule fired, p of the random arm otherwise, 0 when the budget could not have
    paid for it.
    """

    trigger: Decision | None
    trigger_probability: float
    refused_for: NotAcceptedReason | None
    by_rule: bool = False


class Selector(Protocol):
    """One selector, one file. Answers None when it has no reason to keep the frame."""

    def decide(self, frame: ScoredObservation) -> Decision | None:
        """Decide on one frame; pure."""

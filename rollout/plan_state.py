"""What a rollout remembers beyond its signed plan: later waves, their members, opening times, who was left out. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from foundation.documents import DocumentType
from foundation.files import MAX_FILE_BYTES
from rollout.plan import PlannedWave
from schemas.reasons import RolloutOutcome


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A failing vehicle without which a rollout went on, and when that was decided (the fleet's clock)."""

    vehicle_id: str
    wave: int
    outcome: RolloutOutcome
    reason: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class PlanState:
    """The state of a plan beyond the signed document."""

    plan_id: str
    waves: tuple[PlannedWave, ...]
    opened_ns: tuple[int, ...]
    covers_all: bool
    """Whether the waves hold every vehicle that was eligible at the start; then the completed plan covers later ones too."""
    exclude: tuple[str, ...]
    """Vehicles that the operator excluded (the signed plan also excludes later enrolments while it runs)."""
    halt_reason: str = ""
    left_out: tuple[LeftOut, ...] = ()
    """Failing vehicles without which the rollout went on, in the order in which that was decided."""


@dataclass(frozen=True, slots=True)
class PlanStates:
    """The content of state.json: plain objects of `PlanState` by plan_id, each read separately."""

    plans: dict[str, dict[str, Any]]


STATES: Final = DocumentType.first("state of the rollouts", PlanStates, max_bytes=MAX_FILE_BYTES)

"""The documents that flow down to vehicles: a release, and the plan by which vehicles take it.

They are targets of the TUF repository: whoever reads one has verified it already. Each is checked against
    its JSON
Schema (schemas/json) when it is read and when it is written. A vehicle finds its own wave; nothing names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self

from foundation.errors import RejectedError
from schemas import json_check
from schemas.reasons import RejectReason

FORMAT: Final = 1
RUNNING: Final = "running"
HALTED: Final = "halted"
COMPLETE: Final = "complete"


@dataclass(frozen=True, slots=True)
class Override:
    """Who let a release pass a gate that refused it, and why: never without both."""

    by: str
    why: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class Gate:
    """The gate's word. A release whose gate did not pass needs an override."""

    passed: bool
    reason: str = ""
    override: Override | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """One model that may be offered to vehicles. `model_target` is its flat name in the repository."""

    release_id: str
    model_name: str
    model_digest: str
    model_target: str
    model_bytes: int
    contract_digest: str
    gate: Gate
    created_time_ns: int
    notes: str = ""

    def to_json(self) -> bytes:
        """Sorted keys, indent 2, newline. Raises RejectedError (invalid_value)."""
        self._check_gate()
        return _written(self, "release")

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """What `to_json` wrote. Raises RejectedError (invalid_value, oversize) with place and bound."""
        fields = json_check.parse(data, "release")
        gate = fields.pop("gate")
        override = gate.pop("override")
        del fields["format"]
        release = cls(
            gate=Gate(**gate, override=None if override is None else Override(**override)),
            **fields,
        )
        release._check_gate()
        return release

    def _check_gate(self) -> None:
        if not self.gate.passed and self.gate.override is None:
            raise _invalid("release.gate.override", None, "given, because the gate did not pass")


@dataclass(frozen=True, slots=True)
class Wave:
    """One wave: `exact_count` vehicles, of positions below `threshold_hex`, none in an earlier wave."""

    number: int
    exact_count: int
    threshold_hex: str


@dataclass(frozen=True, slots=True)
class HealthGate:
    """When the next wave may start. A vehicle that is silent for `report_within_s` is not healthy."""

    min_reports: int = 1
    max_error_ratio: float = 0.0
    max_nan_count: int = 0
    report_within_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """Which vehicles may take a release. `waves` holds the waves opened so far, numbered from 1."""

    plan_id: str
    release_id: str
    state: str
    waves: tuple[Wave, ...]
    tags: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    health: HealthGate = field(default_factory=HealthGate)
    previous_release_id: str | None = None

    def wave_of(self, vehicle_id: str, tags: Collection[str] = ()) -> int | None:
        """The number of the vehicle's wave among those opened; None when it is (still) in none.

        Excluded beats included; an included vehicle is in the first wave, whatever its position and tags.
        Otherwise it needs every tag of the plan, and is in the first wave whose threshold is above its
        position.
        """
        if vehicle_id in self.exclude:
            return None
        if vehicle_id in self.include:
            return self.waves[0].number
        if not set(self.tags) <= set(tags):
            return None
        position = rollout_position(self.release_id, vehicle_id)
        for wave in self.waves:
            if position < wave.threshold_hex:
                return wave.number
        return None

    def with_state(self, state: str) -> Self:
        """The same plan, running, halted or complete."""
        return replace(self, state=state)

    def to_json(self) -> bytes:
        """Sorted keys, indent 2, newline. Raises RejectedError (invalid_value)."""
        self._check_waves()
        return _written(self, "rollout_plan")

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """What `to_json` wrote. Raises RejectedError (invalid_value, oversize) with place and bound."""
        fields = json_check.parse(data, "rollout_plan")
        del fields["format"]
        waves = tuple(Wave(**wave) for wave in fields.pop("waves"))
        health = HealthGate(**fields.pop("health"))
        fields |= {name: tuple(fields[name]) for name in ("tags", "include", "exclude")}
        plan = cls(waves=waves, health=health, **fields)
        plan._check_waves()
        return plan

    def _check_waves(self) -> None:
        numbers = [wave.number for wave in self.waves]
        if numbers != list(range(1, len(numbers) + 1)):
            raise _invalid("rollout_plan.waves", numbers, "numbered 1, 2, ... in order")
        thresholds = [wave.threshold_hex for wave in self.waves]
        if thresholds != sorted(thresholds):
            raise _invalid("rollout_plan.waves", thresholds, "of rising thresholds")
        both = set(self.include) & set(self.exclude)
        if both:
            raise _invalid("rollout_plan.include", sorted(both), "apart from exclude")


def rollout_position(release_id: str, vehicle_id: str) -> str:
    """Where a vehicle stands in the order of a release: sha256 hex of "release_id/vehicle_id"."""
    return hashlib.sha256(f"{release_id}/{vehicle_id}".encode()).hexdigest()


def _written(document: Release | RolloutPlan, schema_name: str) -> bytes:
    fields: dict[str, Any] = json.loads(json.dumps(asdict(document)))  # tuples become lists
    fields["format"] = FORMAT
    json_check.check(fields, schema_name)
    return json.dumps(fields, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _invalid(place: str, value: object, bound: str) -> RejectedError:
    return RejectedError(
        f"{place} is {str(value)[:100]!r}; it must be {bound}", reason=RejectReason.INVALID_VALUE
    )

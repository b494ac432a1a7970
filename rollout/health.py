"""Judges a wave by what its vehicles said, and by what they did not say: silence is not health. Pure.

A vehicle is healthy when its newest signed report, heard since the wave opened and no longer ago than the
gate allows, says that it has the release in the role, past its own probation, within the gate's bounds. Everything
else is waiting or a breach; one breach halts. Time is the fleet's own clock at the moment of hearing: a
vehicle's clock proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.documents import HealthGate, Release
from schemas.reasons import ModelState, RolloutOutcome
from schemas.roles import SERVING

BREACHES = frozenset(
    {RolloutOutcome.REFUSED, RolloutOutcome.ROLLED_BACK, RolloutOutcome.UNHEALTHY, RolloutOutcome.SILENT}
)


@dataclass(frozen=True, slots=True)
class VehicleReport:
    """What one vehicle is known to have said of one role, last heard at `heard_ns` (the fleet's clock).

    Counts are since the model of `model_digest` was first reported. `ends` are the vehicle's events on
    releases that did not go well: release_id -> (refused | rolled_back, reason).
    """

    vehicle_id: str
    heard_ns: int
    epoch: str
    seq: int
    model_digest: str
    model_name: str
    model_state: ModelState
    reports_on_model: int = 0
    frames: int = 0
    errors: int = 0
    not_finite: int = 0
    swaps: int = 0
    rollbacks: int = 0
    ends: Mapping[str, tuple[str, str]] | None = None
    role: str = SERVING


@dataclass(frozen=True, slots=True)
class VehicleVerdict:
    """One vehicle of an open wave, with the reason in words."""

    vehicle_id: str
    wave: int
    outcome: RolloutOutcome
    reason: str


@dataclass(frozen=True, slots=True)
class WaveVerdict:
    """All vehicles that are exposed so far. `healthy` only when every one of them is."""

    verdict: Literal["waiting", "healthy", "breached"]
    vehicles: tuple[VehicleVerdict, ...]

    @property
    def breaches(self) -> tuple[VehicleVerdict, ...]:
        """Those for which the rollout must halt."""
        return tuple(vehicle for vehicle in self.vehicles if vehicle.outcome in BREACHES)


def judge_waves(
    release: Release,
    gate: HealthGate,
    waves: Mapping[int, tuple[int, Collection[str]]],
    reports: Mapping[str, VehicleReport],
    now_ns: int,
) -> WaveVerdict:
    """The verdict on all opened waves.

    Args:
        waves: wave number -> (when it was opened, in ns of the fleet's clock; its members).
        now_ns: the fleet's clock.
    """
    found = [
        judge_vehicle(vehicle, number, release, gate, opened_ns, reports.get(vehicle), now_ns)
        for number, (opened_ns, members) in sorted(waves.items())
        for vehicle in sorted(members)
    ]
    if any(each.outcome in BREACHES for each in found):
        return WaveVerdict("breached", tuple(found))
    is_healthy = bool(found) and all(each.outcome is RolloutOutcome.ACTIVATED for each in found)
    return WaveVerdict("healthy" if is_healthy else "waiting", tuple(found))


def judge_vehicle(
    vehicle_id: str,
    wave: int,
    release: Release,
    gate: HealthGate,
    opened_ns: int,
    report: VehicleReport | None,
    now_ns: int,
) -> VehicleVerdict:
    """One vehicle's verdict."""
    outcome, reason = _outcome(release, gate, opened_ns, report, now_ns)
    return VehicleVerdict(vehicle_id, wave, outcome, reason)


def _outcome(
    release: Release, gate: HealthGate, opened_ns: int, report: VehicleReport | None, now_ns: int
) -> tuple[RolloutOutcome, str]:
    ended = (report.ends or {}).get(release.release_id) if report is not None else None
    if ended is not None:
        word, why = ended
        return (RolloutOutcome.ROLLED_BACK if word == "rolled_back" else RolloutOutcome.REFUSED), why
    heard_ns = report.heard_ns if report is not None and report.heard_ns >= opened_ns else None
    quiet_s = (now_ns - (opened_ns if heard_ns is None else heard_ns)) / 1e9
    if quiet_s > gate.report_within_s:
        return (
            RolloutOutcome.SILENT,
            f"nothing for {quiet_s:.0f} s, the gate allows {gate.report_within_s:.0f} s",
        )
    if report is None or heard_ns is None:
        return RolloutOutcome.WAITING, "has not reported since the wave opened"
    if report.model_digest != release.model_digest:
        return RolloutOutcome.WAITING, f"still serves {report.model_name}"
    if report.not_finite > gate.max_nan_count:
        return (
            RolloutOutcome.UNHEALTHY,
            f"{report.not_finite} outputs not finite, the gate allows {gate.max_nan_count}",
        )
    if report.errors > gate.max_error_ratio * max(report.frames, 1):
        return (
            RolloutOutcome.UNHEALTHY,
            f"{report.errors} errors in {report.frames} frames, the gate allows {gate.max_error_ratio}",
        )
    if report.model_state not in (ModelState.SERVING, ModelState.SHADOW):
        return RolloutOutcome.WAITING, "on probation"
    if report.reports_on_model < max(gate.min_reports, 1):
        return RolloutOutcome.WAITING, f"{report.reports_on_model} of {gate.min_reports} reports"
    return RolloutOutcome.ACTIVATED, f"{report.reports_on_model} reports, {report.frames} frames"

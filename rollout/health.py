"""Evaluate the health of a wave from the reports of its vehicles, counting missing reports against it. Pure.

A vehicle is healthy if its newest signed report, received since the wave was opened and within the gate's time limit, says
that it runs the release in the role, past its probation and within the bounds of the gate. Any other state is waiting or
a breach, and waiting becomes a breach at a deadline. Times are those of reception by the fleet's clock, because a
vehicle's clock cannot be trusted.

Whether breaches halt the rollout depends on how many vehicles it has reached: they are tolerated only if their share of
these vehicles is below `HealthGate.max_failing_ratio` with a confidence of 95 % (one-sided upper bound of Clopper and
Pearson). With 2 % that is none of up to 235 vehicles, 1 of 236 and 12 of 1,000, so a
canary wave stays strict, and a single vehicle that lies or is broken neither halts nor stalls a large rollout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import exp, fsum, lgamma, log, log1p
from typing import Literal

from schemas.documents import HealthGate, Release
from schemas.reasons import ModelState, RolloutOutcome
from schemas.roles import SERVING

BREACHES = frozenset(
    {
        RolloutOutcome.REFUSED,
        RolloutOutcome.ROLLED_BACK,
        RolloutOutcome.UNHEALTHY,
        RolloutOutcome.SILENT,
        RolloutOutcome.LATE,
    }
)
_DOUBT = 0.05
"""One minus the confidence of both bounds."""
_FEWEST_TO_HALT_EARLY = 2
"""Why not one? The first vehicle to report in a large wave would halt it alone."""


@dataclass(frozen=True, slots=True)
class VehicleReport:
    """The newest report of one vehicle about one role, received at `heard_ns` (the fleet's clock).

    Counts are since the model of `model_digest` was first reported. `ends` holds the releases that failed on the vehicle:
    release_id to (refused | rolled_back, reason).
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
    """The verdict on one vehicle of an open wave, with its reason."""

    vehicle_id: str
    wave: int
    outcome: RolloutOutcome
    reason: str


@dataclass(frozen=True, slots=True)
class WaveVerdict:
    """The verdict on all vehicles exposed so far; `healthy` only if each of them is, or is a tolerated breach."""

    verdict: Literal["waiting", "healthy", "breached"]
    vehicles: tuple[VehicleVerdict, ...]

    @property
    def breaches(self) -> tuple[VehicleVerdict, ...]:
        """The failing vehicles: because of them the rollout must halt (`breached`), or it goes on without them."""
        return tuple(vehicle for vehicle in self.vehicles if vehicle.outcome in BREACHES)


def judge_waves(
    release: Release,
    gate: HealthGate,
    waves: Mapping[int, tuple[int, Collection[str]]],
    reports: Mapping[str, VehicleReport],
    now_ns: int,
) -> WaveVerdict:
    """Return the verdict on all opened waves.

    Args:
        waves: wave number to (time at which it was opened, in ns of the fleet's clock; its members).
        now_ns: the present time of the fleet's clock.
    """
    found = [
        judge_vehicle(vehicle, number, release, gate, opened_ns, reports.get(vehicle), now_ns)
        for number, (opened_ns, members) in sorted(waves.items())
        for vehicle in sorted(members)
    ]
    failing = sum(each.outcome in BREACHES for each in found)
    waiting = sum(each.outcome is RolloutOutcome.WAITING for each in found)
    if failing and _must_halt(failing, len(found) - waiting, len(found), gate.max_failing_ratio):
        return WaveVerdict("breached", tuple(found))
    return WaveVerdict("healthy" if found and not waiting else "waiting", tuple(found))


def _must_halt(failing: int, decided: int, exposed: int, tolerated_ratio: float) -> bool:
    """Return whether too many vehicles fail: of all, even if the undecided were healthy, or plainly of the decided ones."""
    if not is_tolerable(failing, exposed, tolerated_ratio):
        return True
    return failing >= _FEWEST_TO_HALT_EARLY and 1 - _at_most(failing - 1, decided, tolerated_ratio) < _DOUBT


def is_tolerable(failing: int, vehicles: int, tolerated_ratio: float) -> bool:
    """Return whether the share of failing vehicles is below the tolerated one with a confidence of 95 %."""
    return failing == 0 or _at_most(failing, vehicles, tolerated_ratio) <= _DOUBT


def _at_most(most: int, tries: int, ratio: float) -> float:
    """Return the probability of at most `most` events in independent tries (the binomial distribution)."""
    if ratio in (0, 1):
        return 1.0 if ratio == 0 or most >= tries else 0.0
    each = (
        lgamma(tries + 1)
        - lgamma(n + 1)
        - lgamma(tries - n + 1)
        + n * log(ratio)
        + (tries - n) * log1p(-ratio)
        for n in range(min(most, tries) + 1)
    )
    return fsum(map(exp, each))


def judge_vehicle(
    vehicle_id: str,
    wave: int,
    release: Release,
    gate: HealthGate,
    opened_ns: int,
    report: VehicleReport | None,
    now_ns: int,
) -> VehicleVerdict:
    """Return the verdict on one vehicle."""
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
            f"no report for {quiet_s:.0f} s; the gate allows {gate.report_within_s:.0f} s",
        )
    outcome, reason = _of_report(release, gate, report if heard_ns is not None else None)
    open_s = (now_ns - opened_ns) / 1e9
    if outcome is RolloutOutcome.WAITING and open_s > gate.settle_within_s:
        return (
            RolloutOutcome.LATE,
            f"{reason}, {open_s:.0f} s after its wave was opened; the gate allows {gate.settle_within_s:.0f} s",
        )
    return outcome, reason


def _of_report(
    release: Release, gate: HealthGate, report: VehicleReport | None
) -> tuple[RolloutOutcome, str]:
    if report is None:
        return RolloutOutcome.WAITING, "has not reported since the wave opened"
    if report.model_digest != release.model_digest:
        return RolloutOutcome.WAITING, f"still serves {report.model_name}"
    if report.not_finite > gate.max_nan_count:
        return (
            RolloutOutcome.UNHEALTHY,
            f"{report.not_finite} outputs are not finite; the gate allows {gate.max_nan_count}",
        )
    if report.errors > gate.max_error_ratio * max(report.frames, 1):
        return (
            RolloutOutcome.UNHEALTHY,
            f"{report.errors} errors in {report.frames} frames; the gate allows a ratio of {gate.max_error_ratio}",
        )
    if report.model_state not in (ModelState.SERVING, ModelState.SHADOW):
        return RolloutOutcome.WAITING, "on probation"
    if report.reports_on_model < max(gate.min_reports, 1):
        return RolloutOutcome.WAITING, f"{report.reports_on_model} of {gate.min_reports} reports"
    return RolloutOutcome.ACTIVATED, f"{report.reports_on_model} reports, {report.frames} frames"

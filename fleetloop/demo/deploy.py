"""Publish three releases: a good one in two waves, a forged one that never loads, a bad one that is rolled back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetloop.demo.bad_models import malformed_models, return_nan_when_dark
from fleetloop.demo.forgery import FORGED_RELEASE, publish_forged, withdraw_forged
from fleetloop.demo.journeys import PATROL_RATE_HZ, Fleet, wait_until
from fleetloop.demo.lab import Lab
from fleetloop.demo.prepare import VEHICLES
from foundation.errors import GuaranteeBrokenError, RejectedError
from foundation.files import write_atomic
from modelkit.images import DARK_BELOW_LUMA
from rollout.service import Advance
from schemas.documents import COMPLETE, HALTED, HealthGate
from services import rollout
from services.release import ReleaseRequest, create_release

WAVES = "1,2"
ROLLOUT_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class ReleaseOutcome:
    """The outcome of one release; an override names who overrode the gate and why."""

    id: str
    outcome: str
    reason: str
    override: dict[str, str] | None = None


def release_good(lab: Lab, fleet: Fleet) -> ReleaseOutcome:
    """Sign the packaged model and roll it out in waves of exactly one and two vehicles."""
    release = create_release(lab.place, ReleaseRequest()).release
    for vehicle_id in VEHICLES:
        fleet.start(vehicle_id, "patrol", loop=True, rate_hz=PATROL_RATE_HZ)
    _start(lab, release.release_id)
    done = _watch(lab)
    if done.plan.state != COMPLETE:
        raise GuaranteeBrokenError(f"the good release did not complete: {done.did} {done.reason} {done.wave}")
    sizes = ", ".join(str(wave.exact_count) for wave in done.plan.waves)
    return ReleaseOutcome(
        release.release_id, "complete", f"waves of {sizes} vehicles; every vehicle reported healthy"
    )


def release_forged(lab: Lab, fleet: Fleet, model: Path) -> ReleaseOutcome:
    """Publish a model signed with the rollouts key, and check that every vehicle refuses it."""
    before = {v: _model(fleet, v)["digest"] for v in VEHICLES}
    refreshes = {v: _refreshes(fleet, v) for v in VEHICLES}
    publish_forged(lab.place, model, list(VEHICLES))

    def complaint(vehicle_id: str) -> str:
        return str(fleet.status(vehicle_id)["updates"].get("last_error", ""))

    wait_until(
        lambda: all(complaint(v) for v in VEHICLES), 30.0, "every vehicle to refuse the forged release"
    )
    said = complaint(VEHICLES[0])
    withdraw_forged(lab.place)
    wait_until(
        lambda: all(not complaint(v) and _refreshes(fleet, v) > refreshes[v] for v in VEHICLES),
        30.0,
        "every vehicle to trust the repaired repository",
    )
    after = {v: _model(fleet, v)["digest"] for v in VEHICLES}
    if before != after:
        raise GuaranteeBrokenError(f"a forged release changed a model: {before} became {after}")
    return ReleaseOutcome(
        FORGED_RELEASE, "never loaded", f"signed with the rollouts key; the vehicles report: {said}"
    )


def release_bad(lab: Lab, fleet: Fleet, good_model: Path) -> ReleaseOutcome:
    """Override the gate for a model that fails only in the dark, and check that its vehicle rolls it back at dusk."""
    release_id = "v4-fails-in-the-dark"
    bad = lab.out / f"{release_id}.onnx"
    write_atomic(bad, return_nan_when_dark(good_model.read_bytes(), DARK_BELOW_LUMA, "v4"))
    _refusal(lab, ReleaseRequest(model=bad, release_id=release_id))
    lab.say(
        "no gate judged it, so it is refused; an override lets it pass, and is recorded in the signed release"
    )
    override = {"by": "demo operator", "why": "to show what happens when someone insists"}
    create_release(
        lab.place,
        ReleaseRequest(
            model=bad, release_id=release_id, override_by=override["by"], override_why=override["why"]
        ),
    )
    _start(lab, release_id)

    def carriers() -> list[str]:
        return [v for v in VEHICLES if _model(fleet, v)["release_id"] == release_id]

    wait_until(
        lambda: len(carriers()) >= 1,
        40.0,
        "the first wave to carry the bad release (its trial by daylight passes)",
    )
    exposed = carriers()
    if len(exposed) != 1:
        raise GuaranteeBrokenError(f"{len(exposed)} vehicles carry the release, wave 1 has exactly 1")
    canary = exposed[0]
    lab.say(f"{canary} serves it: its trial held no dark frame. Now it gets dark")
    rollbacks = int(fleet.status(canary)["rollbacks"])
    fleet.stop(canary)
    fleet.start(canary, "dusk", loop=True, rate_hz=PATROL_RATE_HZ)
    wait_until(
        lambda: int(fleet.status(canary)["rollbacks"]) > rollbacks, 40.0, f"{canary} to roll back by itself"
    )
    status = fleet.status(canary)
    why = str(status["blocked_releases"].get(release_id, ""))
    done = _watch(lab)
    if done.plan.state != HALTED:
        raise GuaranteeBrokenError(f"the rollout of the bad release did not halt: {done}")
    if carriers():
        raise GuaranteeBrokenError(f"{carriers()} still carry the bad release")
    lab.say(f"{canary} went back to {status['model']['name']} by itself ({why}); the rollout halted")
    reason = f"{canary} rolled back by itself: {why}; the rollout halted: {done.reason}"
    return ReleaseOutcome(release_id, "rolled back, halted", reason, override)


def refuse_malformed(lab: Lab, good_model: Path) -> dict[str, str]:
    """Try to release malformed models; return the error that each was refused with.

    Raises:
        GuaranteeBrokenError: one was released.
    """
    refused: dict[str, str] = {}
    for name, data in malformed_models(good_model.read_bytes()).items():
        path = lab.out / f"{name}.onnx"
        write_atomic(path, data)
        refused[name] = _refusal(lab, ReleaseRequest(model=path, override_by="demo", override_why="attack"))
    return refused


def _refusal(lab: Lab, request: ReleaseRequest) -> str:
    try:
        done = create_release(lab.place, request)
    except RejectedError as error:
        return f"{type(error).__name__}: {error}"[:200]
    raise GuaranteeBrokenError(f"{request.model} was released as {done.release.release_id}, not refused")


def _start(lab: Lab, release_id: str) -> None:
    health = HealthGate(report_within_s=ROLLOUT_DEADLINE_S)
    rollout.start(lab.place, rollout.RolloutRequest(release_id, waves=WAVES, health=health))


def _watch(lab: Lab) -> Advance:
    done = rollout.watch(lab.place, timeout_s=ROLLOUT_DEADLINE_S, every_s=0.5)
    if done.serving.trouble is not None:
        raise done.serving.trouble
    return done.advance


def _refreshes(fleet: Fleet, vehicle_id: str) -> int:
    return int(fleet.status(vehicle_id)["updates"].get("refreshes", 0))


def _model(fleet: Fleet, vehicle_id: str) -> dict[str, Any]:
    found = fleet.status(vehicle_id)["model"]
    return found if isinstance(found, dict) else {"digest": "", "release_id": "", "name": ""}

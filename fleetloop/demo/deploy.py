"""Three releases: a good one in two waves, a forged one that never loads, a bad one that its vehicle throws out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetloop.demo.bad_models import return_nan_when_dark
from fleetloop.demo.forgery import FORGED_RELEASE, publish_forged, withdraw_forged
from fleetloop.demo.journeys import PATROL_RATE_HZ, Fleet, wait_until
from fleetloop.demo.lab import Lab
from fleetloop.demo.prepare import VEHICLES
from foundation.errors import GuaranteeBrokenError
from foundation.files import write_atomic
from modelkit.images import DARK_BELOW_LUMA

WAVES = "1,2"
ROLLOUT_DEADLINE_S = 60.0
HALTED_EXIT = 3


@dataclass(frozen=True, slots=True)
class ReleaseOutcome:
    """What became of one release."""

    id: str
    outcome: str
    reason: str
    override: dict[str, str] | None = None


def release_good(lab: Lab, fleet: Fleet) -> ReleaseOutcome:
    """Sign the packaged model and bring it to everyone in waves of exactly one and two vehicles."""
    release = lab.run("release", "create")
    release_id = str(release["release_id"])
    for vehicle_id in VEHICLES:
        fleet.start(vehicle_id, "patrol", loop=True, rate_hz=PATROL_RATE_HZ)
    lab.run("rollout", "start", release_id, "--waves", WAVES, "--report-within-s", "60")
    done = lab.run(
        "rollout", "watch", "--timeout-s", str(ROLLOUT_DEADLINE_S), "--every-s", "0.5", may_fail=True
    )
    if done["exit_code"] != 0:
        raise GuaranteeBrokenError(
            f"the good release did not complete: {done.get('did')} {done.get('reason')} {done.get('vehicles')} "
            f"{done['stderr']}"
        )
    sizes = ", ".join(str(w["exact_count"]) for w in done["plan"]["waves"])
    return ReleaseOutcome(
        release_id, "complete", f"waves of {sizes} vehicles; every vehicle reported healthy"
    )


def release_forged(lab: Lab, fleet: Fleet, model: Path) -> ReleaseOutcome:
    """Publish a model signed with the rollouts key, and see every vehicle refuse it."""
    before = {v: _model(fleet, v)["digest"] for v in VEHICLES}
    refreshes = {v: int(fleet.status(v)["updates"].get("refreshes", 0)) for v in VEHICLES}
    publish_forged(lab.workspace, model, list(VEHICLES))

    def complaint(vehicle_id: str) -> str:
        return str(fleet.status(vehicle_id)["updates"].get("last_error", ""))

    wait_until(
        lambda: all(complaint(v) for v in VEHICLES), 30.0, "every vehicle to refuse the forged release"
    )
    said = complaint(VEHICLES[0])
    withdraw_forged(lab.workspace)
    wait_until(
        lambda: all(
            not complaint(v) and int(fleet.status(v)["updates"].get("refreshes", 0)) > refreshes[v]
            for v in VEHICLES
        ),
        30.0,
        "every vehicle to trust the mended repository",
    )
    after = {v: _model(fleet, v)["digest"] for v in VEHICLES}
    if before != after:
        raise GuaranteeBrokenError(f"a forged release changed a model: {before} became {after}")
    return ReleaseOutcome(
        FORGED_RELEASE, "never loaded", f"signed with the rollouts key; the vehicles said: {said}"
    )


def release_bad(lab: Lab, fleet: Fleet, good_model: Path) -> ReleaseOutcome:
    """Force a model past the gate that fails in the dark only, and see its vehicle throw it out at dusk."""
    bad = lab.out / "v4-fails-in-the-dark.onnx"
    write_atomic(bad, return_nan_when_dark(good_model.read_bytes(), DARK_BELOW_LUMA, "v4"))
    refused = lab.run("release", "create", "--model", bad, "--id", "v4-fails-in-the-dark", may_fail=True)
    if refused["exit_code"] == 0:
        raise GuaranteeBrokenError("a model that no gate judged was released without an override")
    lab.say(
        "no gate judged it, so it is refused; an override lets it pass, and is recorded in the signed release"
    )
    release = lab.run(
        "release", "create", "--model", bad, "--id", "v4-fails-in-the-dark", "--override-by", "demo operator",
        "--override-why", "to show what happens when someone insists",
    )  # fmt: skip
    release_id = str(release["release_id"])
    lab.run("rollout", "start", release_id, "--waves", WAVES, "--report-within-s", "60")

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
    lab.say(f"[yellow]{canary} serves it: its trial held no dark frame. Now it gets dark")
    rollbacks = int(fleet.status(canary)["rollbacks"])
    fleet.stop(canary)
    fleet.start(canary, "dusk", loop=True, rate_hz=PATROL_RATE_HZ)
    wait_until(
        lambda: int(fleet.status(canary)["rollbacks"]) > rollbacks, 40.0, f"{canary} to roll back by itself"
    )
    status = fleet.status(canary)
    why = str(status["blocked_releases"].get(release_id, ""))
    done = lab.run("rollout", "watch", "--timeout-s", "40", "--every-s", "0.5", may_fail=True)
    if done["exit_code"] != HALTED_EXIT:
        raise GuaranteeBrokenError(f"the rollout of the bad release did not halt: {done}")
    if carriers():
        raise GuaranteeBrokenError(f"{carriers()} still carry the bad release")
    lab.say(f"{canary} went back to {status['model']['name']} by itself ({why}); the rollout halted")
    reason = f"{canary} rolled back by itself: {why}; the rollout halted: {done['reason']}"
    given = release["gate"]["override"]
    return ReleaseOutcome(
        release_id, "rolled back, halted", reason, {"by": str(given["by"]), "why": str(given["why"])}
    )


def refuse_malformed(lab: Lab, good_model: Path) -> dict[str, str]:
    """Try to release what is no acceptable model; returns what each was refused with.

    Raises:
        GuaranteeBrokenError: one was released.
    """
    refused: dict[str, str] = {}
    for name, data in malformed_models(good_model.read_bytes()).items():
        path = lab.out / f"{name}.onnx"
        write_atomic(path, data)
        words = ("release", "create", "--model", path, "--override-by", "demo", "--override-why", "attack")
        done = lab.run(*words, may_fail=True)
        if done["exit_code"] == 0:
            raise GuaranteeBrokenError(f"a malformed model was released: {name}")
        refused[name] = done["stderr"].strip().splitlines()[-1][:200]
    return refused


def malformed_models(good: bytes) -> dict[str, bytes]:
    """Three models that must never be loaded, made from a good one: cut short, data outside, a foreign operator."""
    import onnx

    outside = onnx.load_model_from_string(good)
    tensor = outside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../key.pem"
    foreign = onnx.load_model_from_string(good)
    foreign.graph.node[0].domain = "com.attacker"
    foreign.opset_import.add(domain="com.attacker", version=1)
    return {
        "cut-short": good[: len(good) // 2],
        "data-outside-the-file": outside.SerializeToString(),
        "foreign-operator": foreign.SerializeToString(),
    }


def _model(fleet: Fleet, vehicle_id: str) -> dict[str, Any]:
    found = fleet.status(vehicle_id)["model"]
    return found if isinstance(found, dict) else {"digest": "", "release_id": "", "name": ""}

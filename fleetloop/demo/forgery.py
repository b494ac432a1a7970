"""Forge the second release: an attacker has the key of the role rollouts, and signs a model with it.

It is published exactly like a real one, including its plan. No vehicle may load it.
"""

from __future__ import annotations

from pathlib import Path

from foundation.clock import SystemClock
from modelkit.verify import verify_model
from rollout.plan import cut_waves
from rollout.release import read_releases
from rollout.repository import Repository
from rollout.service import RolloutService
from schemas.documents import RUNNING, Gate, HealthGate, Release, RolloutPlan
from schemas.downlink import PLANS_KEY, RELEASES_KEY, index_targets
from workspace.layout import Workspace

FORGED_RELEASE = "v3-forged"


def publish_forged(place: Workspace, model: Path, vehicles: list[str]) -> Release:
    """Publish `model` as release v3-forged for the whole fleet, signed with the key of the role `rollouts`."""
    clock = SystemClock()
    repository = Repository(place.tuf_path, place.keys_path, clock=clock)
    data = model.read_bytes()
    verified = verify_model(data, None)
    release = Release(
        release_id=FORGED_RELEASE,
        model_name=verified.contract.name,
        model_digest=verified.digest,
        model_target=f"models/{FORGED_RELEASE}.onnx",
        model_bytes=len(data),
        contract_digest=verified.contract.digest,
        gate=Gate(True, "says the attacker", None),
        created_time_ns=clock.now_ns(),
        notes="",
    )
    waves = tuple(each.wave for each in cut_waves(FORGED_RELEASE, vehicles, [len(vehicles)]))
    plans = RolloutService(repository, place.rollouts_path, clock).plans()
    plan = RolloutPlan(
        plan_id=f"{FORGED_RELEASE}-1", release_id=FORGED_RELEASE, state=RUNNING, waves=waves, tags=(), include=(),
        exclude=(), health=HealthGate(1, 0.0, 0, 60.0), previous_release_id=None,
    )  # fmt: skip
    releases = [*read_releases(repository), release]
    repository.publish("rollouts", index_targets(PLANS_KEY, [*plans, plan]))
    targets = {f"{FORGED_RELEASE}.onnx": data, **index_targets(RELEASES_KEY, releases)}
    repository.publish("models", targets, signing_role="rollouts")
    return release


def withdraw_forged(place: Workspace) -> None:
    """Publish the true indexes again with the right keys, as an operator does after the discovery."""
    clock = SystemClock()
    repository = Repository(place.tuf_path, place.keys_path, clock=clock)
    known = RolloutService(repository, place.rollouts_path, clock).plans()
    plans = [plan for plan in known if plan.release_id != FORGED_RELEASE]
    repository.publish("rollouts", index_targets(PLANS_KEY, plans))
    releases = [r for r in read_releases(repository) if r.release_id != FORGED_RELEASE]
    repository.publish("models", index_targets(RELEASES_KEY, releases))

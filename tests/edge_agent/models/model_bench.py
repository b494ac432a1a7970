"""One vehicle and one repository in a folder: real keys, real TUF, real model bytes; time by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge_agent.models.fetch import FetchStep, ModelFetcher
from edge_agent.models.model_set import ModelSet
from edge_agent.models.role_model import RoleModel
from edge_agent.models.settings import (
    DownloadSettings,
    FetchSettings,
    HealthSettings,
    ServingSettings,
    TrialLimits,
)
from edge_agent.models.slots import SlotFolder, install_initial
from edge_agent.models.trial import TrialResult
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import Vehicle, write_vehicle
from foundation.clock import ManualClock
from foundation.events import EventLog
from modelkit.digest import sha256_hex
from modelkit.embed import read_contract
from modelkit.runtime import Backend
from rollout.release import read_releases
from rollout.repository import init_repository
from schemas.documents import RUNNING, Gate, Release, RolloutPlan, Wave
from schemas.downlink import PLANS_KEY, RELEASES_KEY, index_targets
from schemas.roles import SERVING
from tests.fakes.models import FakeBackend, tiny_contract, tiny_model

EVERYBODY = "f" * 64


class FakeTrial:
    """A trial that ended with the given result at once."""

    def __init__(self, result: TrialResult) -> None:
        self.result = result

    def poll(self) -> TrialResult | None:
        return self.result

    def cancel(self) -> None: ...


class Bench:
    """The fleet's side and one vehicle's side."""

    def __init__(self, folder: Path, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.repository = init_repository(folder / "tuf", folder / "keys", clock=self.clock)
        self.state = folder / "vehicle"
        self.state.mkdir()
        self.vehicle = Vehicle("car-1", "0" * 16, self.clock.now_ns())
        write_vehicle(self.state, self.vehicle)
        TrustFolder(self.state).install(self.repository.root_bytes())
        self.factory_bytes = tiny_model(tiny_contract(name="v1"), seed=1)
        install_initial(self.state, self.factory_bytes, self.clock)
        self.slots = SlotFolder(self.state)
        self.releases: list[Release] = []
        self.plans: list[RolloutPlan] = []
        self.trials: list[str] = []
        self.trial_result = TrialResult(True, "", frames=1, latency_p50_ns=1000)
        self.log_path = folder / "events.jsonl"

    def events(self) -> list[str]:
        lines = self.log_path.read_text().splitlines() if self.log_path.exists() else []
        return [json.loads(line)["event"] for line in lines]

    def release(
        self,
        release_id: str,
        seed: int,
        *,
        signing_role: str | None = None,
        data: bytes | None = None,
        role: str = SERVING,
    ) -> bytes:
        """Publish a release of a tiny model."""
        data = data if data is not None else tiny_model(tiny_contract(name=release_id), seed=seed)
        release = Release(
            release_id=release_id,
            model_name=release_id,
            model_digest=sha256_hex(data),
            model_target=f"models/{release_id}.onnx",
            model_bytes=len(data),
            contract_digest=contract_digest(data),
            gate=Gate(passed=True),
            created_time_ns=self.clock.now_ns(),
            role=role,
        )
        releases = [*self.releases, release]
        targets = {f"{release_id}.onnx": data, **index_targets(RELEASES_KEY, releases)}
        self.repository.publish("models", targets, signing_role=signing_role)
        if signing_role is None:
            self.releases = releases
        return data

    def plan(
        self, release_id: str, state: str = RUNNING, *, threshold: str = EVERYBODY, **fields: object
    ) -> None:
        """Publish the newest word on a release, with the model that it has; an unknown one gets a digest of zeros."""
        published = {
            release.release_id: release for release in [*read_releases(self.repository), *self.releases]
        }
        known = published.get(release_id)
        plan = RolloutPlan(
            f"plan-{release_id}",
            release_id,
            state,
            (Wave(1, 1, threshold),),
            model_digest=known.model_digest if known else "0" * 64,
            model_bytes=known.model_bytes if known else 1,
        )
        plan = replace(plan, **fields)  # type: ignore[arg-type]
        self.plans = [each for each in self.plans if each.plan_id != plan.plan_id] + [plan]
        self.repository.publish("rollouts", index_targets(PLANS_KEY, self.plans))

    def fetcher(self, *, real_trial: bool = False, base_url: str = "", **settings: object) -> ModelFetcher:
        def start(_slot: Path, digest: str, _frames: Path) -> FakeTrial:
            self.trials.append(digest)
            return FakeTrial(self.trial_result)

        chosen = FetchSettings(
            base_url=base_url or str(self.repository.path),
            poll_interval_s=0.0,
            download=DownloadSettings(read_timeout_s=2.0),
            trial=TrialLimits(min_runs=3),
        )
        return ModelFetcher(
            replace(chosen, **settings),  # type: ignore[arg-type]
            self.state,
            self.clock,
            EventLog(self.log_path, self.clock, "deliver"),
            other_roles=("shadow",),
            start_trial=None if real_trial else start,  # type: ignore[arg-type]
        )

    def run(self, fetcher: ModelFetcher, limit: int = 50) -> list[FetchStep]:
        """Step until there is nothing to do or a failure."""
        steps = []
        for _ in range(limit):
            step = fetcher.step()
            steps.append(step)
            if step.outcome == "failed" or (step.outcome == "idle" and step.detail != "trial runs"):
                break
            self.clock.advance(step.wait_s)
        return steps

    def settings(self, **settings: object) -> ServingSettings:
        chosen = ServingSettings(
            poll_interval_s=0.0,
            refused_wait_s=0.0,
            probation_frames=5,
            health=HealthSettings(
                window_frames=20, min_frames=4, max_error_ratio=0.25, max_latency_p50_s=0.5
            ),
        )
        return replace(chosen, **settings)  # type: ignore[arg-type]

    def serving(
        self,
        backend: Backend | None = None,
        on_step: Callable[[str], None] | None = None,
        *,
        has_crashed: bool = False,
        **settings: object,
    ) -> RoleModel:
        log = EventLog(self.log_path, self.clock, "perceive")
        chosen = self.settings(**settings)
        return RoleModel(
            SERVING,
            self.state,
            backend or FakeBackend(),
            chosen,
            self.clock,
            log,
            on_step,
            has_crashed=has_crashed,
        )

    def models(
        self,
        backend: Backend | None = None,
        *,
        has_crashed: bool = False,
        on_progress: Callable[[], None] = lambda: None,
        **settings: object,
    ) -> ModelSet:
        log = EventLog(self.log_path, self.clock, "perceive")
        chosen = self.settings(**settings)
        return ModelSet(
            self.state,
            backend or FakeBackend(),
            chosen,
            self.clock,
            log,
            has_crashed=has_crashed,
            on_progress=on_progress,
        )


def contract_digest(data: bytes) -> str:
    return read_contract(data).digest

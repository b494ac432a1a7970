"""A fleet without vehicles: the real service and plans, reports made by hand or by simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from foundation.clock import ManualClock
from rollout.health import VehicleReport
from rollout.release import GateReport, publish_release
from rollout.repository import Repository, init_repository
from rollout.service import RolloutService
from schemas.documents import Release
from schemas.reasons import ModelState
from schemas.roles import SERVING, SHADOW
from tests.fakes.models import tiny_contract, tiny_model

PASSED = GateReport(True, "")


class Lab:
    """One repository, one service, time by hand."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.folder = folder
        self.repository = init_repository(folder / "tuf", folder / "keys", clock=self.clock)
        self.service = RolloutService(self.repository, folder / "rollouts", self.clock)
        self.reports: dict[str, VehicleReport] = {}
        self.reports_of = {SERVING: self.reports, SHADOW: dict[str, VehicleReport]()}

    def release(self, release_id: str = "r2", seed: int = 2, role: str = SERVING) -> Release:
        data = tiny_model(tiny_contract(name=release_id), seed=seed)
        return publish_release(self.repository, data, PASSED, self.clock, release_id=release_id, role=role)

    def again(self, on_step: object = None) -> RolloutService:
        """The service as a new process sees it."""
        repository = Repository(
            self.repository.path,
            self.repository.keys._path,
            clock=self.clock,
            on_step=on_step,  # type: ignore[arg-type]
        )
        return RolloutService(repository, self.folder / "rollouts", self.clock)

    def says(self, vehicle: str, release: Release | None, role: str = SERVING, **fields: object) -> None:
        """A healthy report now, unless fields say otherwise; None: it still has the old model in the role."""
        before = self.reports_of[role].get(vehicle)
        report = VehicleReport(
            vehicle_id=vehicle,
            heard_ns=self.clock.now_ns(),
            epoch="0" * 16,
            seq=0 if before is None else before.seq + 1,
            model_digest=release.model_digest if release else "0" * 64,
            model_name=release.model_name if release else "v1",
            model_state=ModelState.SERVING if role == SERVING else ModelState.SHADOW,
            reports_on_model=3,
            frames=100,
            role=role,
        )
        self.reports_of[role][vehicle] = replace(report, **fields)  # type: ignore[arg-type]

    def members(self, wave: int) -> tuple[str, ...]:
        state = self.service.state_of(self.service.current())
        assert state is not None
        return state.waves[wave - 1].members


def fleet(count: int) -> list[str]:
    return [f"car-{number}" for number in range(count)]

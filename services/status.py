"""Summarise a workspace from its own files: no broker and no vehicle is contacted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.roles import SERVING
from services.fleet import list_fleet
from workspace.layout import Workspace
from workspace.model_name import ModelName, read_model_name
from workspace.served_models import served_models, unreadable_rows

if TYPE_CHECKING:
    from rollout.reports import FleetReports


@dataclass(frozen=True, slots=True)
class TableStatus:
    """One table of the lake. `outcomes` counts the log's offsets per outcome (arrivals only)."""

    version: int
    rows: int
    outcomes: Mapping[str, int] = field(default_factory=dict)
    trouble: tuple[str, ...] = ()
    """Committed rows that are missing, for example because another engine deleted them."""


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """The newest dataset version."""

    id: str
    digest: str
    rows: int


@dataclass(frozen=True, slots=True)
class RolloutLine:
    """One plan: running, halted or complete."""

    plan_id: str
    role: str
    state: str


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """A role other than serving: the fleet's model in it (None: none yet), and which vehicle runs which model."""

    model: ModelName | None
    models_by_vehicle: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WorkspaceStatus:
    """The contents of the workspace; a part is empty or None until there is something."""

    root: Path
    broker: str
    enrolled: int
    """Vehicles with a key that is not revoked."""
    revoked: int
    """Vehicles of which every key is revoked."""
    lake: Mapping[str, TableStatus]
    dataset: DatasetStatus | None
    serving: ModelName | None
    """The fleet's model in the role serving."""
    base: ModelName | None
    """The model that the next training starts from."""
    releases: tuple[str, ...]
    rollouts: tuple[RolloutLine, ...]
    """Every plan, oldest first."""
    models_by_vehicle: Mapping[str, str]
    """Name of the model that each vehicle last reported in the role serving."""
    other_roles: Mapping[str, RoleStatus]
    """Roles other than serving, by name."""
    trouble: tuple[str, ...]
    """Unreadable rows of the serving record and of the fleet's history."""


def workspace_status(place: Workspace) -> WorkspaceStatus:
    """Return what landed, the newest dataset and model, the releases, and which vehicle runs which model."""
    from pipelines.dataset.versions import list_versions

    versions = list_versions(place)
    newest = versions[-1] if versions else None
    fleet = list_fleet(place)
    served = {role: ModelName(row.name, row.digest) for role, row in served_models(place).items()}
    releases, rollouts, reports = _rollouts(place)
    roles = sorted(
        {*served, *(line.role for line in rollouts), *(reports.roles if reports else ())} - {SERVING}
    )
    running = {role: _names(reports, role) for role in (SERVING, *roles)}
    return WorkspaceStatus(
        root=place.root,
        broker=place.bootstrap,
        enrolled=sum(vehicle.is_active for vehicle in fleet),
        revoked=sum(not vehicle.is_active for vehicle in fleet),
        lake=_lake(place.lake_path),
        dataset=None if newest is None else DatasetStatus(newest.id, newest.digest, newest.manifest["rows"]),
        serving=served.get(SERVING),
        base=read_model_name(place.base_path),
        releases=releases,
        rollouts=rollouts,
        models_by_vehicle=running[SERVING],
        other_roles={role: RoleStatus(served.get(role), running[role]) for role in roles},
        trouble=tuple(
            row.why for row in (*unreadable_rows(place), *(reports.history.unreadable if reports else ()))
        ),
    )


def _lake(folder: Path) -> dict[str, TableStatus]:
    from connectors.lake.outcomes import count_outcomes
    from connectors.lake.schema import TABLES
    from connectors.lake.table import LakeTable
    from pipelines.ingest.holes import find_holes

    found = {}
    for name in TABLES:
        if not (folder / name / "_delta_log").is_dir():
            continue
        snapshot = LakeTable.open(folder / name).snapshot()
        outcomes = count_outcomes(snapshot) if name == "arrivals" else {}
        found[name] = TableStatus(snapshot.version, snapshot.rows(), outcomes, tuple(find_holes(snapshot)))
    return found


def _rollouts(place: Workspace) -> tuple[tuple[str, ...], tuple[RolloutLine, ...], FleetReports | None]:
    from services.release import list_releases
    from services.rollout import open_reports, open_service

    if not (place.tuf_path / "metadata" / "timestamp.json").is_file():
        return (), (), None
    return (
        tuple(release.release_id for release in list_releases(place)),
        tuple(RolloutLine(plan.plan_id, plan.role, plan.state) for plan in open_service(place).plans()),
        open_reports(place) if place.rollouts_path.is_dir() else None,
    )


def _names(reports: FleetReports | None, role: str) -> dict[str, str]:
    """Return vehicle -> name of the model that it last reported in the role; a vehicle without one is absent."""
    if reports is None:
        return {}
    return {
        name: said.model_name for name, said in sorted(reports.newest_of(role).items()) if said.model_name
    }

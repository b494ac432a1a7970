"""`fleetloop status`: show a summary of the workspace from its files; no broker and no vehicle is contacted."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from fleetloop.options import HERE, AsJson, Place
from fleetloop.terminal import print_json, show_pairs
from schemas.roles import SERVING

if TYPE_CHECKING:
    from services.status import WorkspaceStatus

app = typer.Typer(add_completion=False)


@app.command()
def status(place: Place = HERE, as_json: AsJson = False) -> None:
    """Show what landed, the newest dataset and model, the releases, and which vehicle runs which model."""
    from services.status import workspace_status

    document = _document(workspace_status(place))
    if as_json:
        print_json(document)
        return
    title = f"workspace {document.pop('workspace')}"
    show_pairs(title, [(name.replace("_", " "), _line(value)) for name, value in document.items()])


def _document(found: WorkspaceStatus) -> dict[str, Any]:
    fleet = {"enrolled": found.enrolled, "revoked": found.revoked}
    return {
        "workspace": str(found.root),
        "broker": found.broker,
        "vehicles": fleet if any(fleet.values()) else {},
        "lake": {
            name: {
                "version": table.version,
                "rows": table.rows,
                **table.outcomes,
                **({"trouble": list(table.trouble)} if table.trouble else {}),
            }
            for name, table in found.lake.items()
        },
        "dataset": asdict(found.dataset) if found.dataset else {},
        "serving": asdict(found.serving) if found.serving else {},
        "base": asdict(found.base) if found.base else {},
        "releases": list(found.releases),
        "rollouts": [
            f"{line.plan_id}: {line.state}" + ("" if line.role == SERVING else f" ({line.role})")
            for line in found.rollouts
        ],
        "models_by_vehicle": dict(found.models_by_vehicle),
        "other_roles": {
            role: {
                "model": asdict(each.model) if each.model else {},
                "models_by_vehicle": dict(each.models_by_vehicle),
            }
            for role, each in found.other_roles.items()
        },
        **({"trouble": list(found.trouble)} if found.trouble else {}),
    }


def _line(value: object) -> str:
    if isinstance(value, dict):
        nested = any(isinstance(each, dict) for each in value.values())
        between = "; " if nested else ", "
        return between.join(f"{k} {_line(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)

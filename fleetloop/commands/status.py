"""`fleetloop status`: the workspace at a glance, from its files; no broker and no vehicle is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(add_completion=False)


@app.command()
def status(
    workspace: Annotated[Path, typer.Option(help="The workspace.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Show what has landed, which dataset and model there are, what was released and who runs it."""
    document = describe_workspace(workspace)
    if as_json:
        print(json.dumps(document, indent=2, sort_keys=True))
        return
    table = Table(title=f"workspace {document['workspace']}", title_justify="left", show_header=False)
    for name in (
        "broker",
        "vehicles",
        "lake",
        "dataset",
        "serving",
        "releases",
        "rollouts",
        "models_by_vehicle",
    ):
        table.add_row(name.replace("_", " "), _line(document[name]))
    Console().print(table)


def describe_workspace(root: Path) -> dict[str, Any]:
    """Everything that the workspace's own files say, each part empty until there is something to say.

    Raises:
        MisconfiguredError: `root` is no workspace.
    """
    from pipelines.dataset.versions import list_versions
    from workspace.layout import Workspace

    place = Workspace.open(root)
    versions = list_versions(place)
    return {
        "workspace": str(place.root),
        "broker": place.bootstrap,
        "vehicles": _vehicles(place.enrolment_path),
        "lake": _lake(place.lake_path),
        "dataset": {
            "id": versions[-1].id,
            "digest": versions[-1].digest,
            "rows": versions[-1].manifest["rows"],
        }
        if versions
        else {},
        "serving": _serving(place.serving_path),
        **_rollouts(place),
    }


def _vehicles(path: Path) -> dict[str, int]:
    from schemas.enrolment import Enrolment

    if not path.is_file():
        return {}
    keys = Enrolment.load(path).keys
    revoked = {k.vehicle_id for k in keys if k.revoked_time_ns is not None}
    active = {k.vehicle_id for k in keys if k.revoked_time_ns is None}
    return {"enrolled": len(active), "revoked": len(revoked - active)}


def _lake(folder: Path) -> dict[str, Any]:
    import pyarrow.compute as pc

    from connectors.lake.schema import TABLES
    from connectors.lake.table import LakeTable

    found: dict[str, Any] = {}
    for name in TABLES:
        if not (folder / name / "_delta_log").is_dir():
            continue
        snapshot = LakeTable.open(folder / name).snapshot()
        entry: dict[str, Any] = {"version": snapshot.version, "rows": snapshot.count()}
        if name == "arrivals":
            outcomes = snapshot.read(columns=["outcome"], filter=pc.field("origin") == "log")["outcome"]
            entry |= {str(c["values"]): int(c["counts"]) for c in pc.value_counts(outcomes).to_pylist()}
        found[name] = entry
    return found


def _serving(path: Path) -> dict[str, Any]:
    from foundation.files import read_json

    document = read_json(path) if path.is_file() else {}
    return document if isinstance(document, dict) else {}


def _rollouts(place: Any) -> dict[str, Any]:
    from rollout.release import read_releases
    from rollout.repository import Repository
    from services.rollout import open_reports, open_service

    if not (place.tuf_path / "metadata" / "timestamp.json").is_file():
        return {"releases": [], "rollouts": [], "models_by_vehicle": {}}
    releases = read_releases(Repository(place.tuf_path, place.keys_path))
    plans = open_service(place).plans()
    heard = open_reports(place).newest if place.rollouts_path.is_dir() else {}
    return {
        "releases": [r.release_id for r in releases],
        "rollouts": [f"{p.plan_id}: {p.state}" for p in plans],
        "models_by_vehicle": {name: report.model_name for name, report in sorted(heard.items())},
    }


def _line(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_line(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)

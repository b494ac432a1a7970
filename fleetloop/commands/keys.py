"""`fleetloop keys`: show the keys that sign releases and rollouts, and replace one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rollout.repository import Repository

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Show the keys that sign releases and rollouts; replace one.",
)

_WORKSPACE = typer.Option(Path(), "--workspace", help="Folder made by `fleetloop init`.")
_AS_JSON = typer.Option(False, "--json", help="One JSON document on standard output.")


@app.callback()
def keys() -> None:
    """Show the keys that sign releases and rollouts; replace one."""


@app.command("list")
def list_keys(workspace: Path = _WORKSPACE, as_json: bool = _AS_JSON) -> None:
    """List the private keys on this machine, and whether the repository trusts each. Never prints a private
    part.
    """
    repository = _repository(workspace)
    rows = describe_keys(repository)
    if as_json:
        print(json.dumps({"keys": rows}, sort_keys=True, indent=2))
        return
    table = Table(title="signing keys on this machine", title_justify="left")
    for heading in ("role", "key id", "trusted", "encrypted", "file"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            str(row["role"]),
            str(row["key_id"])[:16],
            "yes" if row["trusted"] else "no",
            "yes" if row["encrypted"] else "no",
            str(row["path"]),
        )
    Console().print(table)


@app.command()
def rotate(role: str, workspace: Path = _WORKSPACE, as_json: bool = _AS_JSON) -> None:
    """Replace the key of ROLE (root, targets, snapshot, timestamp, models or rollouts); vehicles follow at
    their next look.
    """
    repository = _repository(workspace)
    if role == "root":
        document: dict[str, Any] = {"role": role, "root_version": repository.rotate_root()}
    else:
        document = {"role": role, "key_id": repository.rotate_key(role)}
    if as_json:
        print(json.dumps(document, sort_keys=True, indent=2))
        return
    typer.echo(f"the key of {role} was replaced; the old key file is trusted no more")


@app.command()
def refresh(workspace: Path = _WORKSPACE, as_json: bool = _AS_JSON) -> None:
    """Say again that the published state is the newest. Run it daily: vehicles activate nothing on an old
    word.
    """
    signed = _repository(workspace).refresh()
    if as_json:
        print(json.dumps({"signed": signed}, sort_keys=True, indent=2))
        return
    typer.echo(f"signed anew: {', '.join(signed)}")


def describe_keys(repository: Repository) -> list[dict[str, object]]:
    """One row a key file, with whether the published documents trust it."""
    from rollout.keys import DELEGATED_ROLES

    root = repository.load("root").signed
    delegations = repository.load("targets").signed.delegations.roles
    rows: list[dict[str, object]] = []
    for key in repository.keys.list():
        trusted = delegations[key.role] if key.role in DELEGATED_ROLES else root.roles[key.role]
        rows.append(
            {
                "role": key.role,
                "key_id": key.key_id,
                "trusted": key.key_id in trusted.keyids,
                "encrypted": key.is_encrypted,
                "mode": f"{key.mode:04o}",
                "path": str(key.path),
            }
        )
    return rows


def _repository(workspace: Path) -> Repository:
    from rollout.repository import Repository
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    return Repository(place.tuf_path, place.keys_path)

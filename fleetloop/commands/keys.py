"""`fleetloop keys`: show the keys that sign releases and rollouts, and replace one."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from fleetloop.options import AsJson, WorkspacePath, record

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Show the keys that sign releases and rollouts; replace one.",
)


@app.callback()
def keys() -> None:
    """Show the keys that sign releases and rollouts; replace one."""


@app.command("list")
def list_keys(workspace: WorkspacePath = Path(), as_json: AsJson = False) -> None:
    """List the private keys on this machine, and whether the repository trusts each. Never prints a private part."""
    from services import keys as service
    from workspace.layout import Workspace

    found = service.list_keys(Workspace.open(workspace))
    if as_json:
        rows = [
            {
                "role": key.role,
                "key_id": key.key_id,
                "trusted": key.is_trusted,
                "encrypted": key.is_encrypted,
                "mode": key.mode,
                "path": str(key.path),
            }
            for key in found
        ]
        print(json.dumps({"keys": rows}, sort_keys=True, indent=2))
        return
    table = Table(title="signing keys on this machine", title_justify="left")
    for heading in ("role", "key id", "trusted", "encrypted", "file"):
        table.add_column(heading)
    for key in found:
        is_trusted, is_encrypted = ("yes" if word else "no" for word in (key.is_trusted, key.is_encrypted))
        table.add_row(key.role, key.key_id[:16], is_trusted, is_encrypted, str(key.path))
    Console().print(table)


@app.command()
def rotate(role: str, workspace: WorkspacePath = Path(), as_json: AsJson = False) -> None:
    """Replace the key of ROLE (root, targets, snapshot, timestamp, models or rollouts); vehicles then follow."""
    from services.keys import rotate_key
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    done = rotate_key(place, role)
    record(place, f"Replace the key of {role}")
    if as_json:
        news = {"key_id": done.key_id} if done.root_version is None else {"root_version": done.root_version}
        print(json.dumps({"role": role, **news}, sort_keys=True, indent=2))
        return
    typer.echo(f"the key of {role} was replaced; the old key file is trusted no more")


@app.command()
def refresh(workspace: WorkspacePath = Path(), as_json: AsJson = False) -> None:
    """Sign again that the published state is the newest. Run it daily: vehicles activate nothing when it is stale."""
    from services import keys as service
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    signed = service.refresh(place)
    record(place, "Sign again that the published state is the newest")
    if as_json:
        print(json.dumps({"signed": list(signed)}, sort_keys=True, indent=2))
        return
    typer.echo(f"signed anew: {', '.join(signed)}")

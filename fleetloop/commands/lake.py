"""`fleetloop lake`: what is in the lake, which datasets hold on to which versions, and how to let the rest go."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fleetloop.options import AsJson, WorkspacePath

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Show the lake's tables and who holds which version; remove what nobody holds.",
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")]


@app.callback()
def lake() -> None:
    """Show the lake's tables and who holds which version; remove what nobody holds."""


@app.command()
def status(workspace: WorkspacePath = Path(), as_json: AsJson = False) -> None:
    """Show every table: its newest version, rows, files, bytes, and the versions that somebody holds."""
    from services.lake import lake_status
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    found = lake_status(place)
    if as_json:
        document = {
            name: {
                "version": table.version,
                "rows": table.rows,
                "files": table.files,
                "bytes": table.size_bytes,
                "held": {str(version): list(who) for version, who in table.held.items()},
            }
            for name, table in found.items()
        }
        _print({"tables": document})
        return
    shown = Table(title=f"Lake {place.lake_path}", title_justify="left")
    shown.add_column("table")
    for heading in ("version", "rows", "files", "bytes"):
        shown.add_column(heading, justify="right")
    shown.add_column("held versions")
    for name, table in found.items():
        words = [f"{version} by {', '.join(who)}" for version, who in table.held.items()]
        numbers = (f"{n:,}" for n in (table.version, table.rows, table.files, table.size_bytes))
        shown.add_row(name, *numbers, "; ".join(words) or "-")
    Console().print(shown)


@app.command()
def trim(workspace: WorkspacePath = Path(), dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Remove the log entries that neither the newest version, a dataset nor lake.lock needs: earlier versions
    can not be read afterwards. No data file is touched.
    """
    from services import lake as service
    from workspace.layout import Workspace

    done = service.trim(Workspace.open(workspace), is_dry_run=dry_run)
    if as_json:
        rows = {
            name: {"log_entries": each.log_entries, "kept": list(each.kept)} for name, each in done.items()
        }
        _print({"dry_run": dry_run, "tables": rows})
        return
    for name, each in done.items():
        Console().print(f"{name}: {each.log_entries:,} log entries {_removed(dry_run)}")


@app.command()
def vacuum(
    older_than_days: Annotated[
        float,
        typer.Option(
            min=1 / 24, max=36500.0, help="Files younger than this stay: they may be of a writer at work."
        ),
    ] = 7.0,
    workspace: WorkspacePath = Path(),
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove the data files that neither the newest version, a dataset nor lake.lock names."""
    from services import lake as service
    from workspace.layout import Workspace

    age = timedelta(days=older_than_days)
    done = service.vacuum(Workspace.open(workspace), age, is_dry_run=dry_run)
    if as_json:
        rows = {name: {"files": list(each.files), "kept": list(each.kept)} for name, each in done.items()}
        _print({"dry_run": dry_run, "older_than_days": older_than_days, "tables": rows})
        return
    for name, each in done.items():
        Console().print(f"{name}: {len(each.files):,} files {_removed(dry_run)}")


def _removed(dry_run: bool) -> str:
    return "would be removed" if dry_run else "removed"


def _print(document: Any) -> None:
    print(json.dumps(document, indent=2, sort_keys=True))

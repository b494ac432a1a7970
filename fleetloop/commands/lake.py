"""`fleetloop lake`: what is in the lake, which datasets hold on to which versions, and how to let the rest go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fleetloop.options import AsJson, WorkspacePath

if TYPE_CHECKING:
    from connectors.lake.table import LakeTable
    from workspace.layout import Workspace

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
    from pipelines.dataset.lock import holders, lake_tables
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    held = holders(place)
    document: dict[str, Any] = {}
    for name, table in lake_tables(place).items():
        snapshot = table.snapshot()
        files = snapshot.files()
        document[name] = {
            "version": snapshot.version,
            "rows": snapshot.count(),
            "files": files.num_rows,
            "bytes": sum(files.column("size_bytes").to_pylist()),
            "held": {str(version): list(who) for version, who in held.get(name, {}).items()},
        }
    if as_json:
        _print({"tables": document})
        return
    table_of = Table(title=f"Lake {place.lake_path}", title_justify="left")
    table_of.add_column("table")
    for heading in ("version", "rows", "files", "bytes"):
        table_of.add_column(heading, justify="right")
    table_of.add_column("held versions")
    for name, row in document.items():
        words = [f"{version} by {', '.join(who)}" for version, who in row["held"].items()]
        numbers = (f"{row[key]:,}" for key in ("version", "rows", "files", "bytes"))
        table_of.add_row(name, *numbers, "; ".join(words) or "-")
    Console().print(table_of)


@app.command()
def trim(workspace: WorkspacePath = Path(), dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Remove the log entries that neither the newest version, a dataset nor lake.lock needs: earlier versions
    can not be read afterwards. No data file is touched."""
    from connectors.lake.retention import trim_log
    from pipelines.dataset.lock import holders, lake_tables
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    document: dict[str, dict[str, Any]] = {}
    for name, table in lake_tables(place).items():
        with _no_committer(place, name, table):
            keep = holders(place).get(name, {})
            document[name] = {"log_entries": trim_log(table, keep, dry_run=dry_run), "kept": sorted(keep)}
    if as_json:
        _print({"dry_run": dry_run, "tables": document})
        return
    word = "would be removed" if dry_run else "removed"
    for name, row in document.items():
        Console().print(f"{name}: {row['log_entries']:,} log entries {word}")


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
    from connectors.lake.retention import vacuum as remove_files
    from pipelines.dataset.lock import holders, lake_tables
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    document: dict[str, dict[str, Any]] = {}
    for name, table in lake_tables(place).items():
        with _no_committer(place, name, table):
            keep = holders(place).get(name, {})
            age = timedelta(days=older_than_days)
            document[name] = {
                "files": remove_files(table, keep, older_than=age, dry_run=dry_run),
                "kept": sorted(keep),
            }
    if as_json:
        _print({"dry_run": dry_run, "older_than_days": older_than_days, "tables": document})
        return
    word = "would be removed" if dry_run else "removed"
    for name, row in document.items():
        Console().print(f"{name}: {len(row['files']):,} files {word}")


@contextmanager
def _no_committer(place: Workspace, name: str, table: LakeTable) -> Iterator[None]:
    """While this holds, no ingest commits to the table, and no dataset version is made."""
    from foundation.clock import SystemClock
    from pipelines.dataset.dvc import DvcRepository
    from pipelines.ingest.staging import commit_lock

    with DvcRepository(place).writing():
        if name != "arrivals":
            yield
            return
        with commit_lock(table, place.settings.lock_wait_s, SystemClock()):
            yield


def _print(document: object) -> None:
    print(json.dumps(document, indent=2, sort_keys=True))

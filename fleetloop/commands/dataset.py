"""`fleetloop dataset`: lock the lake, re-run what changed, and commit, list, show and compare versions."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleetloop.options import AsJson, WorkspacePath, record

if TYPE_CHECKING:
    from services.dataset import Version

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Lock the lake; commit, list, show and compare dataset versions.",
)

HERE = Path()


@app.command()
def lock(workspace: WorkspacePath = HERE, as_json: AsJson = False) -> None:
    """Write lake.lock from the newest version of every table: what the next dataset is made from."""
    from connectors.lake.lock import lock_json
    from services import dataset as service
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    done = service.lock(place)
    record(place, "Lock the lake")
    if as_json:
        _print({**lock_json(done.tables), "changed": done.is_changed})
        return
    for name, table in done.tables.items():
        Console().print(f"{name} version [bold]{table.version}[/]")
    Console().print(f"[green]{'Wrote' if done.is_changed else 'No change in'}[/] {place.lake_lock_path}")


@app.command()
def repro(
    stages: Annotated[
        list[str] | None, typer.Argument(help="Stages of dvc.yaml; all of them when none is named.")
    ] = None,
    workspace: WorkspacePath = HERE,
) -> None:
    """Re-run the stages whose inputs changed, and no others."""
    from services import dataset as service
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    try:
        service.repro(place, stages or (), on_line=lambda line: print(line, file=sys.stderr, flush=True))
    finally:
        record(place, f"Run {', '.join(stages) if stages else 'the stages'} again")


@app.command()
def drives(
    file: Annotated[
        Path | None,
        typer.Argument(help="Parquet file with drive_id, or folder of pictures; the lake by default."),
    ] = None,
    workspace: WorkspacePath = HERE,
    as_json: AsJson = False,
) -> None:
    """Show which drive is in which split, for the lake or for a file before it is added or trained on."""
    from services.drives import drives_of_file, drives_of_lake
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    found = drives_of_lake(place) if file is None else drives_of_file(place, file)
    if as_json:
        rows = [{"drive_id": each.drive_id, "split": each.split, "rows": each.rows} for each in found]
        _print({"drives": rows})
        return
    table = Table(title=f"{len(found):,} drives", title_justify="left")
    table.add_column("drive", overflow="fold")
    table.add_column("split")
    table.add_column("rows", justify="right")
    for each in found:
        table.add_row(escape(each.drive_id), each.split, f"{each.rows:,}")
    Console().print(table)


@app.command()
def commit(
    message: str = typer.Option(..., "-m", "--message", help="What is new in this version."),
    push: bool = typer.Option(True, help="Push the files to the DVC remote."),
    workspace: WorkspacePath = HERE,
    as_json: AsJson = False,
) -> None:
    """Commit datasets/current as the next version (DVC, git, a tag), with all that the stages made until now.

    The same digest makes no new version: run it again after training, to record and push the model too.
    """
    from services import dataset as service
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    done = service.commit(place, message, is_pushed=push)
    record(place, f"After dataset {done.version.id}")
    version, stages = done.version, dict(done.stages)
    if as_json:
        names = {"id": version.id, "digest": version.digest, "parent": version.parent}
        _print({**names, "is_new": done.is_new, "is_pushed": push, "stages": stages})
        return
    word = "Committed" if done.is_new else "No change since"
    Console().print(
        f"[green]{word}[/] [bold]{version.id}[/]  {version.manifest['rows']:,} rows  digest {version.digest}"
    )
    for name, state in stages.items():
        Console().print(f"  {name}: {state if state != 'recorded' or not push else 'recorded and pushed'}")


@app.command(name="list")
def list_(workspace: WorkspacePath = HERE, as_json: AsJson = False) -> None:
    """List the dataset versions, the first one first."""
    from services.dataset import list_versions
    from workspace.layout import Workspace

    versions = list_versions(Workspace.open(workspace))
    if as_json:
        _print([_summary(version) for version in versions])
        return
    table = Table(title="Dataset versions", title_justify="left")
    for heading in ("version", "digest", "parent", "message"):
        table.add_column(heading)
    for heading in ("rows", "train", "validation", "test"):
        table.add_column(heading, justify="right")
    for version in versions:
        splits = version.manifest["splits"]
        numbers = [
            version.manifest["rows"],
            *(splits[name]["rows"] for name in ("train", "validation", "test")),
        ]
        table.add_row(
            version.id, version.digest[:12], version.parent, version.message, *(f"{n:,}" for n in numbers)
        )
    Console().print(table)


@app.command()
def show(
    version: str = typer.Argument("latest", help="vN, or latest."),
    workspace: WorkspacePath = HERE,
    as_json: AsJson = False,
) -> None:
    """Show one version: its counts, splits, classes, and what it was made from."""
    from fleetloop.commands.curate import what_became
    from services.dataset import find_version
    from workspace.layout import Workspace

    found = find_version(Workspace.open(workspace), version)
    if as_json:
        _print(asdict(found))
        return
    console = Console()
    console.print(
        f"[bold]{found.id}[/] {found.message}\ndigest {found.digest}\nparent {found.parent or '(none)'}"
    )
    console.print(what_became(found.manifest))
    table = Table(title="Classes by split", title_justify="left")
    table.add_column("class")
    names = ("train", "validation", "test")
    for name in names:
        table.add_column(name, justify="right")
    for name in found.manifest["classes"]:
        table.add_row(name, *(f"{found.manifest['splits'][split]['classes'][name]:,}" for split in names))
    console.print(table)


@app.command()
def diff(
    before: str = typer.Argument(..., help="vN, latest, or current for datasets/current."),
    after: str = typer.Argument(..., help="vN, latest, or current."),
    workspace: WorkspacePath = HERE,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: rows added, removed, given another label, and how the classes changed."""
    from services import dataset as service
    from workspace.layout import Workspace

    found = service.diff(Workspace.open(workspace), before, after)
    if as_json:
        _print({"before": before, "after": after, **found.to_json()})
        return
    table = Table(title=f"{before} -> {after}", title_justify="left")
    table.add_column("what")
    for heading in (before, after, "change"):
        table.add_column(heading, justify="right")
    table.add_row(
        "rows",
        f"{found.before_rows:,}",
        f"{found.after_rows:,}",
        f"{found.after_rows - found.before_rows:+,}",
    )
    for name, (a, b) in {**found.splits, **found.classes}.items():
        table.add_row(name, f"{a:,}", f"{b:,}", f"{b - a:+,}")
    console = Console()
    console.print(table)
    console.print(f"{found.added:,} added, {found.removed:,} removed, {found.relabelled:,} relabelled")
    console.print(f"{found.unchanged:,} unchanged")
    if found.moved:
        console.print(f"[red]{found.moved:,} rows moved to another split[/]")


@app.command()
def checkout(
    version: Annotated[str, typer.Argument(help="vN, or latest.")],
    into: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    workspace: WorkspacePath = HERE,
) -> None:
    """Fetch the files of a version from the DVC remote into a folder, and check their digest."""
    from services.dataset import checkout_version
    from workspace.layout import Workspace

    place = checkout_version(Workspace.open(workspace), version, into)
    Console().print(f"[green]Version {version}[/] is in {place}")


def _summary(version: Version) -> dict[str, Any]:
    return {
        "id": version.id,
        "digest": version.digest,
        "parent": version.parent,
        "message": version.message,
        "rows": version.manifest["rows"],
        "splits": {name: split["rows"] for name, split in version.manifest["splits"].items()},
    }


def _print(document: object) -> None:
    print(json.dumps(document, indent=2, sort_keys=True))

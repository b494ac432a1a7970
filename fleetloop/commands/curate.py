"""`fleetloop curate`: make the dataset from the locked lake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from fleetloop.options import (
    AsJson,
    JobEndpoint,
    PrismPath,
    Processes,
    RunnerName,
    Workers,
    WorkspacePath,
    record,
)

app = typer.Typer(add_completion=False)


@app.command()
def curate(
    workspace: WorkspacePath = Path(),
    lock: bool = typer.Option(False, "--lock", help="Write lake.lock from the lake's newest versions first."),
    runner: RunnerName = "direct",
    workers: Workers = 1,
    processes: Processes = False,
    job_endpoint: JobEndpoint = "",
    prism_path: PrismPath = "",
    as_json: AsJson = False,
) -> None:
    """Make datasets/current from the versions in lake.lock, with the parameters in params.yaml."""
    from services import curate as service
    from services.runners import runner_settings
    from workspace.layout import Workspace

    settings = runner_settings(runner, workers, processes, job_endpoint, prism_path)
    place = Workspace.open(workspace)
    result = service.curate(place, settings, with_lock=lock)
    record(place, "Lock the lake")
    if as_json:
        print(json.dumps(result.manifest, indent=2, sort_keys=True))
        return
    console = Console()
    console.print(what_became(result.manifest))
    console.print(f"[green]Dataset[/] {result.path}  digest {result.manifest['digest']}")
    console.print(f"[green]Card[/] {result.path / 'card.html'}")


def what_became(manifest: dict[str, Any]) -> Table:
    """The counts of a manifest as a table; they add up to what was read."""
    counts = manifest["counts"]
    table = Table(title=f"What became of the {counts['read']:,} rows that were read", title_justify="left")
    table.add_column("what")
    table.add_column("rows", justify="right")
    table.add_row("[green]kept[/]", f"{counts['kept']:,}")
    table.add_row("unlabelled", f"{counts['unlabelled']:,}")
    table.add_row("quarantined", f"{counts['quarantined']:,}")
    for reason, number in sorted(counts["removed"].items()):
        table.add_row(f"removed: {reason.replace('_', ' ')}", f"{number:,}")
    return table

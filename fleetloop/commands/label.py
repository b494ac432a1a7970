"""`fleetloop label`: select what is worth labelling and ask the label desk for exactly that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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
)

app = typer.Typer(add_completion=False)


@app.command()
def label(
    budget: Annotated[int, typer.Option(min=0, help="Labels that may be paid for.")],
    desk: Annotated[
        Path | None, typer.Option(help="Parquet, JSON-lines or CSV file that stands for the annotators.")
    ] = None,
    cost_per_label: Annotated[
        float | None,
        typer.Option(min=0.0, max=1e6, help="Label units per answer, instead of cost in fleetloop.toml."),
    ] = None,
    workspace: WorkspacePath = Path(),
    runner: RunnerName = "direct",
    workers: Workers = 1,
    processes: Processes = False,
    job_endpoint: JobEndpoint = "",
    prism_path: PrismPath = "",
    as_json: AsJson = False,
) -> None:
    """Spend a labelling budget on the frames worth most, and append the answers to the lake with their cost."""
    from services import label as service
    from services.runners import runner_settings
    from workspace.layout import Workspace

    settings = runner_settings(runner, workers, processes, job_endpoint, prism_path)
    place = Workspace.open(workspace)
    result = service.label(place, budget, settings, desk=desk, cost_per_label=cost_per_label)
    if as_json:
        print(json.dumps(result.to_json(), indent=2, sort_keys=True))
        return
    table = Table(title=f"Label request {result.request_id}", title_justify="left")
    table.add_column("what")
    table.add_column("frames", justify="right")
    table.add_row("could be asked for", f"{result.candidates:,}")
    for arm, number in result.arms.items():
        table.add_row(f"asked for: {arm}", f"{number:,}")
    for name, number in result.classes.items():
        table.add_row(f"answered: {name}", f"{number:,}")
    console = Console()
    console.print(table)
    console.print(
        f"[green]Cost[/] {result.cost:g} for {result.answered:,} of {result.asked:,} frames "
        f"({result.payload_bytes:,} bytes); the budget is {budget:,}"
    )

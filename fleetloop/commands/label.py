"""`fleetloop label`: select what is worth labelling and ask the label desk for exactly that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from foundation.errors import MisconfiguredError

app = typer.Typer()


@app.command()
def label(
    budget: Annotated[int, typer.Option(min=0, help="Labels that may be paid for.")],
    desk: Annotated[
        Path | None, typer.Option(help="Parquet, JSON-lines or CSV file that stands for the annotators.")
    ] = None,
    workspace: Annotated[Path, typer.Option(help="The workspace.")] = Path(),
    workers: int = typer.Option(1, min=1, max=256, help="Workers of the local runner."),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on standard output."),
) -> None:
    """Spend a labelling budget on the frames worth most, and append the answers to the lake with their
    cost."""
    from connectors.label_desk import FileLabelDesk
    from connectors.workspace import Workspace
    from pipelines.curate.labelling import label as spend
    from pipelines.runner import RunnerSettings

    place = Workspace.open(workspace)
    file = desk or (place.path(place.settings.label_desk.file) if place.settings.label_desk.file else None)
    if file is None:
        raise MisconfiguredError(
            "no label desk: give --desk FILE, or set file in [label_desk] of fleetloop.toml"
        )
    result = spend(place, FileLabelDesk(file), budget, RunnerSettings(workers=workers))
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
        f"[green]Cost[/] {result.cost:g} for {result.answered:,} of {result.asked:,} frames; "
        f"the budget is {budget:,}"
    )

"""`fleetloop label`: select the frames most worth a label and request exactly those from the label desk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleetloop.options import (
    HERE,
    AsJson,
    JobEndpoint,
    Place,
    PrismPath,
    Processes,
    RunnerName,
    Workers,
)
from fleetloop.terminal import print_json, show, show_table

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
    place: Place = HERE,
    runner: RunnerName = "direct",
    workers: Workers = 1,
    processes: Processes = False,
    job_endpoint: JobEndpoint = "",
    prism_path: PrismPath = "",
    as_json: AsJson = False,
) -> None:
    """Spend a labelling budget on the most valuable frames, and append the answers to the lake with their cost."""
    from services import label as service
    from services.runners import runner_settings

    settings = runner_settings(runner, workers, processes, job_endpoint, prism_path)
    result = service.label(place, budget, settings, desk=desk, cost_per_label=cost_per_label)
    if as_json:
        print_json(result.to_json())
        return
    rows = [("candidates", result.candidates)]
    rows += [(f"requested: {arm}", number) for arm, number in result.arms.items()]
    rows += [(f"answered: {name}", number) for name, number in result.classes.items()]
    show_table(f"Label request {result.request_id}", ("what", "frames"), rows)
    for vehicle, told in result.vehicles.items():
        if told["differ"]:
            show(
                "[yellow]{vehicle}[/]: {differ:,} of {compared:,} frames have other scores or classes than our model gives",
                vehicle=vehicle,
                differ=told["differ"],
                compared=told["compared"],
            )
    if not result.scored_by:
        show(
            "Scores are those that the vehicles claim: no registered model of this task serves the fleet yet."
        )
    show(
        "[green]Cost[/] {cost:g} for {answered:,} of {asked:,} frames ({size:,} bytes); the budget is {budget:,}",
        cost=result.cost,
        answered=result.answered,
        asked=result.asked,
        size=result.payload_bytes,
        budget=budget,
    )

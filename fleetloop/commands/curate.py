"""`fleetloop curate`: make the dataset from the locked lake."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console

from fleetloop.options import (
    HERE,
    AsJson,
    JobEndpoint,
    Place,
    PrismPath,
    Processes,
    RunnerName,
    Workers,
    print_json,
    record,
    show_table,
)

app = typer.Typer(add_completion=False)


@app.command()
def curate(
    place: Place = HERE,
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

    settings = runner_settings(runner, workers, processes, job_endpoint, prism_path)
    result = service.curate(place, settings, with_lock=lock)
    record(place, "Lock the lake")
    if as_json:
        print_json(result.manifest)
        return
    show_what_became(result.manifest)
    console = Console()
    console.print(f"[green]Dataset[/] {result.path}  digest {result.manifest['digest']}")
    console.print(f"[green]Card[/] {result.path / 'card.html'}")


def show_what_became(manifest: dict[str, Any]) -> None:
    """Print the counts of a manifest; they add up to the rows that were read."""
    counts = manifest["counts"]
    rows = [
        ("[green]kept[/]", counts["kept"]),
        *((name, counts[name]) for name in ("unlabelled", "quarantined")),
    ]
    rows += [
        (f"removed: {name.replace('_', ' ')}", count) for name, count in sorted(counts["removed"].items())
    ]
    show_table(f"Outcome of the {counts['read']:,} rows that were read", ("outcome", "rows"), rows)

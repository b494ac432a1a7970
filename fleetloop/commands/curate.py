"""`fleetloop curate`: make the dataset from the locked lake."""

from __future__ import annotations

from typing import Any

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
    record,
)
from fleetloop.terminal import print_json, show, show_table, styled

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
    show("[green]Dataset[/] {path}  digest {digest}", path=result.path, digest=result.manifest["digest"])
    show("[green]Card[/] {path}", path=result.path / "card.html")


def show_what_became(manifest: dict[str, Any]) -> None:
    """Print the counts of a manifest; they add up to the rows that were read."""
    counts = manifest["counts"]
    rows: list[tuple[object, int]] = [
        (styled("[green]kept[/]"), counts["kept"]),
        *((name, counts[name]) for name in ("unlabelled", "quarantined")),
    ]
    rows += [
        (f"removed: {name.replace('_', ' ')}", count) for name, count in sorted(counts["removed"].items())
    ]
    show_table(f"Outcome of the {counts['read']:,} rows that were read", ("outcome", "rows"), rows)
    for vehicle, rules in manifest.get("vehicles_in_quarantine", {}).items():
        show(
            "[yellow]{vehicle} in quarantine[/]: none of its {rows:,} labelled rows is trained on; it broke {rules}; "
            "curate.quarantine.lifted in params.yaml lifts it",
            vehicle=vehicle,
            rows=rules["vehicle_in_quarantine"],
            rules=", ".join(
                f"{rule} ({count})" for rule, count in rules.items() if rule != "vehicle_in_quarantine"
            ),
        )

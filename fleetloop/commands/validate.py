"""`fleetloop validate`: check the dataset's rules with polars and with Great Expectations."""

from __future__ import annotations

from typing import Any

import typer

from fleetloop.options import HERE, AsJson, Place, record
from fleetloop.terminal import print_json, say, show, show_table, styled

app = typer.Typer(add_completion=False)


@app.command()
def validate(
    place: Place = HERE,
    fast: bool = typer.Option(False, "--fast", help="Polars only: no Great Expectations, no Data Docs."),
    as_json: AsJson = False,
) -> None:
    """Check datasets/current by the same rules with polars and Great Expectations. Exit status 65 when it fails."""
    from services import validate as service

    found = service.validate(place, with_expectations=not fast)
    record(place, "Validate the dataset")
    if as_json:
        print_json(found.report)
    else:
        _show(found.report)
        if found.docs is not None:
            show("[green]Data Docs[/] {docs}", docs=found.docs)
    if found.failure is not None:
        say(f"RejectedError: {found.failure}", err=True)
        raise typer.Exit(found.failure.exit_code)


def _show(report: dict[str, Any]) -> None:
    rows = report["rows"]
    title = f"{rows['judged']:,} rows checked, {rows['in_quarantine']:,} in quarantine"
    counts = []
    for rule in report["rules"]:
        failing = rule["failing_rows"]
        if rule["failing_in_shards"]:
            told = styled("[red]{n:,}[/]", n=failing)
        elif failing:
            told = styled("[yellow]{n:,}[/]", n=failing)
        else:
            told = styled("[green]{n:,}[/]", n=failing)
        other = rule["great_expectations_failing_rows"]
        counts.append((rule["rule"], told, "-" if other is None else other, rule["failing_in_shards"]))
    show_table(title, ("rule", "failing", "Great Expectations", "in the shards"), counts)
    vehicles = report["vehicles"]
    for each in vehicles["in_quarantine"]:
        why = vehicles["lifted"].get(each["vehicle_id"])
        show(
            "[yellow]{vehicle}[/]: {rule}, {failing:,} of {rows:,} rows; {what}",
            vehicle=each["vehicle_id"],
            rule=each["rule"],
            failing=each["failing_rows"],
            rows=each["rows"],
            what="these are in quarantine" if why is None else f"its quarantine was lifted: {why}",
        )
    for vehicle, count in vehicles["not_trained_on"].items():
        show(
            "[yellow]{vehicle} in quarantine[/]: none of its {rows:,} rows is trained on",
            vehicle=vehicle,
            rows=count,
        )
    if report["success"]:
        show("[green]passes[/]")
    else:
        show("[red]does not pass[/]: {failures}", failures="; ".join(report["failures"]))

"""`fleetloop validate`: check the dataset's rules with polars and with Great Expectations."""

from __future__ import annotations

import sys
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from fleetloop.options import HERE, AsJson, Place, print_json, record

app = typer.Typer(add_completion=False)


@app.command()
def validate(
    place: Place = HERE,
    fast: bool = typer.Option(False, "--fast", help="Polars only: no Great Expectations, no Data Docs."),
    as_json: AsJson = False,
) -> None:
    """Check datasets/current by the same rules with polars and Great Expectations. Exit status 65 when it fails."""
    from services import curate as service

    found = service.validate(place, with_expectations=not fast)
    record(place, "Validate the dataset")
    if as_json:
        print_json(found.report)
    else:
        _show(found.report)
        if found.docs is not None:
            Console().print(f"[green]Data Docs[/] {found.docs}")
    if found.failure is not None:
        print(f"RejectedError: {found.failure}", file=sys.stderr)
        raise typer.Exit(found.failure.exit_code)


def _show(report: dict[str, Any]) -> None:
    rows = report["rows"]
    title = f"{rows['judged']:,} rows checked, {rows['in_quarantine']:,} in quarantine"
    table = Table(title=title, title_justify="left")
    table.add_column("rule", no_wrap=True)
    for heading in ("failing", "Great Expectations", "in the shards"):
        table.add_column(heading, justify="right")
    for rule in report["rules"]:
        colour = "red" if rule["failing_in_shards"] else "yellow" if rule["failing_rows"] else "green"
        other = rule["great_expectations_failing_rows"]
        table.add_row(
            rule["rule"],
            f"[{colour}]{rule['failing_rows']:,}[/]",
            "-" if other is None else f"{other:,}",
            f"{rule['failing_in_shards']:,}",
        )
    console = Console()
    console.print(table)
    console.print(
        "[green]passes[/]" if report["success"] else f"[red]does not pass[/]: {'; '.join(report['failures'])}"
    )

"""`fleetloop validate`: judge the dataset twice, and pass it or not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from foundation.errors import RejectedError

app = typer.Typer(add_completion=False)


@app.command()
def validate(
    workspace: Annotated[Path, typer.Option(help="The workspace.")] = Path(),
    fast: bool = typer.Option(
        False, "--fast", help="Only the fast rules: no Great Expectations, no Data Docs."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on standard output: the report."),
) -> None:
    """Judge datasets/current by the same rules with polars and Great Expectations. Exit status 65 when it
    does not pass."""
    from foundation.files import read_json
    from pipelines.validate.stage import DOCS_NAME, REPORT_NAME
    from pipelines.validate.stage import validate as judge
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    failed: RejectedError | None = None
    try:
        judge(place, with_expectations=not fast)
    except RejectedError as error:
        if error.reason != "validation_failed":
            raise
        failed = error
    report = read_json(place.reports_path / REPORT_NAME)
    assert isinstance(report, dict)  # noqa: S101
    if as_json:
        print(json.dumps(report, indent=2, sort_keys=True))
    else:
        _show(report)
        if not fast:
            Console().print(f"[green]Data Docs[/] {place.reports_path / DOCS_NAME / 'index.html'}")
    if failed is not None:
        print(f"RejectedError: {failed}", file=sys.stderr)
        raise typer.Exit(failed.exit_code)


def _show(report: dict[str, Any]) -> None:
    rows = report["rows"]
    title = f"{rows['judged']:,} rows judged, {rows['in_quarantine']:,} in quarantine"
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

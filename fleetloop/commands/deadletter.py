"""`fleetloop deadletter`: list what was rejected, and replay it after a fix."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleetloop.options import AsJson, WorkspacePath

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List what was rejected, and replay it after a fix."
)

_REASON = typer.Option("", "--reason", help="Only this reason, for example unknown_vehicle.")


@app.command("list")
def list_(
    workspace: WorkspacePath = Path(),
    reason: str = _REASON,
    limit: int = typer.Option(100, "--limit", min=1, max=1_000_000, help="Rows to show; counts cover all."),
    as_json: AsJson = False,
) -> None:
    """List rejected records that no replay superseded, with reason, place and size."""
    from services.deadletter import list_letters
    from workspace.layout import Workspace

    found = list_letters(Workspace.open(workspace), reason, limit)
    if as_json:
        document = {
            "count": found.count,
            "by_reason": dict(found.by_reason),
            "letters": list(found.letters),
        }
        print(json.dumps(document, indent=2, sort_keys=True))
        return
    shown = Table(title=f"{found.count:,} dead letters", title_justify="left")
    for heading in ("place", "reason", "vehicle", "bytes", "detail"):
        shown.add_column(heading, justify="right" if heading == "bytes" else "left", overflow="fold")
    for row in found.letters:
        place = f"{row['topic']}/{row['partition']}/{row['offset']}"
        size = "-" if row["value_bytes"] is None else f"{row['value_bytes']:,}"
        shown.add_row(place, row["reason"], row["vehicle_id"] or "-", size, escape(row["detail"][:200]))
    console = Console()
    console.print(shown)
    console.print("  ".join(f"{name}: {count:,}" for name, count in found.by_reason.items()))


@app.command()
def replay(workspace: WorkspacePath = Path(), reason: str = _REASON, as_json: AsJson = False) -> None:
    """Verify rejected records again; those that pass now land once and point at the rejection they supersede."""
    from services import deadletter as service
    from workspace.layout import Workspace

    report = service.replay(Workspace.open(workspace), reason)
    if as_json:
        print(json.dumps(report.to_json(), indent=2, sort_keys=True))
        return
    still = ", ".join(f"{name} {count:,}" for name, count in report.still_rejected.items()) or "none"
    Console().print(
        f"tried {report.tried:,}: landed {report.landed:,}, resent {report.resent:,}, still rejected: {still}"
    )

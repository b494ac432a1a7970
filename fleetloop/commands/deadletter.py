"""`fleetloop deadletter`: list what was rejected, and replay it after a fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from connectors.lake.table import LakeTable
    from schemas.reasons import RejectReason
    from workspace.layout import Workspace

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List what was rejected, and replay it after a fix."
)

_WORKSPACE = typer.Option(Path(), "--workspace", help="Folder made by `fleetloop init`.")
_REASON = typer.Option("", "--reason", help="Only this reason, for example unknown_vehicle.")
_JSON = typer.Option(False, "--json", help="One JSON document on standard output.")


@app.command("list")
def list_letters(
    workspace: Path = _WORKSPACE,
    reason: str = _REASON,
    limit: int = typer.Option(100, "--limit", min=1, max=1_000_000, help="Rows to show; counts cover all."),
    as_json: bool = _JSON,
) -> None:
    """List rejected records that no replay superseded, with reason, place and size."""
    from collections import Counter

    from pipelines.deadletter import dead_letters
    from workspace.layout import Workspace

    table = _arrivals(Workspace.open(workspace))
    found = dead_letters(table.snapshot(), _reason(reason))
    counts = dict(sorted(Counter(found.column("reason").to_pylist()).items()))
    letters = found.slice(0, limit).to_pylist()
    if as_json:
        print(
            json.dumps(
                {"count": found.num_rows, "by_reason": counts, "letters": letters}, indent=2, sort_keys=True
            )
        )
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=f"{found.num_rows:,} dead letters", title_justify="left")
    for heading in ("place", "reason", "vehicle", "bytes", "detail"):
        shown.add_column(heading, justify="right" if heading == "bytes" else "left", overflow="fold")
    for row in letters:
        place = f"{row['topic']}/{row['partition']}/{row['offset']}"
        size = "-" if row["value_bytes"] is None else f"{row['value_bytes']:,}"
        shown.add_row(place, row["reason"], row["vehicle_id"] or "-", size, escape(row["detail"][:200]))
    console = Console()
    console.print(shown)
    console.print("  ".join(f"{name}: {count:,}" for name, count in counts.items()))


@app.command()
def replay(workspace: Path = _WORKSPACE, reason: str = _REASON, as_json: bool = _JSON) -> None:
    """Verify rejected records again; those that pass now land once and point at the rejection they supersede."""
    from foundation.clock import SystemClock
    from pipelines import deadletter
    from pipelines.ingest.settings import IngestSettings
    from schemas.signing import Enrolment
    from workspace.layout import Workspace

    opened = Workspace.open(workspace)
    report = deadletter.replay(
        _arrivals(opened),
        Enrolment.load(opened.enrolment_path),
        IngestSettings(commit_wait_s=opened.settings.lock_wait_s),
        SystemClock(),
        _reason(reason),
    )
    if as_json:
        print(json.dumps(report.to_json(), indent=2, sort_keys=True))
        return
    from rich.console import Console

    still = ", ".join(f"{name} {count:,}" for name, count in report.still_rejected.items()) or "none"
    Console().print(
        f"tried {report.tried:,}: landed {report.landed:,}, resent {report.resent:,}, still rejected: {still}"
    )


def _arrivals(workspace: Workspace) -> LakeTable:
    from connectors.lake.table import LakeTable

    return LakeTable.open(workspace.arrivals_uri)


def _reason(word: str) -> RejectReason | None:
    from foundation.errors import MisconfiguredError
    from schemas.reasons import RejectReason

    if not word:
        return None
    if word not in RejectReason.__members__.values():
        raise MisconfiguredError(f"there is no reason {word!r}; it is one of {', '.join(RejectReason)}")
    return RejectReason(word)

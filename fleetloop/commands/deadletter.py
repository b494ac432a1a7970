"""`fleetloop deadletter`: list rejected records, and replay them after a fix."""

from __future__ import annotations

import typer

from fleetloop.options import HERE, AsJson, Place
from fleetloop.terminal import print_json, say, show_table

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List rejected records, and replay them after a fix."
)

_REASON = typer.Option("", "--reason", help="Only this reason, for example unknown_vehicle.")


@app.command("list")
def list_(
    place: Place = HERE,
    reason: str = _REASON,
    limit: int = typer.Option(100, "--limit", min=1, max=1_000_000, help="Rows to show; counts cover all."),
    as_json: AsJson = False,
) -> None:
    """List rejected records that no replay superseded, with reason, offset and size."""
    from services.deadletter import list_letters

    found = list_letters(place, reason, limit)
    if as_json:
        print_json({"count": found.count, "by_reason": found.by_reason, "letters": found.letters})
        return
    rows = [
        (
            f"{row['topic']}/{row['partition']}/{row['offset']}",
            row["reason"],
            row["vehicle_id"] or "-",
            row["value_bytes"],
            row["detail"][:200],
        )
        for row in found.letters
    ]
    headings = ("place", "reason", "vehicle", "bytes", "detail")
    show_table(f"{found.count:,} dead letters", headings, rows)
    say("  ".join(f"{name}: {count:,}" for name, count in found.by_reason.items()))


@app.command()
def replay(place: Place = HERE, reason: str = _REASON, as_json: AsJson = False) -> None:
    """Verify rejected records again, without --reason all but over_quota; those that pass now land once, beside the rejection."""
    from services import deadletter as service

    report = service.replay(place, reason)
    if as_json:
        print_json(report.to_json())
        return
    still = ", ".join(f"{name} {count:,}" for name, count in report.still_rejected.items()) or "none"
    say(
        f"tried {report.tried:,}: landed {report.landed:,}, resent {report.resent:,}, still rejected: {still}"
    )

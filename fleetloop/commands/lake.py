"""`fleetloop lake`: show the lake's tables and which versions are held by what; remove the rest."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from fleetloop.options import HERE, AsJson, Place
from fleetloop.terminal import print_json, say, show_table

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Show the lake's tables and which versions are held by what; remove the rest.",
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")]


@app.callback()
def lake() -> None:
    """Show the lake's tables and which versions are held by what; remove the rest."""


@app.command()
def status(place: Place = HERE, as_json: AsJson = False) -> None:
    """Show every table: its newest version, rows, files, bytes, and held versions."""
    from services.lake import lake_status

    found = lake_status(place)
    if as_json:
        document = {
            name: {
                "version": table.version,
                "rows": table.rows,
                "files": table.files,
                "bytes": table.size_bytes,
                "held": {str(version): list(who) for version, who in table.held.items()},
            }
            for name, table in found.items()
        }
        print_json({"tables": document})
        return
    rows = []
    for name, table in found.items():
        held = "; ".join(f"{version} by {', '.join(who)}" for version, who in table.held.items())
        rows.append((name, table.version, table.rows, table.files, table.size_bytes, held or "-"))
    headings = ("table", "version", "rows", "files", "bytes", "held versions")
    show_table(f"Lake {place.lake_path}", headings, rows)


@app.command()
def trim(place: Place = HERE, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Remove the log entries that neither the newest version, a dataset nor lake.lock needs.

    Earlier versions cannot be read afterwards. No data file is touched.
    """
    from services import lake as service

    done = service.trim(place, is_dry_run=dry_run)
    if as_json:
        rows = {
            name: {"log_entries": each.log_entries, "kept": list(each.kept)} for name, each in done.items()
        }
        print_json({"dry_run": dry_run, "tables": rows})
        return
    for name, each in done.items():
        say(f"{name}: {each.log_entries:,} log entries {_removed(dry_run)}")


@app.command()
def compact(place: Place = HERE, as_json: AsJson = False) -> None:
    """Merge small files of the table arrivals, as `ingest --follow` does after its runs.

    No row changes. The small files stay on disk until `lake vacuum`, for the versions that datasets name.
    """
    from services import lake as service

    done = service.compact(place)
    if as_json:
        print_json({"files_before": done.before, "files_after": done.after})
        return
    say(f"arrivals: {done.before:,} small files became {done.after:,}")


@app.command()
def vacuum(
    older_than_days: Annotated[
        float,
        typer.Option(
            min=1 / 24, max=36500.0, help="Keep younger files: a running writer may have written them."
        ),
    ] = 7.0,
    place: Place = HERE,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove the data files that neither the newest version, a dataset nor lake.lock refers to."""
    from services import lake as service

    age = timedelta(days=older_than_days)
    done = service.vacuum(place, age, is_dry_run=dry_run)
    if as_json:
        rows = {name: {"files": list(each.files), "kept": list(each.kept)} for name, each in done.items()}
        print_json({"dry_run": dry_run, "older_than_days": older_than_days, "tables": rows})
        return
    for name, each in done.items():
        say(f"{name}: {len(each.files):,} files {_removed(dry_run)}")


def _removed(dry_run: bool) -> str:
    return "would be removed" if dry_run else "removed"

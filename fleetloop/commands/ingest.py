"""`fleetloop ingest`: read the broker's log into the lake, one row per Kafka offset, once or continuously."""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import TYPE_CHECKING

import typer

from fleetloop.options import (
    HERE,
    AsJson,
    Bootstrap,
    JobEndpoint,
    Place,
    PrismPath,
    Processes,
    RunnerName,
    Workers,
    print_json,
)
from schemas.wire import TOPICS

if TYPE_CHECKING:
    from services.ingest import Ingest, IngestReport

app = typer.Typer(add_completion=False)


@app.command()
def ingest(
    place: Place = HERE,
    bootstrap: Bootstrap = "",
    topic: str = typer.Option(TOPICS.samples, "--topic", help="Topic to read."),
    follow: bool = typer.Option(False, "--follow", help="Continue until SIGINT or SIGTERM."),
    poll_s: float = typer.Option(
        5.0, "--poll-s", min=0.1, max=3600.0, help="Seconds between two polls of the log."
    ),
    runner: RunnerName = "direct",
    workers: Workers = 1,
    processes: Processes = False,
    job_endpoint: JobEndpoint = "",
    prism_path: PrismPath = "",
    as_json: AsJson = False,
) -> None:
    """Read the broker's log into the lake. Exit status 75 when a part could not be read now."""
    from services.ingest import open_ingest
    from services.runners import runner_settings

    settings = runner_settings(runner, workers, processes, job_endpoint, prism_path)
    job = open_ingest(place, settings, topic=topic, bootstrap=bootstrap)
    report = _follow(job, poll_s) if follow else job.once()
    if as_json:
        print_json(report.to_json() if report is not None else {})
    elif report is not None:
        _print(report)
    if report is not None and (report.unread or report.waiting) and not follow:
        raise typer.Exit(75)


def _follow(job: Ingest, poll_s: float) -> IngestReport | None:
    from services import ingest as service

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return service.follow(
        job,
        stop,
        poll_s=poll_s,
        on_report=lambda report: print(
            json.dumps(report.to_json(), sort_keys=True), file=sys.stderr, flush=True
        ),
        on_wait=lambda error: print(f"waiting: {error}", file=sys.stderr),
    )


def _print(report: IngestReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{report.topic} -> lake version {report.version_after}", title_justify="left")
    for heading in ("what", "count"):
        table.add_column(heading, justify="right" if heading == "count" else "left")
    table.add_row("offsets read", f"{report.offsets:,}")
    table.add_row("landed", f"{report.landed:,}")
    table.add_row("resent", f"{report.resent:,}")
    for reason, count in report.rejected.items():
        table.add_row(f"rejected: {reason}", f"[yellow]{count:,}[/]")
    for lost in report.lost:
        table.add_row(f"[red]lost ({lost.reason})[/]: partition {lost.partition} [{lost.begin}, {lost.end})",
                      f"[red]{lost.end - lost.begin:,}[/]")  # fmt: skip
    for gone in report.topics_gone:
        table.add_row(f"[red]{escape(gone.describe(report.cluster))}[/]", "")
    if report.gap_offsets:
        table.add_row("gaps (transaction markers, aborted records)", f"{report.gap_offsets:,}")
    for unread in report.unread:
        table.add_row(f"[red]not read[/]: partition {unread.partition} from {unread.begin}: {unread.why}", "")
    for waiting in report.waiting:
        table.add_row(
            f"[red]behind an open transaction[/]: partition {waiting.partition} [{waiting.begin}, {waiting.end})",
            f"[red]{waiting.end - waiting.begin:,}[/]",
        )
    table.add_row("files", f"{report.files:,}")
    table.add_row("seconds", f"{report.seconds:.1f}")
    Console().print(table)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)

"""`fleetloop ingest`: read the broker's log into the lake, one row per Kafka offset, once or continuously."""

from __future__ import annotations

import signal
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
)
from fleetloop.terminal import Cell, print_json, say, show_table, styled
from foundation.private import private_umask
from foundation.service_manager import print_threads_on_abort
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
        5.0, "--poll-s", min=0.1, max=3600.0, help="Seconds between two looks at the log."
    ),
    fresh_s: float = typer.Option(
        60.0,
        "--fresh-s",
        min=0.0,
        max=86_400.0,
        help="With --follow: read what waits after so many seconds, or at 20,000 offsets; 0: at every look.",
    ),
    compact: bool = typer.Option(True, help="With --follow: merge small files of the lake after a run."),
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
    report = _follow(job, poll_s, fresh_s, compact) if follow else job.once()
    if as_json:
        print_json(report.to_json() if report is not None else {})
    elif report is not None:
        _print(report)
    if report is not None and (report.unread or report.waiting) and not follow:
        raise typer.Exit(75)


def _follow(job: Ingest, poll_s: float, fresh_s: float, compact: bool) -> IngestReport | None:
    from services import ingest as service

    private_umask()
    print_threads_on_abort()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return service.follow(
        job,
        stop,
        settings=service.FollowSettings(poll_s=poll_s, fresh_s=fresh_s, is_compacting=compact),
        on_report=lambda report: print_json(report.to_json(), indent=None, err=True),
        on_wait=lambda line: say(line, err=True),
    )


def _print(report: IngestReport) -> None:
    rows: list[tuple[Cell, Cell]] = [
        ("offsets read", report.offsets),
        ("landed", report.landed),
        ("resent", report.resent),
    ]
    for reason, count in report.rejected.items():
        rows.append((f"rejected: {reason}", styled("[yellow]{count:,}[/]", count=count)))
    for lost in report.lost:
        what = styled(
            "[red]lost ({reason})[/]: partition {partition} {interval}",
            reason=lost.reason,
            partition=lost.partition,
            interval=f"[{lost.begin}, {lost.end})",
        )
        rows.append((what, styled("[red]{count:,}[/]", count=lost.end - lost.begin)))
    rows += [
        (styled("[red]{what}[/]", what=gone.describe(report.cluster)), "") for gone in report.topics_gone
    ]
    if report.gap_offsets:
        rows.append(("gaps (transaction markers, aborted records)", report.gap_offsets))
    for unread in report.unread:
        told = f"partition {unread.partition} from {unread.begin}: {unread.why}"
        rows.append((styled("[red]not read[/]: {told}", told=told), ""))
    for waiting in report.waiting:
        told = f"partition {waiting.partition} [{waiting.begin}, {waiting.end})"
        rows.append(
            (
                styled("[red]behind an open transaction[/]: {told}", told=told),
                styled("[red]{count:,}[/]", count=waiting.end - waiting.begin),
            )
        )
    rows += [("files", report.files), ("seconds", f"{report.seconds:.1f}")]
    show_table(f"{report.topic} -> lake version {report.version_after}", ("what", "count"), rows)
    for warning in report.warnings:
        say(f"warning: {warning}", err=True)

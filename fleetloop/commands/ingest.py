"""`fleetloop ingest`: read the broker's log into the lake, one row an offset, once or again and again."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fleetloop.options import (
    AsJson,
    Bootstrap,
    JobEndpoint,
    PrismPath,
    Processes,
    RunnerName,
    Workers,
    WorkspacePath,
    runner_settings,
)
from schemas.wire import TOPICS

if TYPE_CHECKING:
    from foundation.errors import RetryLaterError
    from pipelines.ingest.report import IngestReport
    from pipelines.ingest.run import Ingest
    from workspace.layout import Workspace

app = typer.Typer(add_completion=False)


@app.command()
def ingest(
    workspace: WorkspacePath = Path(),
    bootstrap: Bootstrap = "",
    topic: str = typer.Option(TOPICS.samples, "--topic", help="Topic to read."),
    follow: bool = typer.Option(False, "--follow", help="Go on until SIGINT or SIGTERM."),
    poll_s: float = typer.Option(
        5.0, "--poll-s", min=0.1, max=3600.0, help="Seconds between two looks at the log."
    ),
    runner: RunnerName = "direct",
    workers: Workers = 1,
    processes: Processes = False,
    job_endpoint: JobEndpoint = "",
    prism_path: PrismPath = "",
    as_json: AsJson = False,
) -> None:
    """Read the broker's log into the lake. Exit status 75 when a part could not be read now."""
    from workspace.layout import Workspace

    settings = runner_settings(runner, workers, processes, job_endpoint, prism_path)
    job = open_ingest(Workspace.open(workspace), settings, topic=topic, bootstrap=bootstrap)
    if follow:
        _follow(job, poll_s, as_json)
        return
    report = job.once()
    if as_json:
        print(json.dumps(report.to_json(), indent=2, sort_keys=True))
    else:
        _print(report)
    if report.unread:
        raise typer.Exit(75)


def open_ingest(
    workspace: Workspace, runner: Any, *, topic: str = TOPICS.samples, bootstrap: str = ""
) -> Ingest:
    """The ingest of a workspace. Raises MisconfiguredError before any vehicle is enrolled."""
    from functools import partial

    from connectors.kafka.source import KafkaSource
    from connectors.lake.schema import ARRIVALS
    from connectors.lake.table import LakeTable
    from foundation.clock import SystemClock
    from foundation.errors import MisconfiguredError
    from pipelines.ingest.run import Ingest
    from pipelines.ingest.settings import IngestSettings
    from schemas.signing import Enrolment

    if not workspace.enrolment_path.is_file():
        raise MisconfiguredError(
            f"no vehicle is enrolled ({workspace.enrolment_path} is missing), so every record would be"
            " rejected; run `fleetloop enroll` first"
        )
    kafka = workspace.kafka(bootstrap, client_id="fleetloop-ingest")
    return Ingest(
        table=LakeTable.create(workspace.arrivals_uri, ARRIVALS),
        open_source=partial(KafkaSource, kafka),
        load_enrolment=lambda: Enrolment.load(workspace.enrolment_path),
        settings=IngestSettings(topic=topic, commit_wait_s=workspace.settings.lock_wait_s),
        runner=runner,
        clock=SystemClock(),
    )


def _follow(job: Ingest, poll_s: float, as_json: bool) -> None:
    from pipelines.ingest.report import IngestReport, total

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    reports: list[IngestReport] = []

    def on_report(report: IngestReport | RetryLaterError) -> None:
        if not isinstance(report, IngestReport):
            print(f"waiting: {report}", file=sys.stderr)
            return
        reports[:] = [total(reports[0], report) if reports else report]
        if report.offsets or report.lost or report.unread or report.topics_gone:
            print(json.dumps(report.to_json(), sort_keys=True), file=sys.stderr, flush=True)

    job.follow(stop, on_report, poll_s=poll_s)
    if not as_json:
        for report in reports:
            _print(report)
    elif reports:
        print(json.dumps(reports[0].to_json(), indent=2, sort_keys=True))
    else:
        print("{}")


def _print(report: IngestReport) -> None:
    from rich.console import Console
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
        table.add_row(f"[red]lost to retention[/]: partition {lost.partition} [{lost.begin}, {lost.end})",
                      f"[red]{lost.end - lost.begin:,}[/]")  # fmt: skip
    for gone in report.topics_gone:
        table.add_row(
            f"[red]topic made anew[/]: {gone.topic_id}/{gone.partition} is gone, read up to {gone.end}", ""
        )
    if report.gap_offsets:
        table.add_row("gaps (never a record)", f"{report.gap_offsets:,}")
    for unread in report.unread:
        table.add_row(f"[red]not read[/]: partition {unread.partition} from {unread.begin}: {unread.why}", "")
    table.add_row("files", f"{report.files:,}")
    table.add_row("seconds", f"{report.seconds:.1f}")
    Console().print(table)

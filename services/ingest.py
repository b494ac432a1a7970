"""Read the broker's log into the lake, one row per Kafka offset: once, or continuously."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from connectors.kafka.source import KafkaSource
from connectors.lake.schema import ARRIVALS
from connectors.lake.table import LakeTable
from foundation.clock import SystemClock
from foundation.errors import MisconfiguredError, RetryLaterError
from pipelines.ingest.report import IngestReport, total
from pipelines.ingest.run import Ingest
from pipelines.ingest.settings import IngestSettings
from pipelines.runner import RunnerSettings
from schemas.wire import TOPICS
from workspace.enrolment_file import load_enrolment
from workspace.layout import Workspace

__all__ = ["Ingest", "IngestReport", "follow", "open_ingest"]


def open_ingest(
    place: Workspace, runner: RunnerSettings, *, topic: str = TOPICS.samples, bootstrap: str = ""
) -> Ingest:
    """Return the ingest of a workspace. Raises MisconfiguredError before any vehicle is enrolled."""
    if not place.enrolment_path.is_file():
        raise MisconfiguredError(
            f"no vehicle is enrolled ({place.enrolment_path} is missing), so every record would be"
            " rejected; run `fleetloop enroll` first"
        )
    kafka = place.kafka(bootstrap, client_id="fleetloop-ingest")
    return Ingest(
        table=LakeTable.create(place.arrivals_uri, ARRIVALS),
        open_source=partial(KafkaSource, kafka),
        load_enrolment=lambda: load_enrolment(place.enrolment_path),
        settings=IngestSettings(
            topic=topic, commit_wait_s=place.settings.lock_wait_s, blobs=place.settings.blobs
        ),
        runner=runner,
        clock=SystemClock(),
    )


def follow(
    job: Ingest,
    stop: threading.Event,
    *,
    poll_s: float,
    on_report: Callable[[IngestReport], object],
    on_wait: Callable[[RetryLaterError], object],
) -> IngestReport | None:
    """Ingest every `poll_s` seconds until `stop` is set; return the sum of all runs, None when none succeeded.

    Args:
        on_report: called after every run that read something, lost something or could not read something.
        on_wait: called with the error of a run that is retried at the next poll.
    """
    totals: list[IngestReport] = []
    warned: set[str] = set()

    def on_run(report: IngestReport | RetryLaterError) -> None:
        if not isinstance(report, IngestReport):
            on_wait(report)
            return
        totals[:] = [total(totals[0], report) if totals else report]
        is_news = bool(set(report.warnings) - warned)
        warned.update(report.warnings)
        if is_news or report.offsets or report.lost or report.unread or report.waiting or report.topics_gone:
            on_report(report)

    job.follow(stop, on_run, poll_s=poll_s)
    return totals[0] if totals else None

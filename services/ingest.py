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
from pipelines.ingest.backlog import FollowSettings
from pipelines.ingest.outage import Outage
from pipelines.ingest.report import IngestReport, total
from pipelines.ingest.run import Ingest
from pipelines.ingest.settings import IngestSettings
from pipelines.runner import RunnerSettings
from schemas.wire import TOPICS
from workspace.enrolment_file import load_enrolment
from workspace.layout import Workspace

__all__ = ["FollowSettings", "Ingest", "IngestReport", "follow", "open_ingest"]


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
            topic=topic,
            commit_wait_s=place.settings.lock_wait_s,
            blobs=place.settings.blobs,
            vehicle_records_per_day=place.settings.vehicle_quota.records_per_day,
            vehicle_bytes_per_day=place.settings.vehicle_quota.bytes_per_day,
        ),
        runner=runner,
        clock=SystemClock(),
    )


def follow(
    job: Ingest,
    stop: threading.Event,
    *,
    settings: FollowSettings,
    on_report: Callable[[IngestReport], object],
    on_wait: Callable[[str], object],
) -> IngestReport | None:
    """Ingest whenever it is due until `stop` is set; return the sum of all runs, None when none succeeded.

    Args:
        on_report: called after every run that read something, lost something or could not read something.
        on_wait: called with a line when runs begin to fail, when the cause changes, and when they succeed again with the
            count of the failures; never for a failure like the one before.
    """
    totals: list[IngestReport] = []
    warned: set[str] = set()
    outage = Outage(on_wait)

    def on_run(report: IngestReport | RetryLaterError) -> None:
        if not isinstance(report, IngestReport):
            outage.failed(report)
            return
        outage.ended()
        totals[:] = [total(totals[0], report) if totals else report]
        is_news = bool(set(report.warnings) - warned)
        warned.update(report.warnings)
        if is_news or report.offsets or report.lost or report.unread or report.waiting or report.topics_gone:
            on_report(report)

    job.follow(stop, on_run, settings=settings)
    return totals[0] if totals else None

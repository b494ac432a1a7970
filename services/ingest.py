"""Read the broker's log into the lake, one row per Kafka offset: once, or continuously."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import partial

from connectors.kafka.source import KafkaSource
from connectors.lake.schema import ARRIVALS
from connectors.lake.table import LakeTable
from foundation.clock import SystemClock
from foundation.errors import MisconfiguredError, RetryLaterError
from pipelines.ingest.backlog import FollowSettings
from pipelines.ingest.report import IngestReport, total
from pipelines.ingest.run import Ingest
from pipelines.ingest.settings import IngestSettings
from pipelines.runner import RunnerSettings
from schemas.wire import TOPICS
from workspace.enrolment_file import load_enrolment
from workspace.layout import Workspace

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
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
            topic=topic, commit_wait_s=place.settings.lock_wait_s, blobs=place.settings.blobs
        ),
        runner=runner,
        clock=SystemClock(),
    )


class Outage:
    """Tells of failures that are like one another once, and how many there were when they are over."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._cause = ""
        self._count = 0

    def failed(self, error: RetryLaterError) -> None:
        """Note a failure. Numbers in a message (a time waited, an attempt) make no other cause."""
        cause = f"{type(error).__name__} {_NUMBER.sub('', str(error))}"
        self._count += 1
        if cause != self._cause:
            self._cause = cause
            self._tell(f"waiting ({self._count} failed): {error}")

    def ended(self) -> None:
        """Note a success."""
        if self._count:
            self._tell(f"going on after {self._count} failed")
        self._cause, self._count = "", 0


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

"""Run ingest: snapshot, plan, graph and one commit; repeated if another committer was first, and to follow the log.

Rows and end offsets go into the same commit. Kafka's group offsets play no part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from connectors.kafka.ports import RecordSource
from connectors.lake.table import FilesGoneError, LakeTable, StaleSnapshotError
from foundation.clock import Clock
from foundation.errors import GuaranteeBrokenError, RetryLaterError
from foundation.full_disk import naming_the_disk
from foundation.service_manager import ALIVE, READY, notify, wait_alive
from pipelines import steps
from pipelines.ingest.backlog import Backlog, FollowSettings
from pipelines.ingest.commit import commit
from pipelines.ingest.compact import compact
from pipelines.ingest.elements import RunContext, SourceFactory
from pipelines.ingest.pipeline import build, read_manifest
from pipelines.ingest.plan import Plan, make_plan
from pipelines.ingest.quota import to_json, used_within_a_day
from pipelines.ingest.report import IngestReport
from pipelines.ingest.settings import IngestSettings
from pipelines.ingest.staging import run_folder
from pipelines.runner import RunnerSettings, run
from schemas.signing import Enrolment


@dataclass(frozen=True, slots=True)
class Ingest:
    """Everything that ingest needs. `load_enrolment` is called before every run, so that new vehicles are known."""

    table: LakeTable
    open_source: SourceFactory
    load_enrolment: Callable[[], Enrolment]
    settings: IngestSettings
    runner: RunnerSettings
    clock: Clock

    def once(self) -> IngestReport:
        """Ingest everything up to the end of the log at the moment of the call.

        Raises:
            RetryLaterError: no broker, a disk that refuses (DiskError), or other committers were first in `replans` + 1 attempts.
            RejectedError: there is no such topic.
        """
        with naming_the_disk(self.table.folder):
            return self._once()

    def _once(self) -> IngestReport:
        started_ns = self.clock.monotonic_ns()
        source = self.open_source()
        try:
            warnings = tuple(source.warnings(self.settings.topic))
            ends = self._ends(source)
            report = self._planned_again(source)
            while not report.unread and self._is_short_of(source, report, ends):
                report = self._planned_again(source, report)
        finally:
            source.close()
        if not report.balances():
            raise GuaranteeBrokenError(f"ingest does not add up: {report.to_json()}")
        return replace(report, warnings=warnings, seconds=(self.clock.monotonic_ns() - started_ns) / 1e9)

    def follow(
        self,
        stop: threading.Event,
        on_report: Callable[[IngestReport | RetryLaterError], None],
        *,
        poll_s: float = 5.0,
        settings: FollowSettings | None = None,
    ) -> None:
        """Call `once` whenever it is due until `stop` is set; a run in progress is finished first.

        Args:
            settings: when it is due (see `FollowSettings`); without them at every look, every `poll_s` seconds.

        A transient error (no broker, a full disk, another committer) is passed to `on_report` and retried at the next poll. The
        service manager gets a sign of life at each step of a run that is done in this process, and while this waits.
        """
        follow = settings or FollowSettings(poll_s=poll_s)
        backlog = Backlog(follow)
        notify(READY)
        while not stop.is_set():
            try:
                with steps.watched(lambda _step: notify(ALIVE)):
                    if self._is_due(backlog):
                        on_report(self.once())
                        backlog.ran()
                        if follow.is_compacting:
                            self._compact(on_report)
            except RetryLaterError as error:
                on_report(error)
            wait_alive(partial(self.clock.wait, stop), follow.poll_s)

    def _is_due(self, backlog: Backlog) -> bool:
        if backlog.is_due_anyway:
            return True
        source = self.open_source()
        try:
            snapshot, topic = self.table.snapshot(), self.settings.topic
            return backlog.is_due(snapshot, source, topic, self.clock.monotonic_ns())
        finally:
            source.close()

    def _compact(self, on_report: Callable[[IngestReport | RetryLaterError], None]) -> None:
        """Merge small files; a failure for now is reported, and ingest goes on."""
        try:
            compact(self.table, self.clock, wait_s=self.settings.commit_wait_s)
        except RetryLaterError as error:
            on_report(error)

    def _ends(self, source: RecordSource) -> dict[int, int]:
        topic = source.describe(self.settings.topic)
        return {partition: source.bounds(self.settings.topic, partition)[1] for partition in topic.partitions}

    def _is_short_of(self, source: RecordSource, report: IngestReport, ends: dict[int, int]) -> bool:
        plan = make_plan(self.table.snapshot(), source, self.settings)
        if plan.topic.topic_id != report.topic_id:
            return True
        return any(plan.ends.get(partition, end) < end for partition, end in ends.items()) and bool(
            plan.ranges
        )

    def _planned_again(self, source: RecordSource, before: IngestReport | None = None) -> IngestReport:
        stale: StaleSnapshotError | None = None
        for replans in range(self.settings.replans + 1):
            try:
                report = self._attempt(source, before)
                return replace(report, replans=report.replans + replans)
            except StaleSnapshotError as error:
                stale = error
        raise RetryLaterError(
            f"other committers were first {self.settings.replans + 1} times: {stale}"
        ) from stale

    def _attempt(self, source: RecordSource, before: IngestReport | None) -> IngestReport:
        plan = make_plan(self.table.snapshot(), source, self.settings)
        steps.reached("ingest.plan")
        topic = plan.topic
        report = before or IngestReport(
            topic.cluster_id,
            topic.topic,
            topic.topic_id,
            version_before=plan.version,
            version_after=plan.version,
        )
        gone = tuple(sorted({*report.topics_gone, *plan.gone}))
        report = replace(
            report, topic_id=topic.topic_id, unread=plan.unread, waiting=plan.waiting, topics_gone=gone
        )
        if not plan.ranges:
            return report
        try:
            return self._read(source, plan, report)
        except (FileNotFoundError, FilesGoneError) as error:
            if self.table.version() != plan.version:
                raise StaleSnapshotError(
                    f"files were removed by a commit of another engine: {error}"
                ) from error
            if isinstance(error, FilesGoneError):
                raise
            raise RetryLaterError(
                f"{error.filename} was removed before it was committed: a VACUUM of {self.table.folder} by another engine"
                " removes files that no version refers to yet unless its retention is at least a day; run again"
            ) from error

    def _read(self, source: RecordSource, plan: Plan, report: IngestReport) -> IngestReport:
        with run_folder(self.table, self.settings.commit_wait_s, self.clock) as (run_id, folder):
            now_ns = self.clock.now_ns()
            used = used_within_a_day(self.table.snapshot(plan.version), now_ns, self.settings)
            context = RunContext(
                table=str(self.table.folder.resolve()),
                version=plan.version,
                run_id=run_id,
                staging=str(folder.resolve()),
                ingest_time_ns=now_ns,
                used_json=to_json(used),
                enrolment_json=self.load_enrolment().to_json(),
                open_source=self.open_source,
                settings=self.settings,
            )
            run(lambda pipeline: build(pipeline, plan.ranges, context), self.runner)
            manifest = read_manifest(folder)
            report = replace(report, unread=(*plan.unread, *manifest.unread))
            if not manifest.files:
                return report
            self._check_topic(source, plan)
            version = commit(self.table, plan, manifest.files, context, self.clock)
        steps.reached("ingest.done")
        return replace(report.with_files(manifest.files), version_after=version)

    def _check_topic(self, source: RecordSource, plan: Plan) -> None:
        """Check that the topic was not recreated since the plan was made. Raises StaleSnapshotError."""
        found = source.describe(self.settings.topic)
        if (found.cluster_id, found.topic_id) != (plan.topic.cluster_id, plan.topic.topic_id):
            raise StaleSnapshotError(
                f"topic {found.topic} was recreated while it was read: its id was {plan.topic.topic_id},"
                f" it is {found.topic_id}"
            )

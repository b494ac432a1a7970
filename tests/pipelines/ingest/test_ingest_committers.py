from __future__ import annotations

import threading
from pathlib import Path

import pytest

from foundation.clock import ManualClock
from foundation.errors import GuaranteeBrokenError, RetryLaterError
from pipelines import steps
from pipelines.ingest.commit import new_ends
from pipelines.ingest.elements import StagedFile
from pipelines.ingest.plan import make_plan
from pipelines.ingest.report import IngestReport
from pipelines.ingest.staging import commit_lock
from tests.pipelines.ingest.ingest_lab import Lab, assert_one_row_per_offset, fake_source, mixed_log
from tests.pipelines.ingest.test_ingest_crashes import assert_nothing_left_over


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    mixed_log(lab)
    return lab


def test_a_committer_that_was_overtaken_plans_again(lab: Lab) -> None:
    others: list[IngestReport] = []

    def overtake(reached: str) -> None:
        if reached == "ingest.plan" and not others:
            others.append(IngestReport("", "", "", 0, 0))
            others.append(lab.ingest().once())

    with steps.watched(overtake):
        report = lab.ingest().once()
    assert others[1].landed > 0
    assert (report.offsets, report.replans) == (0, 1)
    assert lab.table.version() == 1
    assert_one_row_per_offset(lab)


def test_a_commit_that_sneaks_past_the_lock_makes_the_other_plan_again(lab: Lab) -> None:
    sneaked = []

    def sneak(reached: str) -> None:
        if reached == "ingest.rename" and not sneaked:
            sneaked.append(lab.table.commit_files([], expected_version=0, app_transactions={"elsewhere": 1}))

    with steps.watched(sneak):
        report = lab.ingest().once()
    assert sneaked == [1]
    assert (report.replans, report.version_after) == (1, 2)
    assert_one_row_per_offset(lab)
    assert_nothing_left_over(lab.table)


def test_two_ingests_at_once_leave_one_row_per_offset(lab: Lab) -> None:
    reports: list[IngestReport] = []
    threads = [threading.Thread(target=lambda: reports.append(lab.ingest().once())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(reports) == 2
    assert sum(report.offsets for report in reports) == len(lab.outcomes())
    assert_one_row_per_offset(lab)
    assert_nothing_left_over(lab.table)


def test_a_committer_that_waits_too_long_says_who_holds_the_lock(lab: Lab) -> None:
    with commit_lock(lab.table, 0, ManualClock()), pytest.raises(RetryLaterError, match="held by process"):
        lab.ingest(clock=ManualClock()).once()
    assert lab.table.version() == 0


def test_files_that_leave_a_hole_are_never_committed(lab: Lab) -> None:
    plan = make_plan(lab.table.snapshot(), fake_source(lab.name), lab.settings)

    def file(begin: int, end: int) -> StagedFile:
        return StagedFile("p", 0, begin, end, 1, "{}", 1, 1, 0, "{}", "[]", 0)

    assert new_ends(plan, [file(4, 8), file(0, 4)]) == {0: 8}
    for files in ([file(1, 4)], [file(0, 4), file(5, 8)], [file(0, 4), file(3, 8)]):
        with pytest.raises(GuaranteeBrokenError, match="next offset"):
            new_ends(plan, files)


def test_following_goes_on_over_a_broker_that_is_away_and_stops_cleanly(lab: Lab) -> None:
    stop = threading.Event()
    told: list[IngestReport | RetryLaterError] = []

    def on_report(report: IngestReport | RetryLaterError) -> None:
        told.append(report)
        if len(told) == 1:
            lab.broker.stop()
        elif len(told) == 2:
            lab.broker.start()
            lab.produce(lab.fleet.record("v1", 50), partition=0)
        else:
            stop.set()

    lab.ingest(clock=ManualClock()).follow(stop, on_report, poll_s=5.0)
    assert isinstance(told[0], IngestReport)
    assert isinstance(told[1], RetryLaterError)
    assert isinstance(told[2], IngestReport)
    assert told[2].landed == 1
    assert_one_row_per_offset(lab)


def test_a_topic_made_anew_while_it_is_read_is_planned_again(lab: Lab) -> None:
    done = []

    def anew(reached: str) -> None:
        if reached == "ingest.write" and not done:
            done.append(reached)
            lab.broker.create_topic("fleetloop.samples", 2)
            lab.produce(lab.fleet.record("v3", 7), partition=0)

    with steps.watched(anew):
        report = lab.ingest().once()
    assert report.replans == 1
    assert {row["topic_id"] for row in lab.rows()} == {"topic-id-0002"}
    assert_one_row_per_offset(lab)

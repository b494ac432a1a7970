from __future__ import annotations

from pathlib import Path

import pytest
from kafka.record.default_records import DefaultRecordBatchBuilder

from foundation.clock import ManualClock
from pipelines import steps
from pipelines.ingest import decode
from pipelines.ingest.deadletter import ReplayReport, dead_letters, replay
from pipelines.ingest.decode import headers_json
from schemas.reasons import RejectReason
from schemas.wire import StoredRecord
from tests.pipelines.ingest.ingest_lab import TOPIC, Lab, assert_one_row_per_offset


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """v9 drove before it was enrolled: seq 0 twice, seq 1 once; and one record that no fix can mend."""
    lab = Lab(tmp_path)
    for seq in (0, 1, 0):
        lab.produce(lab.fleet.record("v9", seq), partition=0)
    lab.broker.append(TOPIC, b"v1", b"garbage", (), partition=0)
    lab.produce(lab.fleet.record("v1", 0), partition=1)
    assert lab.ingest().once().rejected == {"missing_header": 1, "unknown_vehicle": 3}
    return lab


def replayed(lab: Lab, reason: RejectReason | None = None) -> ReplayReport:
    return replay(lab.table, lab.fleet.enrolment, lab.settings, ManualClock(), reason)


def test_the_list_names_place_reason_and_size_of_every_open_dead_letter(lab: Lab) -> None:
    found = dead_letters(lab.table.snapshot()).to_pylist()
    assert [(row["offset"], row["reason"]) for row in found] == [
        (0, "unknown_vehicle"),
        (1, "unknown_vehicle"),
        (2, "unknown_vehicle"),
        (3, "missing_header"),
    ]
    assert found[3]["value_bytes"] == len(b"garbage")
    assert dead_letters(lab.table.snapshot(), RejectReason.MISSING_HEADER).num_rows == 1


def test_without_a_fix_a_replay_changes_nothing(lab: Lab) -> None:
    version = lab.table.version()
    report = replayed(lab)
    assert (report.tried, report.landed, report.still_rejected) == (
        4,
        0,
        {"missing_header": 1, "unknown_vehicle": 3},
    )
    assert lab.table.version() == version


def test_after_a_late_enrolment_a_replay_lands_once_and_names_what_it_supersedes(lab: Lab) -> None:
    lab.fleet.enrol("v9")
    report = replayed(lab)
    assert (report.landed, report.resent, report.still_rejected) == (2, 1, {"missing_header": 1})
    rows = [row for row in lab.rows() if row["origin"] == "replay"]
    topic_id = lab.broker.describe(TOPIC).topic_id
    assert [(r["offset"], r["outcome"], r["supersedes"], r["resend_of"]) for r in rows] == [
        (0, "landed", f"{topic_id}/0/0", None),
        (1, "landed", f"{topic_id}/0/1", None),
        (2, "resent", f"{topic_id}/0/2", f"{topic_id}/0/0"),
    ]
    assert rows[0]["payload"].startswith(b"picture v9")
    assert [row["reason"] for row in dead_letters(lab.table.snapshot()).to_pylist()] == ["missing_header"]
    assert_one_row_per_offset(lab)


def test_a_second_replay_does_nothing(lab: Lab) -> None:
    lab.fleet.enrol("v9")
    replayed(lab)
    version, rows = lab.table.version(), lab.rows()
    report = replayed(lab)
    assert (report.landed, report.resent, report.tried) == (0, 0, 1)
    assert (lab.table.version(), lab.rows()) == (version, rows)


def test_a_dead_letter_whose_row_cannot_be_read_stays_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(record: StoredRecord) -> str:
        return '[["fl-key' if record.offset == 0 else headers_json(record)

    monkeypatch.setattr(decode, "headers_json", damaged)
    lab = Lab(tmp_path)
    for seq in (0, 1):
        lab.produce(lab.fleet.record("v9", seq), partition=0)
    lab.ingest().once()
    lab.fleet.enrol("v9")
    report = replayed(lab)
    assert (report.landed, report.still_rejected) == (1, {"unreadable_batch": 1})


def test_what_landed_before_the_replay_makes_it_a_resend(lab: Lab) -> None:
    lab.fleet.enrol("v9")
    lab.produce(lab.fleet.record("v9", 0), partition=1)
    assert lab.ingest().once().landed == 1
    report = replayed(lab)
    assert (report.landed, report.resent) == (1, 2)
    assert_one_row_per_offset(lab)


def test_what_arrives_after_the_replay_is_a_resend_of_it(lab: Lab) -> None:
    lab.fleet.enrol("v9")
    replayed(lab)
    lab.produce(lab.fleet.record("v9", 1), partition=1)
    assert lab.ingest().once().resent == 1
    resent = next(r for r in lab.rows() if r["origin"] == "log" and r["outcome"] == "resent")
    assert resent["resend_of"].endswith("/0/1")
    assert_one_row_per_offset(lab)


def test_a_conflict_stays_rejected(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    lab.produce(lab.fleet.record("v1", 0, frame_id="other"), partition=0)
    lab.ingest().once()
    version = lab.table.version()
    report = replayed(lab)
    assert (report.tried, report.landed, report.still_rejected) == (1, 0, {"conflict": 1})
    assert lab.table.version() == version


def test_two_dead_letters_in_conflict_land_one_and_leave_one(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.produce(lab.fleet.record("v9", 0), partition=0)
    lab.produce(lab.fleet.record("v9", 0, frame_id="other"), partition=0)
    lab.ingest().once()
    lab.fleet.enrol("v9")
    report = replayed(lab)
    assert (report.landed, report.still_rejected) == (1, {"conflict": 1})
    assert dead_letters(lab.table.snapshot()).column("offset").to_pylist() == [1]
    assert_one_row_per_offset(lab)


@pytest.mark.parametrize("label", ["ingest.write", "replay.rename", "replay.commit"])
def test_a_replay_that_crashes_can_be_done_again(lab: Lab, label: str) -> None:
    lab.fleet.enrol("v9")

    def crash(reached: str) -> None:
        if reached == label:
            raise KeyboardInterrupt

    with steps.watched(crash), pytest.raises(KeyboardInterrupt):
        replayed(lab)
    replayed(lab)
    rows = [row for row in lab.rows() if row["origin"] == "replay"]
    assert [(r["offset"], r["outcome"]) for r in rows] == [(0, "landed"), (1, "landed"), (2, "resent")]
    files = {
        p.relative_to(lab.table.folder).as_posix() for p in (lab.table.folder / "replay").rglob("*.parquet")
    }
    assert files <= set(lab.table.snapshot().files().column("path").to_pylist())
    assert_one_row_per_offset(lab)


def test_a_batch_that_could_not_be_unpacked_is_read_by_a_replay(tmp_path: Path) -> None:
    """As the version before knew no snappy: the first offset kept the batch, the others nothing."""
    lab = Lab(tmp_path)
    records = [lab.fleet.record("v1", seq) for seq in (0, 1, 2, 1)]
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 10_000_000)
    for number, record in enumerate(records):
        builder.append(number, 1_000, record.key, record.value, list(record.headers))
    whole, garbage = bytes(builder.build()), b"no batch"
    partition = lab.broker._topics[TOPIC].partitions[0]
    for offset in range(6):
        kept = {0: whole, 4: garbage}.get(offset)
        partition.records.append(StoredRecord(0, offset, 1_000, None, kept, (), "the batch cannot be read"))
    partition.end = 6
    assert lab.ingest().once().rejected == {"unreadable_batch": 6}
    report = replayed(lab, RejectReason.UNREADABLE_BATCH)
    assert (report.tried, report.landed, report.resent) == (6, 3, 1)
    assert report.still_rejected == {"unreadable_batch": 2}
    assert {row["offset"] for row in dead_letters(lab.table.snapshot()).to_pylist()} == {4, 5}
    assert replayed(lab).landed == 0
    assert_one_row_per_offset(lab)

"""A vehicle that floods the topic lands its quota of a day, costs little beyond it, and takes nothing from the others."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.lake.schema import ARRIVALS
from foundation.clock import ManualClock
from pipelines.ingest import decode
from pipelines.ingest.deadletter import dead_letters, replay
from pipelines.ingest.deduplicate import duplicate_verdicts
from pipelines.ingest.quota import DAY_NS, Used, with_quota
from pipelines.ingest.settings import IngestSettings
from pipelines.ingest.verdicts import INDEX, VERDICTS
from schemas.reasons import RejectReason
from tests.pipelines.ingest.ingest_lab import Lab, assert_one_row_per_offset

FIVE = IngestSettings(vehicle_records_per_day=5)


def lab_of(folder: Path, **quota: int) -> Lab:
    lab = Lab(folder, **quota)
    lab.fleet.enrol("flood")
    return lab


def landed(lab: Lab, vehicle: str) -> list[int]:
    return [r["seq"] for r in lab.rows() if r["outcome"] == "landed" and r["vehicle_id"] == vehicle]


def flood(lab: Lab, first: int, count: int) -> None:
    for seq in range(first, first + count):
        lab.produce(lab.fleet.record("flood", seq), partition=seq % 2)
        lab.produce(lab.fleet.record("v1", seq), partition=0)


def test_a_flood_lands_its_quota_and_each_other_offset_of_it_is_a_dead_letter_with_its_bytes(
    tmp_path: Path,
) -> None:
    lab = lab_of(tmp_path, vehicle_records_per_day=30)
    flood(lab, 0, 20)
    lab.ingest().once()
    for seq in range(20, 40):
        lab.produce(lab.fleet.record("flood", seq), partition=0)
        lab.produce(lab.fleet.record("v2", seq), partition=0)
    report = lab.ingest().once()
    assert report.rejected == {"over_quota": 10}
    assert sorted(landed(lab, "flood")) == list(range(30))
    assert sorted(landed(lab, "v2")) == list(range(20, 40))
    assert_one_row_per_offset(lab)
    over = [r for r in lab.rows() if r["reason"] == "over_quota"]
    assert {r["detail"] for r in over} == {"flood landed its quota of a day: 30 records"}


def test_a_vehicle_beyond_its_quota_has_nothing_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(tmp_path, vehicle_records_per_day=5)
    for seq in range(5):
        lab.produce(lab.fleet.record("flood", seq), partition=0)
    lab.ingest().once()
    decoded: list[bytes] = []
    real = decode.decode_sample
    monkeypatch.setattr(decode, "decode_sample", lambda value: decoded.append(value) or real(value))
    for seq in range(5, 25):
        lab.produce(lab.fleet.record("flood", seq), partition=0)
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    report = lab.ingest().once()
    assert (report.landed, report.rejected) == (1, {"over_quota": 20})
    assert len(decoded) == 1
    assert_one_row_per_offset(lab)


def test_another_vehicles_name_spends_nothing_of_its_quota(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, vehicle_records_per_day=5)
    for seq in range(50):
        lab.produce(lab.fleet.record("v1", seq, signer="flood"), partition=0)
    for seq in range(5):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
    report = lab.ingest().once()
    assert report.landed == 5
    assert sum(report.rejected.values()) == 50
    assert "over_quota" not in report.rejected


def test_bytes_count_as_well_and_the_quota_is_there_again_after_a_day(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, vehicle_bytes_per_day=1_000)
    clock = lab.clock = ManualClock()
    for seq in range(8):
        lab.produce(lab.fleet.record("flood", seq, payload=bytes([seq]) * 300), partition=0)
    lab.ingest().once()
    assert landed(lab, "flood") == [0, 1, 2, 3]
    clock.advance(DAY_NS / 1e9)
    for seq in range(8, 12):
        lab.produce(lab.fleet.record("flood", seq, payload=bytes([seq]) * 300), partition=0)
    lab.ingest().once()
    assert landed(lab, "flood") == [0, 1, 2, 3, 8, 9, 10, 11]


def test_what_was_beyond_the_quota_lands_by_a_replay_that_names_the_reason_and_by_no_other(
    tmp_path: Path,
) -> None:
    lab = lab_of(tmp_path, vehicle_records_per_day=5)
    flood(lab, 0, 9)
    lab.ingest().once()
    lost = 2 * 4
    assert dead_letters(lab.table.snapshot()).num_rows == lost
    assert replay(lab.table, lab.fleet.enrolment, lab.settings, lab.clock).tried == 0
    found = replay(lab.table, lab.fleet.enrolment, lab.settings, lab.clock, RejectReason.OVER_QUOTA)
    assert (found.tried, found.landed) == (lost, lost)
    assert dead_letters(lab.table.snapshot()).num_rows == 0
    assert sorted(landed(lab, "flood")) == list(range(9))


def test_without_a_bound_nothing_is_beyond_it(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    flood(lab, 0, 40)
    assert lab.ingest().once().rejected == {}


def index_row(vehicle: str, seq: int, offset: int, sha: str) -> dict[str, Any]:
    return {
        "vehicle_id": vehicle, "epoch": "e", "seq": seq, "value_sha256": sha, "topic_id": "t", "partition": 0,
        "offset": offset, "path": f"p{offset % 3}", "payload_bytes": 10,
    }  # fmt: skip


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9), st.sampled_from("xy")), max_size=30),
    st.integers(0, 8),
    st.integers(0, 100),
)
def test_the_first_rows_by_offset_land_and_no_resend_refers_to_one_that_did_not(
    sent: list[tuple[str, int, str]], before: int, seed: int
) -> None:
    rows = [index_row(vehicle, seq, at, sha) for at, (vehicle, seq, sha) in enumerate(sent)]
    used = {"a": Used(before, 0)}
    seen = INDEX.empty_table().drop(["path", "payload_bytes"])

    def judged(of: list[dict[str, Any]]) -> list[dict[str, Any]]:
        index = pa.Table.from_pylist(of, INDEX)
        found = with_quota(index, duplicate_verdicts(index, seen), used, FIVE)
        assert found.schema == VERDICTS
        return list(found.to_pylist())

    verdicts = judged(rows)
    assert verdicts == judged(random.Random(seed).sample(rows, len(rows)))
    told = {row["offset"]: row for row in verdicts}
    assert len(told) == len(verdicts)
    lands = [row for row in rows if row["offset"] not in told]
    for vehicle, most in (("a", max(0, 5 - before)), ("b", 5)):
        asked = list(dict.fromkeys(row["seq"] for row in rows if row["vehicle_id"] == vehicle))
        assert [row["seq"] for row in lands if row["vehicle_id"] == vehicle] == asked[:most]
    places = {f"t/0/{row['offset']}" for row in lands}
    assert all(row["resend_of"] in places for row in verdicts if row["outcome"] == "resent")


def test_the_columns_of_the_index_are_columns_of_the_lake() -> None:
    assert all(ARRIVALS.field(name).type == INDEX.field(name).type for name in INDEX.names if name != "path")

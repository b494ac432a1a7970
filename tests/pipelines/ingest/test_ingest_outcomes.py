from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from foundation.errors import RejectedError, RetryLaterError
from pipelines.ingest import deadletter
from pipelines.ingest.apply_verdicts import merged_ranges
from schemas.identity import Identity
from schemas.wire import MAX_RECORD_BYTES
from tests.pipelines.ingest.ingest_lab import EPOCH, TOPIC, Lab, assert_one_row_per_offset


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_every_offset_becomes_one_row_and_the_report_adds_up(lab: Lab) -> None:
    for seq in range(25):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
        lab.produce(lab.fleet.record("v2", seq), partition=1)
    report = lab.ingest().once()
    assert (report.offsets, report.landed, report.resent, report.rejected) == (50, 50, 0, {})
    assert report.balances()
    assert_one_row_per_offset(lab)
    row = next(r for r in lab.rows() if r["vehicle_id"] == "v1" and r["seq"] == 3)
    assert row["payload"] == f"picture v1 {EPOCH} 3".encode()
    assert row["probabilities"] == [0.25, 0.75]
    assert (row["value_class"], row["provenance"], row["track_id"]) == ("normal", "recorded", None)


def test_ingest_goes_on_where_the_lake_ends(lab: Lab) -> None:
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    first = lab.ingest().once()
    assert lab.ingest().once().offsets == 0
    assert lab.table.version() == first.version_after
    lab.produce(lab.fleet.record("v1", 1), partition=0)
    second = lab.ingest().once()
    assert (second.offsets, second.version_after) == (1, first.version_after + 1)
    assert_one_row_per_offset(lab)


def test_a_resend_points_at_the_row_it_repeats(lab: Lab) -> None:
    first = lab.produce(lab.fleet.record("v1", 0), partition=0)
    for seq in range(1, 12):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    report = lab.ingest().once()
    assert (report.landed, report.resent) == (12, 1)
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    assert lab.ingest().once().resent == 1
    resent = [r for r in lab.rows() if r["outcome"] == "resent"]
    topic_id = lab.broker.describe(TOPIC).topic_id
    assert [r["resend_of"] for r in resent] == [f"{topic_id}/0/{first}"] * 2
    assert all(r["payload"] is None for r in resent)
    assert_one_row_per_offset(lab)


def test_the_same_identity_with_other_bytes_is_a_conflict_that_keeps_its_bytes(lab: Lab) -> None:
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    lab.produce(lab.fleet.record("v1", 0, frame_id="other"), partition=0)
    report = lab.ingest().once()
    assert report.rejected == {"conflict": 1}
    lab.produce(lab.fleet.record("v1", 0, frame_id="third"), partition=1)
    assert lab.ingest().once().rejected == {"conflict": 1}
    conflicts = [r for r in lab.rows() if r["outcome"] == "rejected"]
    assert all(r["vehicle_id"] == "v1" and "landed at" in r["detail"] for r in conflicts)
    assert_one_row_per_offset(lab)


def test_what_is_not_verified_claims_no_identity(lab: Lab) -> None:
    lab.produce(lab.fleet.record("v1", 0, signer="v2"), partition=0)
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    report = lab.ingest().once()
    assert (report.landed, report.rejected) == (1, {"bad_signature": 1})
    assert_one_row_per_offset(lab)


@pytest.mark.parametrize(
    "uri", ["s3://x/y", "file:///etc/passwd", "{root}/../{place}", "{root}/{place}.partial"]
)
def test_a_payload_elsewhere_than_in_the_blob_store_is_a_dead_letter(
    lab: Lab, tmp_path: Path, uri: str
) -> None:
    root = f"file://{tmp_path}/blobs"
    sha = hashlib.sha256(b"x").hexdigest()
    place = f"{sha[:2]}/{sha}"
    remote = {"payload": b"x", "payload_sha256": sha, "payload_bytes": 1}
    bad = lab.fleet.record(
        "v1", 0, **remote | {"payload": b"", "payload_uri": uri.format(root=root, place=place)}
    )
    good = lab.fleet.record("v1", 1, **remote | {"payload": b"", "payload_uri": f"{root}/{place}"})
    lab.produce(bad, partition=0)
    lab.produce(good, partition=0)
    assert lab.ingest(settings=replace(lab.settings, blobs=root)).once().rejected == {"foreign_uri": 1}
    assert lab.outcomes() == {(0, 0): "rejected", (0, 1): "landed"}


def test_a_payload_in_a_blob_store_that_the_workspace_does_not_name_waits_as_a_dead_letter(
    lab: Lab, tmp_path: Path
) -> None:
    root = f"file://{tmp_path}/blobs"
    sha = hashlib.sha256(b"x").hexdigest()
    lab.produce(
        lab.fleet.record(
            "v1", 0, payload=b"", payload_sha256=sha, payload_bytes=1, payload_uri=f"{root}/{sha[:2]}/{sha}"
        )
    )
    assert lab.ingest().once().rejected == {"foreign_uri": 1}
    settings = replace(lab.settings, blobs=root)
    assert deadletter.replay(lab.table, lab.fleet.enrolment, settings, lab.clock).landed == 1


def test_poison_is_rejected_with_its_reason_and_bytes_and_stops_nothing(lab: Lab) -> None:
    fleet = lab.fleet
    good = fleet.record("v1", 0)
    identity = Identity("v1", EPOCH, 7)
    lab.produce(good, partition=0)
    lab.broker.append(TOPIC, None, None, (), partition=0)
    lab.broker.append(TOPIC, b"v1", b"garbage", (), partition=0)
    lab.broker.append(TOPIC, b"v1", None, good.headers, partition=0)
    lab.broker.append(TOPIC, b"v2", good.value, good.headers, partition=0)
    lab.broker.append(TOPIC, b"v1", good.value + b"x", good.headers, partition=0)
    lab.broker.append(TOPIC, b"v1", good.value, (*good.headers, good.headers[0]), partition=0)
    lab.produce(fleet.record("v9", 0), partition=0)
    lab.produce(fleet.signed(identity, b""), partition=0)
    lab.produce(fleet.signed(identity, good.value[:-9]), partition=0)
    lab.produce(fleet.signed(identity, good.value), partition=0)
    lab.produce(fleet.signed(identity, b"\xc3\x01" + b"\xff" * 400), partition=0)
    lab.produce(fleet.signed(identity, good.value[:10] + b"\xff" * 400), partition=0)
    lab.broker.max_record_bytes = 10 * MAX_RECORD_BYTES
    lab.broker.append(TOPIC, b"v1", b"z" * (MAX_RECORD_BYTES + 1), good.headers, partition=0)
    lab.produce(fleet.record("v1", 1), partition=0)
    report = lab.ingest().once()
    assert report.landed == 2
    assert report.offsets == 15
    assert report.rejected["oversize"] == 1
    assert report.rejected["unknown_vehicle"] == 1
    assert report.rejected["hash_mismatch"] == 1
    assert report.rejected["truncated"] >= 1
    assert {
        "missing_header",
        "malformed_identity",
        "identity_mismatch",
        "not_single_object",
        "unknown_schema",
    } <= set(report.rejected)
    assert_one_row_per_offset(lab)


def test_offsets_that_retention_took_are_a_counted_loss_with_their_interval(lab: Lab) -> None:
    for seq in range(10):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
    assert lab.ingest().once().landed == 10
    for seq in range(10, 20):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
    lab.broker.delete_records(TOPIC, 0, 14)
    report = lab.ingest().once()
    assert [(one.partition, one.begin, one.end) for one in report.lost] == [(0, 10, 14)]
    assert (report.landed, report.offsets) == (6, 6)
    assert report.to_json()["lost_offsets"] == 4
    loss = next(r for r in lab.rows() if r["origin"] == "loss")
    assert (loss["offset"], loss["offset_end"], loss["outcome"], loss["reason"]) == (
        10,
        14,
        None,
        "retention",
    )
    assert_one_row_per_offset(lab)


def test_records_that_compaction_took_are_a_loss_beside_what_transactions_hide(lab: Lab) -> None:
    for seq in range(12):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
    lab.broker.compact(TOPIC, 0, [0, 1, 5, 6, 11])
    lab.broker.abort(TOPIC, 0, [2, 7])
    report = lab.ingest().once()
    assert (report.landed, report.gap_offsets) == (5, 2)
    assert {(lost.begin, lost.end, lost.reason) for lost in report.lost} == {
        (0, 2, "compaction"),
        (5, 7, "compaction"),
        (11, 12, "compaction"),
    }
    assert_one_row_per_offset(lab)


def test_what_an_open_transaction_hides_is_told_as_waiting(lab: Lab) -> None:
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    lab.broker.open_offsets = 3
    report = lab.ingest().once()
    assert (report.landed, report.unread) == (1, ())
    assert [tuple(one) for one in report.waiting] == [(0, 1, 4), (1, 0, 3)]
    lab.broker.open_offsets = 0
    assert lab.ingest().once().waiting == ()


def test_headers_count_as_memory_when_a_batch_is_cut(lab: Lab) -> None:
    many = tuple((f"x{number}", b"") for number in range(2_000))
    for seq in range(8):
        record = lab.fleet.record("v1", seq)
        lab.broker.append(TOPIC, record.key, record.value, (*record.headers, *many), partition=0)
    settings = replace(lab.settings, batch_records=1_000, batch_bytes=1_000_000)
    report = lab.ingest(settings=settings).once()
    assert report.landed == 8
    assert report.files >= 3  # 2,000 headers take 400 kB each


def test_what_is_wrong_with_the_settings_of_the_topic_is_in_every_report(lab: Lab) -> None:
    lab.broker.warnings = ["topic fleetloop.samples: cleanup.policy is compact"]
    assert lab.ingest().once().to_json()["warnings"] == lab.broker.warnings


def test_what_transactions_hide_is_counted_but_is_no_loss(lab: Lab) -> None:
    for seq in range(12):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
    lab.broker.abort(TOPIC, 0, [0, 5, 6, 11])
    report = lab.ingest().once()
    assert (report.landed, report.gap_offsets, report.lost) == (8, 4, ())
    assert lab.ingest().once().offsets == 0
    assert_one_row_per_offset(lab)


def test_a_topic_made_anew_is_not_confused_with_the_old_one(lab: Lab) -> None:
    record = lab.fleet.record("v1", 0)
    lab.produce(record, partition=0)
    lab.ingest().once()
    lab.broker.create_topic(TOPIC, 2)
    lab.produce(lab.fleet.record("v1", 1), partition=0)
    lab.produce(record, partition=0)
    report = lab.ingest().once()
    assert (report.landed, report.resent) == (1, 1)
    assert report.topics_gone == (("topic-id-0001", 0, 1, "fake-cluster"),), (
        "what the old topic held beyond is lost, and that is said"
    )
    lab.produce(lab.fleet.record("v1", 2), partition=0)
    assert lab.ingest().once().topics_gone == (), "once"
    assert len({r["topic_id"] for r in lab.rows()}) == 2
    resent = next(r for r in lab.rows() if r["outcome"] == "resent")
    assert resent["resend_of"] == "topic-id-0001/0/0"


def test_another_broker_is_told_from_a_topic_made_anew(lab: Lab) -> None:
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    lab.ingest().once()
    lab.broker.cluster_id = "the-cluster-next-door"
    lab.broker.create_topic(TOPIC, 2)
    report = lab.ingest().once()
    (gone,) = report.topics_gone
    assert (gone.cluster, report.cluster) == ("fake-cluster", "the-cluster-next-door")
    told = gone.describe(report.cluster)
    assert "another cluster" in told and "the-cluster-next-door" in told and "fake-cluster" in told
    assert "recreated" in gone.describe("fake-cluster")


def test_added_partitions_are_read_and_resends_found_across_them(tmp_path: Path) -> None:
    lab = Lab(tmp_path, partitions=1)
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    lab.ingest().once()
    topic = lab.broker._topics[TOPIC]
    topic.partitions.append(type(topic.partitions[0])())
    lab.produce(lab.fleet.record("v1", 0), partition=1)
    lab.produce(lab.fleet.record("v1", 1), partition=1)
    report = lab.ingest().once()
    assert (report.landed, report.resent) == (1, 1)
    assert_one_row_per_offset(lab)


def test_a_log_that_ends_before_the_lake_does_is_said_and_not_guessed(lab: Lab) -> None:
    for seq in range(3):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
    lab.ingest().once()
    log = lab.broker._topics[TOPIC].partitions[0]
    log.records, log.end = log.records[:1], 1
    report = lab.ingest().once()
    assert report.offsets == 0
    assert "ends at offset 1, before offset 3" in report.unread[0].why


def test_without_a_broker_or_topic_ingest_says_so(lab: Lab) -> None:
    lab.broker.stop()
    with pytest.raises(RetryLaterError, match="broker"):
        lab.ingest().once()
    lab.broker.start()
    lab.broker.delete_topic(TOPIC)
    with pytest.raises(RejectedError, match="no topic"):
        lab.ingest().once()


def test_conflicts_far_apart_keep_each_its_own_bytes(lab: Lab) -> None:
    """Their bytes are read again in few reads; a stretch that nobody asked for is left out."""
    assert merged_ranges([900, 3, 7, 901]) == [(3, 8), (900, 902)]
    for seq in range(12):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
    for seq in (0, 5, 9):
        lab.produce(lab.fleet.record("v1", seq, frame_id=f"other {seq}"), partition=0)
        lab.produce(lab.fleet.record("v1", 100 + seq), partition=0)
    assert lab.ingest().once().rejected == {"conflict": 3}
    assert len({r["raw_value"] for r in lab.rows() if r["outcome"] == "rejected"}) == 3
    assert_one_row_per_offset(lab)

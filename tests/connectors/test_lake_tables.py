from __future__ import annotations

import json
import threading
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from connectors.lake.lock import locked_snapshot, read_lake_lock, write_lake_lock
from connectors.lake.retention import pin, trim_log, vacuum
from connectors.lake.schema import ARRIVALS, LABELS, REFERENCE, SAMPLE_FIELDS
from connectors.lake.seen import MAX_EXACT_TERMS, landed_identities
from connectors.lake.table import LakeTable, StaleSnapshotError, write_parquet
from foundation.clock import ManualClock, SystemClock
from foundation.errors import CorruptError, MisconfiguredError
from schemas.records import Content, Sample


def label(sha256: str) -> pa.Table:
    row = {
        "payload_sha256": sha256,
        "class_name": "stop",
        "labeller": "a",
        "labelled_time_ns": 1,
        "cost": 1.0,
    }
    return pa.Table.from_pylist([row | {"request_id": "r"}], schema=LABELS)


@pytest.fixture
def labels(tmp_path: Path) -> LakeTable:
    return LakeTable.create(tmp_path / "lake" / "labels", LABELS)


def shas(table: LakeTable, version: int | None = None) -> list[str]:
    return sorted(table.snapshot(version).read(["payload_sha256"]).column(0).to_pylist())


def test_a_snapshot_gives_the_same_rows_for_ever(labels: LakeTable) -> None:
    assert labels.append(label("a")) == 1
    old = labels.snapshot()
    assert labels.append(label("b")) == 2
    assert old.read().num_rows == 1
    assert (shas(labels, 0), shas(labels, 1), shas(labels)) == ([], ["a"], ["a", "b"])


def test_reads_take_columns_and_filters(labels: LakeTable) -> None:
    labels.append(label("a"))
    labels.append(label("b"))
    found = labels.snapshot().read(["payload_sha256"], pc.field("payload_sha256") == "b")
    assert found.to_pydict() == {"payload_sha256": ["b"]}
    assert labels.snapshot().count() == 2


def test_a_commit_lands_on_the_version_it_was_made_for_or_not_at_all(labels: LakeTable) -> None:
    file = write_parquet(labels.folder, "rows/x.parquet", label("x"))
    labels.append(label("a"))
    with pytest.raises(StaleSnapshotError, match="at 1, not at 0"):
        labels.commit_files([file], expected_version=0)
    assert shas(labels) == ["a"]
    assert labels.commit_files([file], expected_version=1) == 2


def test_of_two_commits_on_one_version_one_loses(labels: LakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check before the commit does not decide: without it the log itself lets only one through."""
    first = write_parquet(labels.folder, "rows/1.parquet", label("1"))
    second = write_parquet(labels.folder, "rows/2.parquet", label("2"))
    monkeypatch.setattr(LakeTable, "version", lambda self: 0)
    labels.commit_files([first], expected_version=0)
    with pytest.raises(StaleSnapshotError, match="became version 1 first"):
        labels.commit_files([second], expected_version=0)
    monkeypatch.undo()
    assert shas(labels) == ["1"]


def test_appends_of_many_writers_all_arrive(labels: LakeTable) -> None:
    threads = [threading.Thread(target=labels.append, args=(label(str(n)),)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert shas(labels) == [str(n) for n in range(6)]


def test_marks_are_kept_by_version_and_survive_a_checkpoint(labels: LakeTable) -> None:
    for n in range(6):
        labels.commit_files([], expected_version=n, app_transactions={"next": n * 10})
        if n == 3:
            labels.snapshot().delta.create_checkpoint()
    assert labels.snapshot().app_transaction("next") == 50
    assert labels.snapshot(3).app_transaction("next") == 20
    assert labels.snapshot().app_transaction("other") is None


def test_other_columns_are_refused_by_name(labels: LakeTable) -> None:
    with pytest.raises(MisconfiguredError, match="class_name"):
        labels.append(label("a").drop_columns(["class_name"]))
    with pytest.raises(MisconfiguredError, match="labeller"):
        LakeTable.create(labels.folder, REFERENCE)


def test_a_table_that_is_not_there_or_not_local_is_named(tmp_path: Path, labels: LakeTable) -> None:
    with pytest.raises(MisconfiguredError, match="no lake table at"):
        LakeTable.open(tmp_path / "none")
    with pytest.raises(MisconfiguredError, match="only local folders"):
        LakeTable.open("s3://bucket/table")
    with pytest.raises(MisconfiguredError, match="version 9"):
        labels.snapshot(9)


def test_a_column_of_a_newer_release_is_added_to_a_table_and_null_in_its_older_rows(
    tmp_path: Path, labels: LakeTable
) -> None:
    labels.append(label("a"))
    wider = LABELS.append(pa.field("note", pa.string()))
    grown = LakeTable.create(labels.folder, wider)
    assert (grown.version(), grown.table_id()) == (2, labels.table_id())
    assert grown.snapshot().read().column("note").to_pylist() == [None]
    assert "note" not in grown.snapshot(1).read().column_names
    grown.append(label("b").append_column("note", pa.array(["x"])))
    assert sorted(grown.snapshot().read().column("note").to_pylist(), key=str) == [None, "x"]
    assert LakeTable.create(labels.folder, wider).version() == 3
    assert LakeTable.create(labels.folder, LABELS).version() == 3  # an older release leaves it null


def test_every_field_of_a_sample_has_its_column() -> None:
    own = {field.name for field in SAMPLE_FIELDS}
    shaped = {"content", "incident", "predictions", "vehicle_id", "epoch", "seq"}
    assert {field.name for field in fields(Sample)} - shaped <= own
    assert {f"content_{field.name}" for field in fields(Content)} <= own
    assert {"incident_id", "incident_stream", "window_role", "predictions_json"} <= own
    assert len(set(ARRIVALS.names)) == len(ARRIVALS.names)


def test_a_lock_brings_back_the_versions_it_was_written_on(tmp_path: Path, labels: LakeTable) -> None:
    labels.append(label("a"))
    path = tmp_path / "lake.lock"
    write_lake_lock(path, {"labels": labels})
    before = path.read_bytes()
    labels.append(label("b"))
    snapshot = locked_snapshot(read_lake_lock(path), "labels", labels)
    assert (snapshot.version, snapshot.count()) == (1, 1)
    assert json.loads(before)["tables"] == {"labels": {"version": 1, "id": labels.table_id()}}
    write_lake_lock(path, {"labels": labels})
    assert path.read_bytes() != before


def test_a_lock_of_another_table_or_a_damaged_one_is_refused(tmp_path: Path, labels: LakeTable) -> None:
    path = tmp_path / "lake.lock"
    with pytest.raises(MisconfiguredError, match="no lake lock"):
        read_lake_lock(path)
    write_lake_lock(path, {"labels": labels})
    other = LakeTable.create(tmp_path / "other", LABELS)
    with pytest.raises(MisconfiguredError, match="recreated"):
        locked_snapshot(read_lake_lock(path), "labels", other)
    with pytest.raises(MisconfiguredError, match="names no table 'arrivals'"):
        locked_snapshot(read_lake_lock(path), "arrivals", labels)
    for text in ('{"format": 9}', '{"format": 1, "tables": {"labels": {"version": -1, "id": "x"}}}', "[]"):
        path.write_text(text)
        with pytest.raises(CorruptError, match=r"lake\.lock"):
            read_lake_lock(path)


def test_trimming_the_log_keeps_every_version_that_a_dataset_names(tmp_path: Path, labels: LakeTable) -> None:
    for n in range(12):
        labels.commit_files([], expected_version=n)
        if n in (4, 9):
            labels.snapshot().delta.create_checkpoint()  # versions 5 and 10; by itself every 100
    lake = labels.folder.parent
    lock = tmp_path / "lock"
    write_lake_lock(lock, {"labels": labels})
    held = read_lake_lock(lock)
    early = {"labels": type(held["labels"])(7, held["labels"].table_id)}
    pin(lake, "dataset-1", early)
    pin(lake, "dataset-2", held)
    assert trim_log(labels, [7, 12]) > 0
    assert labels.snapshot(7).version == 7
    with pytest.raises(MisconfiguredError, match="no version 3"):
        labels.snapshot(3)
    assert labels.snapshot().count() == 0


def test_vacuum_removes_only_old_files_that_no_kept_version_holds(labels: LakeTable) -> None:
    labels.append(label("a"))
    orphan = labels.folder / "rows" / "orphan.parquet"
    write_parquet(labels.folder, "rows/orphan.parquet", label("x"))
    clock = ManualClock(now_ns=SystemClock().now_ns())
    assert vacuum(labels, [], clock=clock) == []
    clock.advance(8 * 24 * 3600)
    assert vacuum(labels, [1], clock=clock, dry_run=True) == ["rows/orphan.parquet"]
    assert orphan.exists()
    assert vacuum(labels, [1], clock=clock) == ["rows/orphan.parquet"]
    assert shas(labels) == ["a"]
    with pytest.raises(MisconfiguredError, match="at least 1 hour"):
        vacuum(labels, [], older_than=timedelta(minutes=5))


def test_a_commit_is_synced_before_it_is_told(labels: LakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        "foundation.syscalls.fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
    )
    labels.append(label("a"))
    names = [Path(path).name for path in synced]
    assert names[0].endswith(".parquet.tmp")
    assert names[1:] == ["rows", "00000000000000000001.json", "_delta_log"]


def arrivals_of(vehicles: int, seqs: int, partition: int) -> pa.Table:
    rows = [
        {
            "origin": "log",
            "outcome": "landed",
            "vehicle_id": f"v{vehicle:04d}",
            "epoch": f"{vehicle:016x}",
            "seq": seq,
            "value_sha256": f"{vehicle}/{seq}",
            "topic_id": "t",
            "partition": partition,
            "offset": vehicle * seqs + seq,
        }
        for vehicle in range(vehicles)
        for seq in range(seqs)
    ]
    return pa.Table.from_pylist(rows, schema=ARRIVALS)


@pytest.mark.parametrize("vehicles", [3, MAX_EXACT_TERMS + 20])
def test_only_landed_identities_that_were_asked_for_are_found(tmp_path: Path, vehicles: int) -> None:
    table = LakeTable.create(tmp_path / "arrivals", ARRIVALS)
    table.append(arrivals_of(vehicles, 4, 0))
    asked = arrivals_of(vehicles, 6, 0).filter(pc.field("seq") >= 2).select(["vehicle_id", "epoch", "seq"])
    found = landed_identities(table.snapshot(), asked)
    assert found.num_rows == 2 * vehicles
    assert set(found.column("seq").to_pylist()) == {2, 3}
    assert landed_identities(table.snapshot(), asked.slice(0, 0)).num_rows == 0
    stranger = pa.table({"vehicle_id": ["v0001"], "epoch": ["f" * 16], "seq": [2]})
    assert landed_identities(table.snapshot(), stranger).num_rows == 0

"""Other engines write to the table, and people name its folder oddly: each ends right, or in one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Field

from connectors.lake.address import local_folder
from connectors.lake.schema import LABELS
from connectors.lake.table import FilesGoneError, LakeTable
from foundation.errors import MisconfiguredError, RetryLaterError
from workspace.layout import Workspace


def label(sha256: str) -> pa.Table:
    row = {"payload_sha256": sha256, "class_name": "stop", "labeller": "a", "labelled_time_ns": 1}
    return pa.Table.from_pylist([row | {"cost": 1.0, "request_id": "r"}], schema=LABELS)


def shas(table: LakeTable) -> list[str]:
    return sorted(table.snapshot().read(["payload_sha256"]).column(0).to_pylist())


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/lake",
        "S3://b/l",
        "s3:/b/l",
        "gs://b/l",
        "abfss://c@s/l",
        "hdfs://h/l",
        "file://other/l",
        "a\0b",
    ],
)
def test_a_lake_elsewhere_is_refused_by_name_and_nothing_is_written(tmp_path: Path, address: str) -> None:
    (tmp_path / "fleetloop.toml").write_text(f"lake = {json.dumps(address)}\n")
    with pytest.raises(MisconfiguredError, match="lake address"):
        _ = Workspace.open(tmp_path).arrivals_uri
    for opening in (LakeTable.open, lambda uri: LakeTable.create(uri, LABELS)):
        with pytest.raises(MisconfiguredError, match="lake address"):
            opening(address)
    assert [path.name for path in tmp_path.iterdir()] == ["fleetloop.toml"]


def test_a_file_address_is_the_folder_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "fleetloop.toml").write_text(f'lake = "file://{tmp_path}/my%20lake"\n')
    assert Workspace.open(tmp_path).lake_path == tmp_path / "my lake"
    assert local_folder("file://localhost/a") == Path("/a")
    assert local_folder("a/b") == Path("a/b")


@pytest.mark.parametrize("name", ["my lake", "a#b", "a?b", "ü", "a+b", "a:b", "a'b"])
def test_a_folder_of_any_name_is_that_folder_and_no_neighbour(tmp_path: Path, name: str) -> None:
    neighbours = [tmp_path / other for other in ("my lake", "a") if other != name]
    for folder in neighbours:
        LakeTable.create(folder, LABELS).append(label("neighbour"))
    table = LakeTable.create(tmp_path / name, LABELS)
    table.append(label("own"))
    assert shas(LakeTable.open(tmp_path / name)) == ["own"]
    assert all(shas(LakeTable.open(folder)) == ["neighbour"] for folder in neighbours)
    assert {path.name for path in tmp_path.iterdir()} == {name, *(folder.name for folder in neighbours)}


@pytest.mark.parametrize("name", ["my%20lake", "100%", "%2e%2e"])
def test_a_folder_under_whose_name_delta_opens_another_is_refused_by_name(tmp_path: Path, name: str) -> None:
    LakeTable.create(tmp_path / "my lake", LABELS).append(label("neighbour"))
    for opening in (LakeTable.open, lambda uri: LakeTable.create(uri, LABELS)):
        with pytest.raises(MisconfiguredError, match=name):
            opening(tmp_path / name)
    assert shas(LakeTable.open(tmp_path / "my lake")) == ["neighbour"]


def test_a_path_that_another_writer_escaped_is_read(tmp_path: Path) -> None:
    table = LakeTable.create(tmp_path / "t", LABELS)
    table.append(label("a"))
    entry = table.folder / "_delta_log" / f"{1:020d}.json"
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    for line in lines:
        if "add" in line:
            (table.folder / line["add"]["path"]).rename(table.folder / "a b%.parquet")
            line["add"]["path"] = "a%20b%25.parquet"
    entry.write_text("\n".join(map(json.dumps, lines)))
    assert shas(LakeTable.open(table.folder)) == ["a"]


def raise_protocol(table: LakeTable, **protocol: object) -> None:
    entry = table.folder / "_delta_log" / f"{table.version() + 1:020d}.json"
    commit = {"commitInfo": {"timestamp": 1, "operation": "UPGRADE PROTOCOL", "operationParameters": {}}}
    entry.write_text(json.dumps(commit) + "\n" + json.dumps({"protocol": protocol}) + "\n")


@pytest.mark.parametrize(
    ("feature", "reads"),
    [
        ("rowTracking", 1),
        ("inCommitTimestamp", 1),
        ("aFeatureOfTomorrow", 1),
        ("identityColumns", 1),
        ("deletionVectors", 3),
    ],
)
def test_a_feature_of_another_writer_is_named_as_lasting_trouble(
    tmp_path: Path, feature: str, reads: int
) -> None:
    table = LakeTable.create(tmp_path / "t", LABELS)
    table.append(label("a"))
    more = {"readerFeatures": [feature]} if reads == 3 else {}
    raise_protocol(table, minReaderVersion=reads, minWriterVersion=7, writerFeatures=[feature], **more)
    version = table.version()
    with pytest.raises(MisconfiguredError, match=feature) as found:
        table.append(label("b"))
    assert not isinstance(found.value, RetryLaterError)
    assert "\n" not in str(found.value)
    assert table.version() == version


@pytest.mark.parametrize(
    "feature", ["appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns"]
)
def test_a_feature_that_asks_nothing_of_new_rows_stops_nothing(tmp_path: Path, feature: str) -> None:
    table = LakeTable.create(tmp_path / "t", LABELS)
    raise_protocol(table, minReaderVersion=1, minWriterVersion=7, writerFeatures=[feature])
    table.append(label("a"))
    assert shas(table) == ["a"]


def test_a_commit_that_the_table_refuses_is_no_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a list of features here is older than the library."""
    from connectors.lake import table as lake_table

    table = LakeTable.create(tmp_path / "t", LABELS)
    raise_protocol(table, minReaderVersion=1, minWriterVersion=7, writerFeatures=["rowTracking"])
    monkeypatch.setattr(lake_table, "WRITER_FEATURES", lake_table.WRITER_FEATURES | {"rowTracking"})
    with pytest.raises(MisconfiguredError, match="RowTracking"):
        table.append(label("a"))


def test_a_column_that_another_writer_added_is_left_to_it_also_after_a_restart(tmp_path: Path) -> None:
    table = LakeTable.create(tmp_path / "t", LABELS)
    table.append(label("a"))
    DeltaTable(str(table.folder)).alter.add_columns([Field("note", "string")])
    table.append(label("b"))
    again = LakeTable.create(tmp_path / "t", LABELS)
    again.append(label("c"))
    assert shas(again) == ["a", "b", "c"]
    assert again.snapshot().read(["note"]).column(0).to_pylist() == [None] * 3


def test_rows_that_another_engine_took_are_counted_also_after_the_next_commit(tmp_path: Path) -> None:
    table = LakeTable.create(tmp_path / "t", LABELS)
    for sha in ("a", "b", "c"):
        table.append(label(sha))
    assert table.snapshot().missing_rows() == 0
    DeltaTable(str(table.folder)).restore(1)
    assert table.snapshot().missing_rows() == 2
    assert table.snapshot().foreign_change() == (4, "RESTORE")
    table.append(label("d"))
    assert table.snapshot().missing_rows() == 2


def test_a_version_whose_files_are_gone_says_what_took_them(tmp_path: Path) -> None:
    table = LakeTable.create(tmp_path / "t", LABELS)
    table.append(label("a"))
    next((table.folder / "rows").iterdir()).unlink()
    for reading in (
        table.snapshot().read,
        table.snapshot().check_files,
        lambda: list(table.snapshot().batches()),
    ):
        with pytest.raises(FilesGoneError, match="VACUUM"):
            reading()


def test_an_error_of_delta_is_one_line_without_a_backtrace(tmp_path: Path) -> None:
    table = LakeTable.create(tmp_path / "t", LABELS)
    (table.folder / "_delta_log" / f"{0:020d}.json").write_text("{not json\n")
    with pytest.raises(MisconfiguredError) as found:
        LakeTable.open(table.folder)
    assert "\n" not in str(found.value)
    assert "backtrace" not in str(found.value).lower()

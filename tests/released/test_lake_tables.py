"""Rows of every release stand beside today's in one table; columns come and go, and one bad row costs only itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from connectors.lake.lock import lock_of
from connectors.lake.schema import ARRIVALS, TABLES
from connectors.lake.table import LakeTable
from pipelines.curate.fragments import open_snapshots, plan_fragments, read_metadata
from pipelines.dataset.make import curate
from tests.pipelines.curate_lake import arrival, fleet_rows, label_rows, make_workspace, picture
from tests.released.released import NAMES, code_of, copy_of

each_release = pytest.mark.parametrize("release", NAMES)
TODAYS = {"content_encoding": "", "content_span_ns": 5, "predictions_json": "[]", "incident_stream": "front"}

RELEASED_READER = """
import json, sys
from pathlib import Path

import connectors.lake
from pipelines.curate.fragments import plan_fragments, read_metadata

folder = Path(sys.argv[1])
table = connectors.lake.LakeTable.open(folder / "arrivals")
snapshot = table.snapshot()
rows = [row for each in plan_fragments({"arrivals": snapshot}) for row in read_metadata(each)["identity"].to_list()]
print(json.dumps({"code": connectors.lake.__file__, "rows": snapshot.read(["seq"]).num_rows, "identities": rows}))
"""


def add_todays(lake: Path) -> dict[str, object]:
    """One row as it is written today, put into a table of a release."""
    row = arrival(picture(999), seq=999, drive="drive-today", offset=999, **TODAYS)
    LakeTable.create(lake / "arrivals", ARRIVALS).append(pa.Table.from_pylist([row], ARRIVALS))
    return row


def test_every_column_may_be_null_so_that_a_row_without_it_is_a_row() -> None:
    assert [
        (name, field.name) for name, schema in TABLES.items() for field in schema if not field.nullable
    ] == []


@each_release
def test_rows_of_a_release_stand_beside_todays_in_one_table(release: str, tmp_path: Path) -> None:
    lake = copy_of(release, "workspace", tmp_path) / "lake"
    before = LakeTable.open(lake / "arrivals").snapshot().read()
    row = add_todays(lake)
    rows = pl.DataFrame(pl.from_arrow(LakeTable.open(lake / "arrivals").snapshot().read()))
    old, new = rows.filter(pl.col("seq") != 999), rows.filter(pl.col("seq") == 999)
    held = pl.DataFrame(pl.from_arrow(before))
    assert old.select(held.columns).sort("payload_sha256").equals(held.sort("payload_sha256"))
    added = [name for name in ARRIVALS.names if name not in held.columns]
    assert added, "the table gained columns"
    assert old.select(pl.col(added).is_null().all()).row(0) == (True,) * len(added)
    assert new.select(list(TODAYS)).row(0, named=True) == TODAYS
    snapshots = open_snapshots(lake, lock_of({"arrivals": LakeTable.open(lake / "arrivals")}))
    read = pl.concat([read_metadata(fragment) for fragment in plan_fragments(snapshots)])
    assert read.height == rows.height
    assert str(row["drive_id"]) in read["drive_id"].to_list()


@each_release
@pytest.mark.slow
def test_the_released_code_reads_what_is_written_today(release: str, tmp_path: Path) -> None:
    lake = copy_of(release, "workspace", tmp_path) / "lake"
    count = LakeTable.open(lake / "arrivals").snapshot().count()
    add_todays(lake)
    code = code_of(release, tmp_path / "code")
    if code is None:
        pytest.skip(f"commit {release} is not in this clone")
    done = subprocess.run(
        [sys.executable, "-P", "-c", RELEASED_READER, str(lake)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["code"].startswith(str(code)), "it ran the released code, not today's"
    assert said["rows"] == len(said["identities"]) == count + 1
    assert "car-1/00000000000000aa/999" in said["identities"]


@each_release
def test_a_column_of_tomorrow_is_passed_over_by_every_reader_and_writer(release: str, tmp_path: Path) -> None:
    lake = copy_of(release, "workspace", tmp_path) / "lake"
    for name, schema in TABLES.items():
        table = LakeTable.create(lake / name, schema)
        count = table.snapshot().count()
        row = pa.table({"payload_sha256": ["f" * 64], "tomorrow": [1.5]})
        write_deltalake(str(lake / name), row, mode="append", schema_mode="merge")
        again = LakeTable.create(lake / name, schema)
        again.append(pa.Table.from_pylist([{"payload_sha256": "e" * 64}], schema))
        assert again.snapshot().read(["payload_sha256"]).num_rows == count + 2
    names = ("arrivals", "reference")
    snapshots = open_snapshots(lake, lock_of({name: LakeTable.open(lake / name) for name in names}))
    rows = pl.concat([read_metadata(fragment) for fragment in plan_fragments(snapshots)])
    assert "tomorrow" not in rows.columns
    assert rows.filter(pl.col("source") == "fleet").height == 26


def test_a_row_that_makes_no_sense_costs_itself_and_no_neighbour(tmp_path: Path) -> None:
    """Whatever another engine left in one row. (Payload bytes that are not those of their hash stop the run by name.)"""
    rows = fleet_rows(6, 4)
    begin = len(rows)
    odd: list[dict[str, object]] = [
        {"predictions_json": "[{"},
        {"embedding": [1.0]},
        {"embedding": [float("nan")] * 3},
        {"capture_time_ns": None, "seq": None},
        {"drive_id": None},
        {"score_entropy": float("nan"), "selection_probability": -1.0},
    ]
    for number, change in enumerate(odd, begin):
        rows.append(arrival(picture(7000 + number), seq=number, drive="drive-odd", offset=number) | change)
    labels = [
        *label_rows(rows[:begin]),
        {"payload_sha256": None, "class_name": None},
        {
            "payload_sha256": rows[0]["payload_sha256"],
            "class_name": "no such class",
            "labelled_time_ns": None,
        },
    ]
    result = curate(make_workspace(tmp_path / "ws", rows, labels))
    counts = result.manifest["counts"]
    assert counts["read"] == len(rows)
    assert counts["kept"] >= begin - 1, "at most the row that was labelled twice"

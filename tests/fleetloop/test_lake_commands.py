"""What a dataset, lake.lock or the newest version needs stays, whatever is asked to go."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from connectors.lake.lock import LockedTable, lock_json
from connectors.lake.retention import pin
from connectors.lake.schema import ARRIVALS
from connectors.lake.table import LakeTable
from fleetloop.cli import app
from foundation.clock import SystemClock
from foundation.errors import CorruptError, MisconfiguredError, RetryLaterError
from foundation.files import write_json_atomic
from pipelines.ingest.staging import commit_lock
from tests.pipelines.curate_lake import arrival, fleet_rows, make_workspace, picture
from tests.released.released import ROOT as RELEASED
from workspace.layout import Workspace


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """Arrivals at version 12 with a checkpoint at 5 and 10; lake.lock names version 2."""
    workspace = make_workspace(tmp_path / "ws", fleet_rows(2, 2))
    table = LakeTable.open(workspace.arrivals_uri)
    for number in range(table.version(), 12):
        row = arrival(picture(7000 + number), vehicle="late", seq=number, drive="late")
        table.append(pa.Table.from_pylist([row], ARRIVALS))
        if number + 1 in (5, 10):
            table.snapshot().delta.create_checkpoint()
    return workspace


def run(place: Workspace, *words: str) -> dict[str, Any]:
    found = CliRunner().invoke(
        app, ["lake", *words, "--workspace", str(place.root), "--json"], catch_exceptions=False
    )
    document: dict[str, Any] = json.loads(found.stdout)["tables"]
    return document


def hold(place: Workspace, dataset: str, version: int) -> None:
    table = LakeTable.open(place.arrivals_uri)
    pin(place.lake_path, dataset, {"arrivals": LockedTable(version, table.table_id())})


def lock_at(place: Workspace, version: int) -> None:
    table = LakeTable.open(place.arrivals_uri)
    write_json_atomic(place.lake_lock_path, lock_json({"arrivals": LockedTable(version, table.table_id())}))


def test_status_counts_each_table_and_says_who_holds_what(place: Workspace) -> None:
    hold(place, "v1", 7)
    hold(place, "v2", 7)
    found = run(place, "status")
    table = LakeTable.open(place.arrivals_uri)
    assert (found["arrivals"]["version"], found["arrivals"]["rows"]) == (12, table.snapshot().count())
    assert found["arrivals"]["files"] == len(list((table.folder).rglob("*.parquet"))) - 2, (
        "two are checkpoints"
    )
    assert found["arrivals"]["held"] == {"2": ["lake.lock"], "7": ["v1", "v2"]}
    assert set(found) == {"arrivals", "labels", "reference"}


def test_trim_stops_at_the_oldest_version_that_is_held_by_anything(place: Workspace) -> None:
    table = LakeTable.open(place.arrivals_uri)
    assert run(place, "trim")["arrivals"] == {"kept": [2], "log_entries": 0}, "lake.lock needs version 2"
    lock_at(place, 7)
    hold(place, "v1", 7)
    would = run(place, "trim", "--dry-run")["arrivals"]["log_entries"]
    assert table.snapshot(3).version == 3, "a dry run removes nothing"
    assert run(place, "trim")["arrivals"]["log_entries"] == would > 0
    with pytest.raises(MisconfiguredError, match="no version 3"):
        table.snapshot(3)
    assert table.snapshot(7).count() < table.snapshot().count()


def test_a_version_is_held_by_its_record_when_its_pin_is_gone(place: Workspace) -> None:
    lock_at(place, 12)
    table = LakeTable.open(place.arrivals_uri)
    record = json.loads((RELEASED / "f8b232c/workspace/registry/datasets/v1.json").read_bytes())
    record["manifest"]["made_from"]["lake"] = lock_json({"arrivals": LockedTable(6, table.table_id())})
    place.dataset_versions_path.mkdir(parents=True)
    write_json_atomic(place.dataset_versions_path / "v1.json", record)
    assert run(place, "trim")["arrivals"]["kept"] == [6, 12]
    assert table.snapshot(6).version == 6


def test_nothing_is_removed_while_a_pin_cannot_be_read(place: Workspace) -> None:
    lock_at(place, 12)
    hold(place, "v1", 3)
    (place.lake_path / "pins" / "v1.json").write_text("{")
    for command in ("trim", "vacuum"):
        with pytest.raises(CorruptError, match=r"v1\.json"):
            run(place, command)
    assert LakeTable.open(place.arrivals_uri).snapshot(3).version == 3


def test_vacuum_takes_only_old_files_that_no_version_needs(place: Workspace) -> None:
    table = LakeTable.open(place.arrivals_uri)
    before = table.snapshot().count()
    named = sorted(table.snapshot().files().column("path").to_pylist())
    orphan, young = (
        table.folder / Path(named[0]).parent / name for name in ("orphan.parquet", "young.parquet")
    )
    for path in (orphan, young):
        path.write_bytes(b"left by a dead writer")
    past = time.time() - 3 * 24 * 3600
    for path in (orphan, *(table.folder / name for name in named)):
        os.utime(path, (past, past))
    assert run(place, "vacuum")["arrivals"]["files"] == [], "a week by default"
    expected = [orphan.relative_to(table.folder).as_posix()]
    assert run(place, "vacuum", "--older-than-days", "2", "--dry-run")["arrivals"]["files"] == expected
    assert orphan.exists()
    assert run(place, "vacuum", "--older-than-days", "2")["arrivals"]["files"] == expected
    assert (orphan.exists(), young.exists(), table.snapshot().count()) == (False, True, before)
    words = ["lake", "vacuum", "--older-than-days", "0", "--workspace", str(place.root)]
    assert CliRunner().invoke(app, words).exit_code == 2


def test_nothing_is_removed_while_ingest_commits(place: Workspace) -> None:
    table = LakeTable.open(place.arrivals_uri)
    impatient = place.root / "fleetloop.toml"
    impatient.write_text("lock_wait_s = 0\n")
    with commit_lock(table, 0.0, SystemClock()):
        for command in ("trim", "vacuum"):
            with pytest.raises(RetryLaterError):
                run(place, command)

"""Status counts rows and outcomes, and looks for holes, from the entries of the table's log: no data file is opened."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from connectors.lake.outcomes import count_outcomes
from pipelines.ingest.holes import find_holes
from tests.pipelines.ingest.ingest_lab import Lab, assert_one_row_per_offset


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A log with every outcome in one file, an end that a transaction hides, and losses."""
    found = Lab(tmp_path, partitions=2, batch_records=100, range_offsets=100)
    for seq in range(5):
        found.produce(found.fleet.record("v1", seq), 0)
    found.produce(found.fleet.record("v1", 1), 0)
    found.produce(found.fleet.record("v2", 0, signer="v3"), 0)
    found.produce(found.fleet.record("v1", 2, payload=b"another"), 0)
    found.produce(found.fleet.record("v2", 1), 1)
    found.ingest().once()
    return found


def test_counts_and_holes_are_told_with_every_data_file_gone(lab: Lab) -> None:
    assert_one_row_per_offset(lab)
    expected = Counter(row["outcome"] for row in lab.rows())
    assert set(expected) == {"landed", "resent", "rejected"}
    rows = len(lab.rows())
    for file in lab.table.folder.rglob("*.parquet"):
        if "_delta_log" not in file.parts:
            file.unlink()
    snapshot = lab.table.snapshot()
    assert count_outcomes(snapshot) == expected
    assert snapshot.rows() == rows
    assert find_holes(snapshot) == []


def test_files_of_an_earlier_release_are_counted_by_reading_them_and_no_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their entries say less. New files beside them are not opened."""
    new = {file for file in lab.table.folder.rglob("*.parquet") if "_delta_log" not in file.parts}
    monkeypatch.setattr("connectors.lake.pruning.COUNTED_COLUMNS", ())
    lab.produce(lab.fleet.record("v2", 2), 1)
    lab.produce(lab.fleet.record("v2", 2), 1)
    lab.ingest().once()
    expected = Counter(row["outcome"] for row in lab.rows())
    for file in new:
        file.unlink()
    assert count_outcomes(lab.table.snapshot()) == expected

"""Another engine restores, deletes, vacuums or upgrades the table: ingest never goes on over a hole and says what it met."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deltalake import DeltaTable

import pipelines.ingest.commit as committing
from foundation.errors import MisconfiguredError, RetryLaterError
from pipelines.ingest.holes import find_holes
from tests.pipelines.ingest.ingest_lab import TOPIC, Lab, assert_one_row_per_offset


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Three commits of four records each on one partition, and four records more in the log."""
    lab = Lab(tmp_path, partitions=1)
    for begin in (0, 4, 8):
        for seq in range(begin, begin + 4):
            lab.produce(lab.fleet.record("v1", seq), partition=0)
        assert lab.ingest().once().landed == 4
    for seq in range(12, 16):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
    return lab


def test_a_table_without_a_hole_has_none(lab: Lab) -> None:
    assert find_holes(lab.table.snapshot()) == []
    DeltaTable(str(lab.table.folder)).optimize.compact()
    assert find_holes(lab.table.snapshot()) == []
    assert lab.ingest().once().landed == 4
    assert_one_row_per_offset(lab)


def test_after_a_restore_ingest_names_partition_both_ends_and_the_restore_and_goes_on_when_it_is_undone(
    lab: Lab,
) -> None:
    delta = DeltaTable(str(lab.table.folder))
    delta.restore(1)
    with pytest.raises(MisconfiguredError) as found:
        lab.ingest().once()
    for words in (
        "partition 0",
        "up to offset 12",
        "end at offset 4",
        "version 4 is a RESTORE",
        "restore version 3",
    ):
        assert words in str(found.value)
    DeltaTable(str(lab.table.folder)).restore(3)
    assert lab.ingest().once().landed == 4
    assert_one_row_per_offset(lab)


@pytest.mark.parametrize("which", ["offset in (1, 2)", "offset = 11", "true"])
def test_rows_that_another_engine_deleted_are_told_wherever_they_were(lab: Lab, which: str) -> None:
    delta = DeltaTable(str(lab.table.folder))
    delta.alter.set_table_properties({"delta.appendOnly": "false"})
    DeltaTable(str(lab.table.folder)).delete(which)
    version = lab.table.version()
    with pytest.raises(MisconfiguredError, match="DELETE"):
        lab.ingest().once()
    assert lab.table.version() == version
    assert find_holes(lab.table.snapshot())


def test_a_lake_whose_marks_know_no_row_count_is_read_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a version before wrote it."""
    from connectors.lake.table import LakeTable

    old = Lab(lab.lake / "old", partitions=1)
    with monkeypatch.context() as before:
        before.setattr(LakeTable, "_rows_after", lambda *_: {})
        old.produce(old.fleet.record("v1", 0), partition=0)
        old.ingest().once()
    old.produce(old.fleet.record("v1", 1), partition=0)
    assert old.ingest().once().landed == 1
    assert old.table.snapshot().missing_rows() == 0


def test_a_feature_of_another_writer_is_told_before_the_topic_is_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = lab.table.folder / "_delta_log" / f"{lab.table.version() + 1:020d}.json"
    protocol = {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["appendOnly", "rowTracking"]}
    entry.write_text(json.dumps({"protocol": protocol}) + "\n")
    lab.broker.delete_topic(TOPIC)  # whoever asks for it gets another error
    lab.broker.create_topic(TOPIC)
    with pytest.raises(MisconfiguredError, match="rowTracking"):
        lab.ingest().once()


def vacuum_within(lab: Lab, monkeypatch: pytest.MonkeyPatch, *, is_logged: bool) -> None:
    """Once, between the rename of the files and the commit that names them."""
    whole, done = committing.rename_files, []

    def renamed(table, moves):  # type: ignore[no-untyped-def]
        files = whole(table, moves)
        if not done:
            done.append(True)
            if is_logged:
                DeltaTable(str(table.folder)).vacuum(
                    retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True
                )
            else:
                for file in files:
                    (table.folder / file.path).unlink()
        return files

    monkeypatch.setattr(committing, "rename_files", renamed)


def test_vacuum_of_another_engine_within_a_run_means_planning_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    vacuum_within(lab, monkeypatch, is_logged=True)
    report = lab.ingest().once()
    assert (report.landed, report.replans) == (4, 1)
    assert_one_row_per_offset(lab)


def test_files_that_went_away_without_a_word_are_never_committed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    vacuum_within(lab, monkeypatch, is_logged=False)
    version = lab.table.version()
    with pytest.raises(RetryLaterError, match="VACUUM"):
        lab.ingest().once()
    assert lab.table.version() == version
    assert lab.ingest().once().landed == 4
    assert_one_row_per_offset(lab)

"""Small files become few, and nothing else changes: no row, no version that a dataset names, no end of a partition."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from connectors.kafka.ports import TopicInfo
from connectors.lake.outcomes import count_outcomes
from connectors.lake.retention import vacuum
from connectors.lake.rewrite import replace_files
from connectors.lake.schema import ARRIVALS
from connectors.lake.table import LakeTable, StaleSnapshotError, write_parquet
from foundation.clock import ManualClock, SystemClock
from foundation.errors import GuaranteeBrokenError, RetryLaterError
from pipelines import steps
from pipelines.ingest import compact as compaction
from pipelines.ingest.compact import FILES_OF_A_TIER, TIERS_BYTES, choose, compact
from pipelines.ingest.holes import find_holes, position_name
from pipelines.ingest.staging import STAGING, clean_leftovers, commit_lock
from tests.pipelines.curate_lake import arrival
from tests.pipelines.ingest.ingest_lab import rows_of

TOPIC = TopicInfo("c", "fleetloop.samples", "t", (0, 1))


class CrashError(Exception):
    pass


class Lake:
    """A table as `ingest --follow` leaves it: a commit with a small file for each of two partitions, many times."""

    def __init__(self, folder: Path) -> None:
        self.table = LakeTable.create(folder / "arrivals", ARRIVALS)
        self.end = 0

    def run(self, *, payload: bytes = b"picture") -> None:
        files = []
        for partition in TOPIC.partitions:
            place = {"partition": partition, "offset": self.end, "offset_end": self.end + 1}
            row = arrival(payload, vehicle=f"car-{self.end % 3}", seq=self.end, **place)
            if self.end % 5 == 4:
                row |= {"outcome": "rejected", "reason": "bad_signature", "headers_json": "[]"}
            path = f"log/xc/xt/{partition:05d}/{self.end:020d}-{self.end + 1:020d}-{self.end:016x}.parquet"
            files.append(write_parquet(self.table.folder, path, pa.Table.from_pylist([row], ARRIVALS)))
        self.end += 1
        ends = {position_name(TOPIC, partition): self.end for partition in TOPIC.partitions}
        self.table.commit_files(files, expected_version=self.table.version(), app_transactions=ends)

    def rows(self, version: int | None = None) -> list[dict[str, object]]:
        return rows_of(self.table.snapshot(version).read())

    def files(self) -> set[str]:
        return set(self.table.snapshot().files()["path"].to_pylist())

    def on_disk(self) -> set[str]:
        log = self.table.folder / "log"
        return {file.relative_to(self.table.folder).as_posix() for file in log.rglob("*.parquet")}

    def compact(self) -> compaction.Compacted:
        return compact(self.table, SystemClock(), wait_s=5.0)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(tmp_path)
    for _ in range(FILES_OF_A_TIER):
        found.run()
    return found


def test_many_small_files_become_one_for_each_partition_with_the_same_rows(lake: Lake) -> None:
    before, version = lake.rows(), lake.table.version()
    ends = [lake.table.snapshot().app_transaction(position_name(TOPIC, p)) for p in (0, 1)]
    counts = count_outcomes(lake.table.snapshot())
    assert lake.compact() == compaction.Compacted(2 * FILES_OF_A_TIER, 2)
    assert len(lake.files()) == 2
    assert lake.rows() == before == lake.rows(version)
    snapshot = lake.table.snapshot()
    assert [snapshot.app_transaction(position_name(TOPIC, p)) for p in (0, 1)] == ends
    assert (count_outcomes(snapshot), find_holes(snapshot), snapshot.missing_rows()) == (counts, [], 0)
    lake.run()  # ingest goes on
    assert len(lake.rows()) == len(before) + 2
    assert LakeTable.open(lake.table.folder).snapshot().foreign_change() is None


def test_a_version_that_a_dataset_names_is_whole_after_compaction_and_vacuum_and_the_rest_is_given_back(
    lake: Lake,
) -> None:
    named, before = 7, lake.rows(7)
    lake.compact()
    week_later = ManualClock(SystemClock().now_ns() + 8 * 86_400 * 10**9)
    removed = vacuum(lake.table, [named], older_than=timedelta(days=7), clock=week_later)
    assert lake.rows(named) == before
    assert len(removed) == 2 * (FILES_OF_A_TIER - named)
    assert len(lake.rows()) == 2 * FILES_OF_A_TIER


@pytest.mark.parametrize("label", ["compact.merge", "compact.rename", "compact.commit"])
def test_after_a_crash_at_any_step_the_next_run_finds_the_same_rows_and_leaves_nothing_over(
    lake: Lake, label: str
) -> None:
    before, old = lake.rows(), lake.on_disk()

    def crash(reached: str) -> None:
        if reached == label:
            raise CrashError

    with pytest.raises(CrashError), steps.watched(crash):
        lake.compact()
    assert lake.rows() == before
    lake.compact()
    with commit_lock(lake.table, 0.0, SystemClock()):
        clean_leftovers(lake.table)
    assert lake.rows() == before
    assert len(lake.files()) == 2
    assert lake.on_disk() - old == lake.files(), (
        "only files that earlier versions name are left beside the newest"
    )
    assert [each.name for each in (lake.table.folder / STAGING).iterdir()] == ["commit.lock"]


def test_rows_that_ingest_commits_meanwhile_stay(lake: Lake) -> None:
    is_done = []

    def commit(reached: str) -> None:
        if reached == "compact.merge" and not is_done:
            is_done.append(True)
            lake.run()

    with steps.watched(commit):
        lake.compact()
    assert len(lake.rows()) == 2 * FILES_OF_A_TIER + 2
    assert find_holes(lake.table.snapshot()) == []


def test_of_two_compactions_at_once_one_is_refused_and_no_row_is_there_twice(lake: Lake) -> None:
    before = lake.rows()
    is_done = []

    def other(reached: str) -> None:
        if reached == "compact.merge" and not is_done:
            is_done.append(True)
            lake.compact()

    with pytest.raises(RetryLaterError), steps.watched(other):
        lake.compact()
    assert lake.rows() == before


def test_an_exchange_that_would_lose_a_row_is_refused(lake: Lake) -> None:
    paths = sorted(lake.files())[:3]
    rows = pa.Table.from_pylist([arrival(b"x", seq=0, offset=0)], ARRIVALS)
    version = lake.table.version()
    with pytest.raises(GuaranteeBrokenError, match="1 rows, those that they replace 3"):
        replace_files(lake.table, paths, [write_parquet(lake.table.folder, "log/new.parquet", rows)], note={})
    assert lake.table.version() == version


def test_a_number_of_the_log_that_another_writer_has_is_not_written_over(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lake.rows()
    stale = lake.table.snapshot()
    lake.run()
    monkeypatch.setattr(LakeTable, "snapshot", lambda _self, _version=None: stale)
    with pytest.raises(StaleSnapshotError, match="first"):
        compaction._merge(lake.table, sorted(lake.files())[:2], SystemClock(), 5.0)
    monkeypatch.undo()
    assert len(lake.rows()) == len(before) + 2
    assert not list((lake.table.folder / "_delta_log").glob("*.tmp"))


def test_the_number_of_files_stays_bounded_however_long_ingest_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "FILES_OF_A_TIER", 4)
    lake, most = Lake(tmp_path), 0
    for _ in range(20):
        lake.run(payload=b"x" * 300_000)
        lake.compact()
        most = max(most, len(lake.files()))
    assert most <= 2 * len(TIERS_BYTES) * 4
    assert len(lake.rows()) == 40
    assert len(lake.files()) == 2 * 2, (
        "files of the second tier were merged, too: of 16 runs, and of the last 4"
    )


def test_files_of_another_writer_and_large_ones_are_left_alone(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = pa.Table.from_pylist([arrival(b"x", seq=900, offset=900)], ARRIVALS)
    for _ in range(FILES_OF_A_TIER):
        lake.table.append(row)
    assert all(path.startswith("log/") for group in choose(lake.table.snapshot()) for path in group)
    monkeypatch.setattr(compaction, "TIERS_BYTES", (10, 100))
    assert choose(lake.table.snapshot()) == []

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connectors.lake.table import LakeTable
from pipelines import steps
from pipelines.ingest.staging import LOG_FOLDER, STAGING
from pipelines.runner import PipelineFailedError
from tests.pipelines.ingest.ingest_lab import (
    Lab,
    assert_one_row_per_offset,
    load,
    mixed_log,
    save,
    without_times,
)

LABELS = [
    "ingest.plan",
    "ingest.read",
    "ingest.decode",
    "ingest.write",
    "ingest.deduplicate",
    "ingest.apply",
    "ingest.rename",
    "ingest.commit",
    "ingest.done",
]


class CrashError(Exception):
    pass


def files_in(table: LakeTable) -> set[str]:
    return {p.relative_to(table.folder).as_posix() for p in (table.folder / LOG_FOLDER).rglob("*.parquet")}


def assert_nothing_left_over(table: LakeTable) -> None:
    assert files_in(table) == set(table.snapshot().files().column("path").to_pylist())
    assert [p.name for p in (table.folder / STAGING).iterdir()] == ["commit.lock"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The log in a file, and the rows of an ingest of it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    lab = Lab(folder)
    mixed_log(lab)
    save(lab, folder)
    report = lab.ingest().once()
    assert report.rejected == {"conflict": 1, "missing_header": 1, "unknown_vehicle": 1}
    assert (report.resent, report.gap_offsets) == (4, 1)
    assert_one_row_per_offset(lab)
    return folder, without_times(lab.rows())


def lab_with_that_log(undisturbed: tuple[Path, list[dict[str, Any]]], folder: Path) -> Lab:
    (folder / "log.json").write_text((undisturbed[0] / "log.json").read_text())
    return load(folder)


@pytest.mark.parametrize("label", LABELS)
def test_an_ingest_that_crashes_after_any_step_and_runs_again_gives_the_same_rows(
    label: str, undisturbed: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    lab = lab_with_that_log(undisturbed, tmp_path)
    crashed = []

    def crash(reached: str) -> None:
        if reached == label:
            crashed.append(reached)
            raise CrashError(reached)

    with steps.watched(crash), pytest.raises((CrashError, PipelineFailedError)):
        lab.ingest().once()
    assert crashed
    lab.ingest().once()
    assert without_times(lab.rows()) == undisturbed[1]
    assert lab.table.version() == 1
    assert_one_row_per_offset(lab)
    if label in ("ingest.commit", "ingest.done"):  # the second run had nothing to do, so it did not clean up
        lab.produce(lab.fleet.record("v9", 99), partition=0)
        lab.ingest().once()
    assert_nothing_left_over(lab.table)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "n"), [("ingest.write", 3), ("ingest.apply", 1), ("ingest.rename", 1), ("ingest.commit", 1)]
)
def test_an_ingest_killed_after_any_step_and_run_again_gives_the_same_rows(
    label: str, n: int, undisturbed: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    lab = lab_with_that_log(undisturbed, tmp_path)
    command = [sys.executable, "-m", "tests.pipelines.ingest.ingest_child", str(tmp_path), label, str(n)]
    root = Path(__file__).resolve().parents[3]
    killed = subprocess.run(command, cwd=root, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    is_committed = label == "ingest.commit"
    assert lab.table.version() == int(is_committed)
    assert lab.ingest().once().offsets == (
        0 if is_committed else sum(r["origin"] == "log" for r in undisturbed[1])
    )
    assert without_times(lab.rows()) == undisturbed[1]
    if is_committed:
        lab.produce(lab.fleet.record("v9", 99), partition=0)
        lab.ingest().once()
    assert_nothing_left_over(lab.table)


def test_reading_that_breaks_off_costs_no_offset_and_no_marks(tmp_path: Path) -> None:
    """The first copy of an identity is in a range after the break; the second must not point at it."""
    lab = Lab(tmp_path)
    for seq in range(lab.settings.range_offsets):
        lab.produce(lab.fleet.record("v2", seq), partition=0)
    lab.produce(lab.fleet.record("v1", 0), partition=0)
    lab.produce(lab.fleet.record("v1", 0), partition=1)

    report = lab.ingest(open_source=_Breaking(lab.name)).once()
    assert report.unread[0].partition == 0
    assert "set to fail" in report.unread[0].why
    assert report.landed == 5 + 1
    second = lab.ingest().once()
    assert (second.landed, second.resent, second.unread) == (5, 1, ())
    assert_one_row_per_offset(lab)


class _Breaking:
    """Opens sources whose reads of the first range of partition 0 end after five records."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> Any:
        from tests.fakes.kafka import FakeSource
        from tests.pipelines.ingest.ingest_lab import fake_source

        source = fake_source(self.name)
        assert isinstance(source, FakeSource)
        plain = source.read

        def read(topic: str, partition: int, start: int, end: int) -> Any:
            source.fail_after_records = 5 if (partition, start) == (0, 0) else None
            return plain(topic, partition, start, end)

        source.read = read  # type: ignore[method-assign]
        return source

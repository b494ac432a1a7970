"""A backup that is made while ingest is at work comes back as a lake that goes on where it stood."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pyarrow.compute as pc
import pytest

from connectors.lake.table import LakeTable
from tests.pipelines.ingest.ingest_lab import TOPIC, Lab

SCRIPT = Path(__file__).parents[2] / "packaging" / "backup.sh"


def back_up(workspace: Path, target: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPT), str(workspace), str(target)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    workspace = tmp_path / "my workspace"
    workspace.mkdir()
    (workspace / "fleetloop.toml").write_text('name = "fleet"\n')
    (workspace / ".git").mkdir()
    (workspace / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return Lab(workspace)


def send(lab: Lab, begin: int, end: int) -> None:
    for seq in range(begin, end):
        lab.produce(lab.fleet.record("v1", seq))


def test_a_backup_beside_a_running_ingest_is_whole_and_ingest_goes_on_from_it(
    tmp_path: Path, lab: Lab
) -> None:
    send(lab, 0, 40)
    lab.ingest().once()
    stop = threading.Event()

    def at_work() -> None:
        seq = 40
        while not stop.is_set():
            send(lab, seq, seq + 5)
            lab.ingest().once()
            seq += 5

    worker = threading.Thread(target=at_work)
    worker.start()
    try:
        done = back_up(lab.lake.parent, tmp_path / "backup")
    finally:
        stop.set()
        worker.join()
    assert done.returncode == 0, done.stderr
    sent = len(lab.broker.records(TOPIC))

    shutil.rmtree(lab.lake.parent)
    shutil.copytree(tmp_path / "backup", lab.lake.parent)
    assert (lab.lake.parent / ".git" / "HEAD").is_file()
    restored = LakeTable.open(lab.lake / "arrivals")
    snapshot = restored.snapshot()
    assert snapshot.count() >= 40
    snapshot.check_files()
    lab.table = restored
    lab.ingest().once()
    rows = restored.snapshot().read(columns=["partition", "offset", "outcome"])
    assert pc.all(pc.equal(rows["outcome"], "landed")).as_py()
    assert (
        rows.num_rows
        == sent
        == len({*zip(rows["partition"].to_pylist(), rows["offset"].to_pylist(), strict=True)})
    )


def test_a_folder_of_backups_gets_a_new_one_with_each_call_for_its_owner_only(
    tmp_path: Path, lab: Lab
) -> None:
    """As fleetloop-backup.service calls it."""
    done = back_up(lab.lake.parent, f"{tmp_path / 'backups'}/")
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "backups").iterdir()
    assert (made / "fleetloop.toml").is_file()
    assert (tmp_path / "backups").stat().st_mode & 0o077 == 0


def test_a_backup_refuses_what_is_no_workspace_and_never_writes_over_another(
    tmp_path: Path, lab: Lab
) -> None:
    assert "is no workspace" in back_up(tmp_path, tmp_path / "backup").stderr
    (tmp_path / "old").mkdir()
    assert "exists already" in back_up(lab.lake.parent, tmp_path / "old").stderr
    assert list((tmp_path / "old").iterdir()) == []

"""Versions with real git and real DVC: only what changed runs again, one writer, and a version never changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from connectors.lake.schema import ARRIVALS, LABELS
from connectors.lake.table import LakeTable
from foundation.errors import GuaranteeBrokenError, MisconfiguredError, RetryLaterError
from foundation.files import FileLock
from modelkit.tasks import TASKS
from pipelines.dataset.diff import diff
from pipelines.dataset.dvc import CommandFailedError, DvcRepository
from pipelines.dataset.exclusive import dataset_lock
from pipelines.dataset.lock import holders, write_lock
from pipelines.dataset.make import curate
from pipelines.dataset.manifest import read_rows
from pipelines.dataset.versions import checkout_version, commit_version, find_version, list_versions
from pipelines.steps import watched
from services.init import make_workspace
from tests.pipelines.curate_lake import CLASSES, arrival, clone_with_git, fleet_rows, label_rows, picture
from workspace.layout import Workspace

pytestmark = pytest.mark.slow


def add(
    workspace: Workspace, rows: list[dict[str, object]], labels: list[dict[str, object]] | None = None
) -> None:
    for name, schema, part in (("arrivals", ARRIVALS, rows), ("labels", LABELS, labels or label_rows(rows))):
        LakeTable.create(workspace.lake_path / name, schema).append(pa.Table.from_pylist(part, schema))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    place = make_workspace(tmp_path / "my fleet", classes=CLASSES, with_keys=False)
    add(place, fleet_rows(8, 4))
    write_lock(place)
    return place


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def change(workspace: Workspace, section: str, **values: object) -> None:
    document = yaml.safe_load(workspace.params_path.read_text())
    document[section] |= values
    workspace.params_path.write_text(yaml.safe_dump(document))


def test_repro_runs_again_only_what_changed(workspace: Workspace) -> None:
    repository = DvcRepository(workspace)
    assert ran(repository.repro("validate")) == ["curate", "validate"]
    change(workspace, "label", seed=7)
    change(workspace, "train", epochs=3)
    late = [arrival(picture(7000 + n), vehicle="late", seq=n, drive="late") for n in range(3)]
    add(workspace, late)
    assert ran(repository.repro("validate")) == [], "the lake moved on, lake.lock did not"
    before = yaml.safe_load(workspace.params_path.read_text())["validate"]["max_failing_ratio"]
    change(workspace, "validate", max_failing_ratio=2 * before)
    assert ran(repository.repro("--dry", "validate")) == ["validate"]
    change(workspace, "validate", max_failing_ratio=before)
    write_lock(workspace)
    assert ran(repository.repro("validate")) == ["curate", "validate"]
    graph = repository.dvc("dag", "--dot")
    for stage in ("curate", "validate", "train", "quantise", "evaluate", "package"):
        assert stage in graph


def test_a_stage_that_fails_says_why_and_the_command_fails(workspace: Workspace) -> None:
    change(workspace, "curate", quality={"min_lumen": 1})
    with pytest.raises(CommandFailedError, match="min_lumen"):
        DvcRepository(workspace).repro("curate")


def test_late_data_makes_a_new_version_and_the_old_one_comes_back_whole(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curate(workspace)
    first, is_new = commit_version(workspace, "the beginning")
    assert (first.id, first.parent, is_new) == ("v1", "", True)
    assert commit_version(workspace, "again") == (first, False)
    late = [arrival(picture(7000 + n), vehicle="late", seq=n, drive="late") for n in range(3)]
    relabelled = label_rows(fleet_rows(1, 1)) + label_rows(late)
    relabelled[0] |= {"class_name": "yellow", "labelled_time_ns": 99}
    add(workspace, late, relabelled)
    write_lock(workspace)
    curate(workspace)
    second, _ = commit_version(workspace, "late data")
    assert (second.id, second.parent) == ("v2", "v1")
    assert [version.id for version in list_versions(workspace)] == ["v1", "v2"]
    assert find_version(workspace, "latest") == second
    assert [
        number for number, who in holders(workspace)["arrivals"].items() if "v1" in who or "v2" in who
    ] == [1, 2]
    tags = DvcRepository(workspace).git("tag", "--list").split()
    assert tags == ["dataset/v1", "dataset/v2"]
    shutil.rmtree(workspace.root / ".dvc" / "cache")
    monkeypatch.chdir(tmp_path)
    old = read_rows(checkout_version(workspace, "v1", Path("v1")))
    assert old.equals(read_rows(tmp_path / "v1")), "a relative folder is the caller's, not the workspace's"
    found = diff(old, read_rows(workspace.dataset_path), TASKS["classification"])
    assert (found.added, found.removed, found.relabelled, found.moved) == (3, 0, 1, 0)
    with pytest.raises(MisconfiguredError, match=r"'v9'; known: v1, v2"):
        find_version(workspace, "v9")
    clone = tmp_path / "clone"
    clone_with_git(workspace.root, clone, "--branch", "dataset/v1")
    pulled = DvcRepository(Workspace.open(clone))
    pulled.dvc("pull", "curate")
    assert read_rows(clone / "datasets" / "current").equals(old)


class CrashError(Exception):
    """Stands for a kill: nothing after it runs."""


def crash_at(label: str) -> Callable[[str], None]:
    def hook(reached: str) -> None:
        if reached == label:
            raise CrashError(label)

    return hook


def test_a_commit_that_was_killed_after_any_step_is_finished_by_the_next(workspace: Workspace) -> None:
    curate(workspace)
    for label in ("dataset.pin", "dataset.dvc", "dataset.record", "dataset.tag", "dataset.push"):
        with watched(crash_at(label)), pytest.raises(CrashError):
            commit_version(workspace, "first")
    version, _ = commit_version(workspace, "first")
    assert [held.id for held in list_versions(workspace)] == ["v1"] == [version.id]
    repository = DvcRepository(workspace)
    assert repository.git("tag", "--list").split() == ["dataset/v1"]
    assert "in sync" in repository.dvc("status", "--cloud", "curate")


@pytest.mark.parametrize("label", ["dataset.record", "git.commit"])
def test_a_dataset_that_changed_after_a_cut_commit_takes_the_number_that_got_no_tag(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    with monkeypatch.context() as patched, watched(crash_at(label)), pytest.raises(CrashError):
        patched.setattr(DvcRepository, "tag", lambda self, name, message: crash_at(label)("git.commit"))
        curate(workspace)
        commit_version(workspace, "cut")
    add(workspace, [arrival(picture(7000 + n), vehicle="late", seq=n, drive="late") for n in range(3)])
    write_lock(workspace)
    digest = curate(workspace).manifest["digest"]
    version, is_new = commit_version(workspace, "whole")
    assert (version.id, version.digest, is_new) == ("v1", digest, True)
    assert list_versions(workspace) == [version]
    assert DvcRepository(workspace).git("tag", "--list").split() == ["dataset/v1"]
    shutil.rmtree(workspace.root / ".dvc" / "cache")
    assert checkout_version(workspace, "v1", tmp_path / "v1")


def test_of_a_checkout_that_a_remote_cannot_give_whole_nothing_stays(
    workspace: Workspace, tmp_path: Path
) -> None:
    curate(workspace)
    commit_version(workspace, "first")
    shutil.rmtree(workspace.root / ".dvc" / "cache")
    remote = DvcRepository(workspace).remote_folder()
    assert remote is not None
    whole = sorted(path for path in remote.rglob("*") if path.is_file() and path.suffix != ".dir")
    for path in whole[::2]:
        path.unlink()
    held = tmp_path / "there" / "v1"
    held.mkdir(parents=True)
    (held / "mine").touch()
    for into in (tmp_path / "away" / "v1", held):
        into.parent.mkdir(exist_ok=True)
        with pytest.raises(CommandFailedError):
            checkout_version(workspace, "v1", into)
    assert list((tmp_path / "away").iterdir()) == []
    assert [path.name for path in held.parent.rglob("*")] == ["v1", "mine"]


def test_a_dataset_of_another_lock_other_parameters_or_other_bytes_is_not_committed(
    workspace: Workspace,
) -> None:
    before = yaml.safe_load(workspace.params_path.read_text())["split"]["test_ratio"]
    curate(workspace)
    commit_version(workspace, "first", push=False)
    change(workspace, "curate", quality={"min_luma": 7.0})
    with pytest.raises(MisconfiguredError, match="other parameters"):
        commit_version(workspace, "no")
    change(workspace, "split", test_ratio=0.45)
    curate(workspace)
    with pytest.raises(GuaranteeBrokenError, match="drives never move between splits"):
        commit_version(workspace, "no")
    change(workspace, "split", test_ratio=before)
    curate(workspace)
    add(workspace, [arrival(picture(8000), vehicle="late", seq=1, drive="late")])
    write_lock(workspace)
    with pytest.raises(MisconfiguredError, match=r"another lake\.lock"):
        commit_version(workspace, "no")
    assert [version.id for version in list_versions(workspace)] == ["v1"]


def test_of_two_writers_one_waits_and_a_third_is_refused_by_name(workspace: Workspace) -> None:
    curate(workspace)
    command = [
        sys.executable,
        "-m",
        "fleetloop",
        "dataset",
        "commit",
        "-m",
        "both",
        "--workspace",
        str(workspace.root),
    ]
    environment = DvcRepository(workspace).environment()
    both = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [version.id for version in list_versions(workspace)] == ["v1"]
    assert sorted("Committed" in words for words in said) == [False, True]
    impatient = Workspace(workspace.root, type(workspace.settings)(lock_wait_s=0.0))
    with (
        FileLock(workspace.private_path / "dvc.lock"),
        pytest.raises(RetryLaterError, match="is held by process"),
    ):
        commit_version(impatient, "no")


def test_nothing_that_is_being_committed_is_replaced_meanwhile(workspace: Workspace) -> None:
    before = curate(workspace).manifest["digest"]
    add(workspace, [arrival(picture(7000 + n), vehicle="late", seq=n, drive="late") for n in range(3)])
    impatient = Workspace(workspace.root, type(workspace.settings)(lock_wait_s=0.0))
    locked = workspace.lake_lock_path.read_bytes()
    refused: list[str] = []

    def beside(label: str) -> None:
        if label in ("dataset.pin", "dataset.record"):
            for action in (write_lock, curate):
                with pytest.raises(RetryLaterError, match=r"dataset\.lock is held by process"):
                    action(impatient)
                refused.append(label)

    with watched(beside):
        version, _ = commit_version(workspace, "the beginning")
    assert len(refused) == 4
    assert version.digest == before
    assert DvcRepository(workspace).git("show", "dataset/v1:lake.lock").encode() == locked
    write_lock(impatient)
    assert curate(impatient).manifest["digest"] != before
    with dataset_lock(workspace), pytest.raises(RetryLaterError, match=r"dataset\.lock is held by process"):
        commit_version(impatient, "late data")
    assert commit_version(impatient, "late data")[0].parent == "v1"


def test_init_twice_changes_nothing_and_a_foreign_folder_is_refused(
    workspace: Workspace, tmp_path: Path
) -> None:
    files = {path: path.read_bytes() for path in workspace.root.glob("*") if path.is_file()}
    workspace.params_path.write_text("# mine\n" + workspace.params_path.read_text())
    files[workspace.params_path] = workspace.params_path.read_bytes()
    again = make_workspace(workspace.root, with_keys=False)
    assert {path: path.read_bytes() for path in workspace.root.glob("*") if path.is_file()} == files
    assert len(DvcRepository(again).git("log", "--oneline").splitlines()) == 1
    assert yaml.safe_load(workspace.params_path.read_text())["classes"] == list(CLASSES)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(MisconfiguredError, match="not empty"):
        make_workspace(foreign)
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("task", "parity"), [("classification", 0.98), ("detection", 0.9)])
def test_the_gate_of_a_new_workspace_asks_for_the_parity_that_its_task_can_keep(
    tmp_path: Path, task: str, parity: float
) -> None:
    place = make_workspace(tmp_path / "ws", classes=CLASSES, task=task, with_keys=False)
    params = yaml.safe_load(place.params_path.read_text())
    assert (params["task"], params["gate"]["min_parity_agreement"]) == (task, parity)


def test_init_makes_signing_keys_beside_the_workspace_and_never_inside(tmp_path: Path) -> None:
    place = make_workspace(tmp_path / "ws", classes=CLASSES)
    make_workspace(tmp_path / "ws")
    assert (place.tuf_path / "metadata" / "timestamp.json").is_file()
    private = list(place.keys_path.rglob("*.pem"))
    assert private and all(path.stat().st_mode & 0o077 == 0 for path in private)
    assert not list(place.root.rglob("*.pem"))

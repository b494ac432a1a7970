"""With real git and real DVC: a clone and a pull give back the dataset and the model, and no key ever leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fleetloop.cli import app
from foundation.errors import MisconfiguredError
from foundation.files import write_json_atomic
from pipelines.dataset.dvc import DvcRepository
from pipelines.dataset.lock import write_lock
from pipelines.dataset.make import curate
from pipelines.dataset.record import stage_states
from pipelines.dataset.versions import commit_version, list_versions
from tests.pipelines.curate_lake import clone_with_git
from tests.pipelines.stub_stages import LATER, workspace_with_stubs
from workspace.layout import Workspace
from workspace.served_models import ServedModel, serve

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    place = workspace_with_stubs(tmp_path / "ws", ".fleetloop/writer.py")
    write_lock(place)
    register(place, "v1", 1)
    serve(place, ServedModel("v1", "0" * 64))
    write_json_atomic(place.base_path, {"digest": "0" * 64, "name": "v1"})
    write_json_atomic(place.enrolment_path, {"format": 1, "keys": []})
    (place.registry_path / ".fleet.lock").write_text("1\n")
    return place


def register(place: Workspace, name: str, seed: int) -> None:
    folder = place.models_path / name
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(np.random.default_rng(seed).bytes(5000))
    write_json_atomic(folder / "model.json", {"name": name})


def commit(place: Workspace, message: str) -> dict[str, object]:
    words = ["dataset", "commit", "-m", message, "--workspace", str(place.root), "--json"]
    document: dict[str, object] = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    return document


def files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(".gitignore")}


@pytest.mark.timeout(600)  # eight runs of stages and ten of DVC
def test_a_clone_and_a_pull_give_back_the_dataset_and_the_model_byte_by_byte(
    workspace: Workspace, tmp_path: Path
) -> None:
    repository = DvcRepository(workspace)
    repository.repro("curate", "validate")
    first = commit(workspace, "first drives")
    assert (first["id"], first["is_new"]) == ("v1", True)
    recorded = dict.fromkeys(("curate", "validate"), "recorded")
    assert first["stages"] == recorded | dict.fromkeys(LATER, "not run")
    assert repository.git("status", "--porcelain") == ""
    repository.repro()
    register(workspace, "v2", 2)
    second = commit(workspace, "the model")
    assert (second["id"], second["is_new"], second["digest"]) == ("v1", False, first["digest"])
    assert second["stages"] == recorded | dict.fromkeys(LATER, "recorded")
    assert repository.git("status", "--porcelain") == "", "everything is committed, or ignored by name"
    assert repository.git("tag", "--list").split() == ["dataset/v1"]
    assert [version.id for version in list_versions(workspace)] == ["v1"]
    log = repository.git("log", "--format=%s").splitlines()
    assert log == ["After dataset v1: the model", "Dataset v1: first drives", "Start the workspace"]
    commit(workspace, "nothing more")
    assert repository.git("log", "--format=%s").splitlines() == log

    tracked = repository.git("ls-files").split("\n")
    assert {"registry/vehicles.json", "registry/served.jsonl", "reports/gate.json", "dvc.lock"} <= set(
        tracked
    )
    assert not [
        name for name in tracked if name.startswith(("lake/", "datasets/current", "registry/models/"))
    ]
    assert not [
        name for name in tracked if name.endswith((".pem", ".onnx", ".npz", ".parquet", ".fleet.lock"))
    ]

    clone = tmp_path / "clone"
    clone_with_git(workspace.root, clone)
    DvcRepository(Workspace.open(clone)).dvc("pull")
    for part in ("datasets/current", "models/candidate", "models/package", "registry/models"):
        assert files(clone / part) == files(workspace.root / part), part
        assert files(clone / part), part
    for name in ("training.json", "parity.json", "evaluation.json", "gate.json", "validation.json"):
        assert (clone / "reports" / name).read_bytes() == (workspace.reports_path / name).read_bytes()
    assert not (clone / "lake").exists()
    (workspace.root / "models" / "package" / "model.onnx").write_bytes(b"by hand")
    assert stage_states(repository)["package"] == "changed outs: models/package"


def test_a_clone_without_its_models_does_not_record_that_there_are_fewer(
    workspace: Workspace, tmp_path: Path
) -> None:
    curate(workspace)
    commit_version(workspace, "first", push=False)
    for path in (workspace.models_path / "v1").iterdir():
        path.unlink()
    (workspace.models_path / "v1").rmdir()
    (workspace.models_path / "v9").mkdir()
    (workspace.models_path / "v9" / "model.onnx").write_bytes(b"9")
    before = (workspace.registry_path / "models.dvc").read_bytes()
    with pytest.raises(
        MisconfiguredError, match=r"has 1 files, but registry/models\.dvc records 2: .*dvc pull"
    ):
        commit_version(workspace, "second")
    assert (workspace.registry_path / "models.dvc").read_bytes() == before


def test_a_private_key_is_never_committed_wherever_it_lies(workspace: Workspace) -> None:
    repository = DvcRepository(workspace)
    curate(workspace)
    key = next(workspace.keys_path.rglob("*.pem")).read_bytes()
    assert b"PRIVATE KEY" in key
    before = repository.git("log", "--format=%H")
    workspace.reports_path.mkdir(exist_ok=True)
    for place in ("registry/backup.pem", "reports/notes.json"):
        (workspace.root / place).write_bytes(key)
        with pytest.raises(MisconfiguredError, match=rf"{place} holds a private key"):
            commit_version(workspace, "first", push=False)
        (workspace.root / place).unlink()
    assert repository.git("log", "--format=%H") == before
    assert repository.git("diff", "--cached", "--name-only") == ""


def test_keys_that_the_settings_put_inside_the_workspace_stay_out_of_git(workspace: Workspace) -> None:
    repository = DvcRepository(workspace)
    curate(workspace)
    workspace.keys_path.rename(workspace.registry_path / "keys")
    config = workspace.root / "fleetloop.toml"
    config.write_text(config.read_text().replace('keys = ""', 'keys = "registry/keys"'))
    commit_version(Workspace.open(workspace.root), "first", push=False)
    assert "registry/keys" not in repository.git("log", "--all", "--name-only", "--format=")
    assert "registry/vehicles.json" in repository.git("ls-files")

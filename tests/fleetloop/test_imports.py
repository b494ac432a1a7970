"""A missing extra, and a module of somebody else with one of our names, get a clear word or do no harm."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fleetloop.imports import EXTRA_OF, PACKAGES, explain

ROOT = Path(__file__).parents[2]


def run(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def without(module: str, *words: str) -> list[str]:
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['fleetloop', *{list(words)!r}];"
        "from fleetloop.cli import main; main()"
    )
    return ["-P", "-c", code]


def test_a_working_folder_with_modules_of_our_names_changes_nothing(tmp_path: Path) -> None:
    for name in PACKAGES - {"fleetloop"}:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the module of somebody else')\n")
    done = run(["-m", "fleetloop", "ingest", "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "log" in done.stdout


def test_a_package_that_hides_one_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "__init__.py").write_text("")
    done = run(["-P", "-m", "fleetloop", "ingest", "--help"], tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 78
    assert "package schemas is hidden by" in done.stderr and str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_that_wrote_over_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"schemas": ["fleetloop", "acme"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    told = explain(ImportError("cannot import name 'Sample'", name="schemas.records"))
    assert "acme" in told and "environments of their own" in told
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    assert "install it again" in explain(ImportError("cannot import name 'Sample'", name="schemas.records"))
    assert explain(ImportError("no module", name="somebody_elses")) == ""


@pytest.mark.parametrize(
    ("module", "words"), [("apache_beam", ("ingest",)), ("deltalake", ("lake", "status"))]
)
def test_a_missing_extra_is_named_with_what_installs_it(
    module: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "fleetloop.toml").write_text("")
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "vehicles.json").write_text('{"format": 1, "keys": []}')
    done = run(without(module, *words), tmp_path)
    assert done.returncode == 78, done.stderr
    assert "pip install 'fleetloop[cloud]'" in done.stderr and module in done.stderr
    assert "Traceback" not in done.stderr


def test_init_without_dvc_names_the_extra_and_makes_no_repository(tmp_path: Path) -> None:
    done = run(without("dvc", "init", "ws"), tmp_path)
    assert done.returncode == 78
    assert "fleetloop[cloud]" in done.stderr
    assert not (tmp_path / "ws" / ".git").exists()


def test_every_package_of_the_tree_is_shipped_checked_and_known_here() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tool = project["tool"]
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests", "scripts"}
    assert set(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == found
    assert set(tool["mypy"]["packages"]) == found
    assert set(tool["importlinter"]["root_packages"]) == found
    assert found == PACKAGES


def test_every_extra_that_is_named_exists() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for extra in set(EXTRA_OF.values()):
        assert f"\n{extra} = [" in text, extra
    for package in PACKAGES:
        assert (ROOT / package).is_dir()

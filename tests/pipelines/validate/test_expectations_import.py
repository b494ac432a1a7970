"""The slow import of Great Expectations is paid by whoever judges with it, once, and by nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.dataset.make import curate
from tests.pipelines.curate_lake import PARAMS, fleet_rows, label_rows, make_workspace
from workspace.layout import Workspace

ROOT = Path(__file__).parents[3]
SPY = '''\
"""Notes every process that goes to import great_expectations: one file a process."""
import os, pathlib, sys

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "great_expectations":
            note = pathlib.Path(os.environ["SPY_FOLDER"]) / str(os.getpid())
            with note.open("a") as out:
                print(name, file=out)
        return None

sys.meta_path.insert(0, Spy())
'''


class Spied:
    """Runs a Python process, and knows which processes below it imported Great Expectations."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self.notes.mkdir(parents=True)
        (folder / "sitecustomize.py").write_text(SPY)
        path = os.pathsep.join([str(folder), str(ROOT)])
        self.environment = {**os.environ, "PYTHONPATH": path, "SPY_FOLDER": str(self.notes)}

    def run(self, *words: str) -> tuple[int, str]:
        """The process id and what it printed on standard output. Fails when it failed."""
        child = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=self.environment, text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        out, error = child.communicate(timeout=200)
        assert child.returncode == 0, error[-3000:]
        return child.pid, out

    @property
    def importers(self) -> dict[int, int]:
        """Process id -> how many times it went to import it."""
        return {int(note.name): len(note.read_text().splitlines()) for note in self.notes.iterdir()}


@pytest.fixture
def spied(tmp_path: Path) -> Spied:
    return Spied(tmp_path / "spy")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    rows = fleet_rows(6, 4)
    return make_workspace(tmp_path / "ws", rows, label_rows(rows), params=PARAMS)


def test_the_spy_sees_an_import(spied: Spied) -> None:
    pid, _ = spied.run("-c", "import great_expectations")
    assert spied.importers == {pid: 1}


def test_loading_the_commands_does_not_load_great_expectations(spied: Spied) -> None:
    names = ", ".join(f"fleetloop.commands.{name}" for name in ("curate", "validate", "dataset", "status"))
    show = f"import sys, {names}; print(any('great_expectations' in m for m in sys.modules))"
    assert spied.run("-c", show)[1].strip() == "False"
    assert spied.importers == {}


@pytest.mark.slow
def test_curating_and_the_fast_rules_do_without_it(spied: Spied, workspace: Workspace) -> None:
    spied.run("-m", "fleetloop", "curate", "--workspace", str(workspace.root))
    _, out = spied.run("-m", "fleetloop", "validate", "--fast", "--json", "--workspace", str(workspace.root))
    assert {rule["great_expectations_failing_rows"] for rule in json.loads(out)["rules"]} == {None}
    assert spied.importers == {}


@pytest.mark.slow
def test_one_run_of_validate_imports_it_in_one_process_once(spied: Spied, workspace: Workspace) -> None:
    curate(workspace)
    pid, out = spied.run("-m", "fleetloop", "validate", "--json", "--workspace", str(workspace.root))
    assert {rule["great_expectations_failing_rows"] for rule in json.loads(out)["rules"]} == {0}
    assert spied.importers == {pid: 1}

"""A session gets a temporary folder of its own, and fails when something is left in it.

Each worker has a subfolder, so that what is left can be traced to the test after which it was first seen. The folders
of pytest's own fixtures stay where pytest puts them. Processes that tests start inherit the folder as TMPDIR.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = "FLEETLOOP_TEST_TMP"
_PYTEST_ROOT: Final = "PYTEST_DEBUG_TEMPROOT"


class Leftovers:
    """Watches one temporary folder: `look` after each test, `left` at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen_after: dict[str, str] = {}

    def look(self, test: str) -> None:
        """Note what is new in the folder."""
        for name in self._names():
            self._seen_after.setdefault(name, test)

    def left(self) -> dict[str, str]:
        """Each entry that is still there, and the test after which it was first seen."""
        return {name: self._seen_after.get(name, "?") for name in self._names()}

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir())


class LeftoversPlugin:
    """The pytest plugin: see the module."""

    def __init__(self, config: pytest.Config) -> None:
        self._is_worker = hasattr(config, "workerinput")
        self._found: dict[str, str] = {}
        if not self._is_worker:
            os.environ.setdefault(_PYTEST_ROOT, tempfile.gettempdir())
            os.environ[_ROOT] = tempfile.mkdtemp(prefix="fleetloop-tests-")
        worker = config.workerinput["workerid"] if self._is_worker else "main"  # type: ignore[attr-defined]
        folder = Path(os.environ[_ROOT]) / worker
        folder.mkdir()
        os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None  # asked again, so that it is the new folder
        self._here = Leftovers(folder)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Called after the teardown of each test, in the process that ran it."""
        self._here.look(nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A worker tells the controller; the controller, or the only process, decides."""
        self._found |= self._here.left()
        if self._is_worker:
            session.config.workeroutput["leftovers"] = self._found  # type: ignore[attr-defined]
            return
        shutil.rmtree(os.environ[_ROOT], ignore_errors=True)
        if self._found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object) -> None:
        """What a worker of pytest-xdist left."""
        output: Mapping[str, Mapping[str, str]] = getattr(node, "workeroutput", None) or {}
        self._found |= output.get("leftovers", {})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name what was left, and after which test."""
        if self._found:
            terminalreporter.section("left in the temporary folder", red=True)
            for name, test in self._found.items():
                terminalreporter.line(f"{name}: first seen after {test}")

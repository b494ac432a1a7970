"""A demo that is ended in the middle ends everything that it started, says how far it came, and can be run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.conditions import DEMO_DATA, ROOT, needs_demo_pictures
from tests.waiting import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    needs_demo_pictures,
]
PATIENCE_S = 280.0


def processes_about(folder: Path) -> list[str]:
    """Living processes with the folder in their command line, or working inside it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            where = str((process / "cwd").readlink())
        except OSError:
            continue  # it ended, or is a zombie
        if (
            command
            and int(process.name) != os.getpid()
            and (str(folder) in command or where.startswith(str(folder)))
        ):
            found.append(f"{process.name} {command}")
    return found


def meanwhile(demo: subprocess.Popen[bytes], holds: Callable[[], object], why: str) -> None:
    """Wait until it holds while the demo runs."""

    def has_come() -> object:
        assert demo.poll() is None, f"the demo ended with {demo.poll()} before: {why}"
        return holds()

    until(has_come, why, PATIENCE_S, poll_s=0.2)


def is_under_way(out: Path, left_over: Path) -> bool:
    return any(out.glob("workspace/*")) and not left_over.exists()


def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "fleetloop",
        "demo",
        "--scale",
        "0.15",
        "--out",
        str(out),
        "--wheel-folder",
        str(DEMO_DATA),
    ]
    with log.open("wb") as stream:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )


def heed_interrupts() -> None:
    """A shell's background job ignores SIGINT, and so would the demo when the tests run in one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: signal.Signals(number).name
)
def test_nothing_goes_on_after_the_demo_was_interrupted(number: int, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    demo = start(out, log)
    try:
        if number == signal.SIGINT:
            meanwhile(demo, lambda: list(out.glob("vehicles/*/agent.log")), "the vehicles drive")
            os.killpg(demo.pid, number)  # what a terminal does on Ctrl-C
        else:
            meanwhile(demo, lambda: list(out.glob("workspace/*")), "a command runs")
            demo.send_signal(number)
        status = demo.wait(PATIENCE_S)
    finally:
        demo.kill()
    said = log.read_text()
    assert status == 130, said
    assert "interrupted during: " in said and "starts afresh" in said
    until(lambda: not processes_about(out), "no process is left")
    result = json.loads((out / "result.json").read_text())
    assert result["error"].startswith("interrupted during: ")
    assert result["guarantees"] == []


def test_after_an_interruption_the_next_demo_begins_in_the_same_folder(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    for turn in range(2):
        left_over = out / "workspace" / "of-an-earlier-demo"
        demo = start(out, log)
        try:
            meanwhile(demo, partial(is_under_way, out, left_over), f"demo {turn} is under way")
        finally:
            demo.send_signal(signal.SIGINT)
            assert demo.wait(PATIENCE_S) == 130, log.read_text()
        left_over.touch()
    assert not processes_about(out)

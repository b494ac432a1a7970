"""docs/tutorial.md as a script, and a shell that runs it as typed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.conditions import ROOT


def blocks_of(number: int) -> list[str]:
    """The commands of the first or the second part of the page, block by block."""
    return re.findall(r"^```sh\n(.*?)^```", part(number), flags=re.MULTILINE | re.DOTALL)


def part(number: int) -> str:
    """The first or the second part of the page."""
    return (ROOT / "docs" / "tutorial.md").read_text().split("\n# Part two")[number - 1]


def run_as_typed(script: str, folder: Path) -> str:
    """What the script printed. Fails with its last words when a command of it failed."""
    environment = {
        **os.environ,
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
    }
    log = folder / "tutorial.log"
    with log.open("wb") as out:
        shell = subprocess.Popen(["bash", "-x", "-c", script], cwd=folder, env=environment, stdout=out,
                                 stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        try:
            status = shell.wait(timeout=1150)
        finally:
            try:
                os.killpg(shell.pid, signal.SIGKILL)  # whatever the script left behind
            except ProcessLookupError:
                pass
    said = log.read_text(errors="replace")
    assert status == 0, said[-4000:]
    return said

"""A child process of ours starts and ends with its parent, whenever a signal comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conditions import ROOT

INTERRUPTED_WHILE_FORKING = """\
import os, signal, sys
from devservers.child_process import ChildProcess

os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.{number}))
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.default_int_handler)
try:
    ChildProcess([sys.executable, "-c", "import signal; signal.pause()"], None)
except KeyboardInterrupt:
    print("interrupted")
print(open(f"/proc/self/task/{{os.getpid()}}/children").read().split())
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_comes_within_the_fork_still_interrupts_and_leaves_no_child(
    number: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_FORKING.format(number=number)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["interrupted", "[]"], done.stderr

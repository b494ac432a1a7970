"""Tests wait for what happens, never for time to pass: real sleeps are in a short list, each with its reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "tests/waiting.py": "the poll of `until`",
    "tests/uplinks.py": "a slow or late network takes real time",
    "tests/soak/__main__.py": "the pause between two measurements of a long run",
    "tests/torture/agent_recovery.py": "polls killed processes",
    "tests/torture/broker_cluster.py": "asks a cluster again that is still starting",
    "tests/torture/broker_day.py": "real time goes along with simulated time: the broker is a real one",
    "tests/torture/broker_gate.py": "stays refused past the stall, when the client is made anew",
    "tests/torture/broker_ride.py": "measures memory and rates over time",
    "tests/edge_agent/hang_shim/sitecustomize.py": "the model of a child process that never answers",
    "tests/torture/disk_everywhere.py": "looks how full the disk of a forked child is",
    "tests/torture/faults/agent_hangs.py": "the random moment of a hang",
    "tests/torture/faults/agent_kills.py": "the random moment of a kill",
    "tests/torture/faults/broker.py": "how long an outage lasts",
    "tests/torture/faults/broker_nodes.py": "how long followers are frozen and answers are lost",
    "tests/torture/models_attempt.py": "polls killed processes",
    "tests/torture/models_cuts.py": "polls what a socket has still to send",
    "tests/torture/models_vehicle.py": "the loop of a child process, as deliver has it",
    "tests/torture/pipeline_fork.py": "polls a forked child",
    "tests/torture/power_strace.py": "polls a traced child",
}
"""The fault campaign is about outages that last; everything else waits with `tests.waiting.until`."""
CLOCKS = {"time", "asyncio", "SystemClock()"}


def sleeps(source: str) -> list[str]:
    """Each real sleep in a module's text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and ast.unparse(node.value) in CLOCKS:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.ImportFrom) and node.module in CLOCKS:
            found += [f"line {node.lineno}: imports sleep" for name in node.names if name.name == "sleep"]
        if isinstance(node, ast.Import):
            found += [
                f"line {node.lineno}: renames time" for a in node.names if a.name == "time" and a.asname
            ]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "time.sleep(" in node.value:
            found.append(f"line {node.lineno}: sleeps in a child's code")
    return found


def test_only_the_listed_files_sleep() -> None:
    found = {
        name: told
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if (name := path.relative_to(ROOT).as_posix()) != Path(__file__).relative_to(ROOT).as_posix()
        and (told := sleeps(path.read_text()))
    }
    assert {name: told for name, told in found.items() if name not in ALLOWED} == {}
    assert sorted(set(ALLOWED) - set(found)) == [], "these sleep no more: take them off the list"


@pytest.mark.parametrize(
    "text",
    ["time.sleep(1)", "from time import sleep", "import time as t", "SystemClock().sleep(0.1)",
     "await asyncio.sleep(1)", "partial(time.sleep, 1)", "code = 'import time; time.sleep(60)'"],
)  # fmt: skip
def test_the_check_itself_finds_each_way_to_sleep(text: str) -> None:
    assert sleeps(f"async def f():\n    {text}")


def test_a_clock_that_is_driven_by_hand_is_no_sleep() -> None:
    assert sleeps("clock.sleep(3)\nManualClock().sleep(3)\nsignal.pause()") == []

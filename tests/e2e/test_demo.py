"""The demo itself: it ends well, says what it must, and leaves nothing running and nothing dirty."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conditions import DEMO_DATA, ROOT, needs_demo_pictures

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    needs_demo_pictures,
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        [sys.executable, "-m", "fleetloop", "demo", "--out", str(out),
         "--wheel-folder", str(DEMO_DATA)],
        cwd=ROOT, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "report.html" in done.stdout
    return out, json.loads((out / "result.json").read_text())


def test_every_guarantee_that_it_exercises_held(demo: tuple[Path, dict[str, Any]]) -> None:
    found = {g["number"]: g["held"] for g in demo[1]["guarantees"]}
    assert found == dict.fromkeys((1, 2, 3, 4, 5, 6, 8, 9, 10), True)
    assert all(g["evidence"] for g in demo[1]["guarantees"])


def test_the_result_has_what_a_program_needs(demo: tuple[Path, dict[str, Any]]) -> None:
    result = demo[1]
    assert {"dataset", "seed", "seconds", "accuracy", "labels_used", "bytes", "ledger", "lake", "dataset_version", "releases",
            "vehicles", "guarantees", "simulated"} <= result.keys()  # fmt: skip
    for found in result["accuracy"]["by_class"].values():
        low, high = found["interval"]
        assert found["n"] > 0 and low <= found["after"] <= high
    assert set(result["dataset_version"]) >= {"id", "digest", "rows", "splits"}
    assert all({"id", "model", "swaps", "rollbacks"} <= set(v) for v in result["vehicles"])
    assert result["simulated"] and all(isinstance(line, str) for line in result["simulated"])


def test_the_counts_balance(demo: tuple[Path, dict[str, Any]]) -> None:
    ledger, lake = demo[1]["ledger"], demo[1]["lake"]
    evicted = sum(ledger["evicted"].values())
    in_doubt = (
        sum(ledger["in_doubt"].values()) if isinstance(ledger["in_doubt"], dict) else ledger["in_doubt"]
    )
    assert ledger["accepted"] == ledger["delivered"] + ledger["pending"] + evicted + in_doubt
    assert demo[1]["captured_frames"] == ledger["accepted"] + sum(ledger["not_accepted"].values())
    assert lake["offsets"] == lake["landed"] + lake["resent"] + lake["rejected"]
    assert lake["landed"] == ledger["delivered"]
    assert lake["resent"] >= 20, "the repeated records are resends"
    assert lake["rejected"] == 6 and len(lake["rejected_by_reason"]) == 6
    size = demo[1]["bytes"]
    assert 0 < size["uploaded"] < size["captured"]


def test_the_model_got_better_where_it_was_weak(demo: tuple[Path, dict[str, Any]]) -> None:
    accuracy = demo[1]["accuracy"]
    assert accuracy["after"] > accuracy["before"]
    assert accuracy["by_class"]["yellow"]["before"] == 0.0 < accuracy["by_class"]["yellow"]["after"]
    assert demo[1]["labels_used"] <= 350


def test_the_three_releases_end_as_they_must(demo: tuple[Path, dict[str, Any]]) -> None:
    good, forged, bad = demo[1]["releases"]
    assert good["outcome"] == "complete"
    assert forged["outcome"] == "never loaded"
    assert "rolled back" in bad["outcome"] and "halted" in bad["outcome"]
    assert {v["model"] for v in demo[1]["vehicles"]} == {"v2"}
    assert sum(v["rollbacks"] for v in demo[1]["vehicles"]) == 1


def test_it_leaves_no_process_and_a_clean_source_tree(demo: tuple[Path, dict[str, Any]]) -> None:
    out = str(demo[0])
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            assert out not in words, f"process {process.name} is still there: {words}"
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=normal"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "out/" not in dirty


def test_the_workspace_goes_on_where_the_demo_ended(demo: tuple[Path, dict[str, Any]]) -> None:
    workspace = demo[0] / "workspace"
    done = subprocess.run(
        [sys.executable, "-m", "fleetloop", "status", "--workspace", str(workspace), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    status = json.loads(done.stdout)
    assert status["serving"]["name"] == "v2"
    assert status["dataset"]["digest"] == demo[1]["dataset_version"]["digest"]
    assert status["models_by_vehicle"] == {v["id"]: "v2" for v in demo[1]["vehicles"]}


def test_a_folder_that_no_demo_made_is_never_cleared(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "fleetloop", "demo", "--out", str(tmp_path), "--wheel-folder", str(DEMO_DATA)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert "no demo made" in done.stderr
    assert (tmp_path / "precious").read_text() == "mine"

"""docs/tutorial.md runs, block by block, as a newcomer would type it, and leaves what it says behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devservers.child_process import free_port
from tests.conditions import DEMO_DATA, ROOT, needs_demo_pictures, needs_embedded_broker
from tests.e2e.own_pictures import TODAY, bring_own_things

CHAPTERS = 10
TYPED_PORT = "9292"
"""A person types this one; here a free port takes its place, so that nothing else on the machine joins the broker."""
OWN_PORT = "9393"
ASKED_OF_THE_OWN = {
    "ledger": "agent ledger --state my-car/state",
    "other_ledger": "agent ledger --state other-car/state",
    "agent": "agent status --state my-car/state",
    "other_agent": "agent status --state other-car/state",
    "status": "status --workspace own",
    "versions": "dataset list --workspace own",
}
ASKED_AT_THE_END = {
    "agent": "agent status --state car/state",
    "ledger": "agent ledger --state car/state",
    "ledger_2": "agent ledger --state car-2/state",
    "rollout": "rollout status --offline --workspace workspace",
    "releases": "release list --workspace workspace",
    "status": "status --workspace workspace",
    "versions": "dataset list --workspace workspace",
    "diff": "dataset diff v1 v2 --workspace workspace",
    "letters": "deadletter list --workspace workspace",
}
"""Asked with --json when the tutorial is over; no broker runs any more."""


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_demo_pictures
def test_every_command_of_the_tutorial_runs_and_leaves_what_it_says(tmp_path: Path) -> None:
    text = part(1)
    assert len(re.findall(r"^## \d+\. ", text, flags=re.MULTILINE)) == CHAPTERS
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == CHAPTERS + 1, "one block a chapter, and two on the second car"
    asked = [f"fleetloop {words} --json > {name}.json" for name, words in ASKED_AT_THE_END.items()]
    (tmp_path / ".cache").mkdir()
    shutil.copytree(DEMO_DATA, tmp_path / ".cache" / "data")
    script = "\n".join(["set -eu", *blocks, *asked])
    assert script.count(TYPED_PORT) > 1, "the tutorial's broker has another port now"
    said = run_as_typed(script.replace(TYPED_PORT, str(free_port())), tmp_path)

    here = tmp_path / "out" / "tutorial"
    found: dict[str, Any] = {
        name: json.loads((here / f"{name}.json").read_text()) for name in ASKED_AT_THE_END
    }
    check_the_ledgers(found, said)
    check_the_versions(found, here)
    check_the_model(found, json.loads((here / "workspace/reports/gate.json").read_text()))


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


def check_the_ledgers(found: dict[str, Any], said: str) -> None:
    for name in ("ledger", "ledger_2"):
        ledger = found[name]
        assert ledger["balances"] and not ledger["problems"], ledger["problems"]
        assert ledger["pending"] == 0
        assert ledger["accepted"] == ledger["delivered"] + ledger["in_doubt"] + sum(
            ledger["evicted"].values()
        )
        assert ledger["delivered"] > 20
    assert len(found["ledger_2"]["epochs"]) == 2, "the second car was killed, and started again"
    arrivals = found["status"]["lake"]["arrivals"]
    assert arrivals["landed"] == found["ledger"]["delivered"], "what the first car delivered, each once"
    replay = re.search(r"tried (\d+): landed (\d+), resent (\d+), still rejected: none", said)
    assert replay is not None, "the replay must land every record of the second car"
    tried, landed, resent = map(int, replay.groups())
    assert tried == arrivals["rejected"] == landed + resent
    assert landed == found["ledger_2"]["delivered"], "what the second car delivered, each once"
    assert found["letters"]["count"] == 0


def check_the_versions(found: dict[str, Any], here: Path) -> None:
    first, second = found["versions"]
    assert (first["id"], second["id"], second["parent"]) == ("v1", "v2", "v1")
    assert found["status"]["dataset"] == {key: second[key] for key in ("id", "digest", "rows")}
    assert json.loads((here / "version-1" / "manifest.json").read_text())["digest"] == first["digest"]
    diff = found["diff"]
    assert diff["added"] > 0
    assert (diff["moved"], diff["relabelled"]) == (0, 0)
    assert second["rows"] == first["rows"] + diff["added"] - diff["removed"]


def check_the_model(found: dict[str, Any], gate: dict[str, Any]) -> None:
    (release,) = found["releases"]["releases"]
    assert release["gate"]["passed"] == gate["passed"]
    assert (release["gate"]["override"] is None) == gate["passed"], "an override only where the gate refused"
    (plan,) = found["rollout"]["plans"]
    assert (plan["release_id"], plan["state"], plan["halt_reason"]) == ("second-model", "complete", "")
    vehicle = found["rollout"]["vehicles"]["vehicle-1"]
    assert (vehicle["model_name"], vehicle["model_digest"]) == ("v2", release["model_digest"])
    agent = found["agent"]
    assert (agent["model"]["name"], agent["model"]["digest"]) == ("v2", release["model_digest"])
    assert (agent["model"]["state"], agent["swaps"], agent["rollbacks"]) == ("serving", 1, 0)
    assert found["status"]["serving"] == {"name": "v2", "digest": release["model_digest"]}
    assert found["status"]["models_by_vehicle"]["vehicle-1"] == "v2"


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_embedded_broker
def test_own_pictures_labels_and_model_go_round_the_loop(tmp_path: Path) -> None:
    bring_own_things(tmp_path)
    blocks = re.findall(r"^```sh\n(.*?)^```", part(2), flags=re.MULTILINE | re.DOTALL)
    asked = [f"fleetloop {words} --json > {name}.json" for name, words in ASKED_OF_THE_OWN.items()]
    script = "\n".join(["set -eu", *blocks, *asked])
    assert script.count(OWN_PORT) > 1, "the page's broker has another port now"
    said = run_as_typed(script.replace(OWN_PORT, str(free_port())), tmp_path)
    found: dict[str, Any] = {
        name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ASKED_OF_THE_OWN
    }
    for name in ("ledger", "other_ledger"):
        assert found[name]["balances"] and found[name]["pending"] == 0
        assert (found[name]["accepted"], found[name]["delivered"]) == (TODAY.readable, TODAY.readable)
        assert found[name]["not_accepted"]["unreadable_image"] == TODAY.unreadable
    left_out = found["agent"]["source_notes"]
    assert sum(count for words, count in left_out.items() if words.startswith("left out")) == TODAY.left_out
    assert found["other_agent"]["model"]["name"] == "mine"
    assert found["status"]["lake"]["arrivals"]["landed"] == 2 * TODAY.readable
    assert len(found["versions"]) == 1 and found["versions"][0]["rows"] > 0
    answers = [json.loads(line) for line in (tmp_path / "desk.jsonl").read_text().splitlines()]
    boxes = [json.loads(line) for line in (tmp_path / "boxes.jsonl").read_text().splitlines()]
    assert len(answers) == TODAY.readable and sum(len(each["boxes"]) for each in boxes) == TODAY.readable
    evaluation = json.loads((tmp_path / "boxes" / "reports" / "evaluation.json").read_text())
    assert (evaluation["metric"], evaluation["candidate_name"]) == ("mAP50", "finder-2")
    assert evaluation["summary"]["overall"]["n"] > 0
    assert re.search(r"cone \(\d\.\d+\)", said) and re.search(r"sign \(\d\.\d+\)", said)

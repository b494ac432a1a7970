"""The first part of docs/tutorial.md runs, block by block, as a newcomer would type it, and leaves what it says behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from devservers.child_process import free_port
from tests.conditions import DEMO_DATA, needs_demo_pictures
from tests.e2e.tutorial_page import blocks_of, part, run_as_typed

CHAPTERS = 10
TYPED_PORT = "9292"
"""A person types this one; here a free port takes its place, so that nothing else on the machine joins the broker."""
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
    blocks = blocks_of(1)
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

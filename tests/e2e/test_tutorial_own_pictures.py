"""The second part of docs/tutorial.md runs as a newcomer would type it, with pictures, labels and a model of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from devservers.child_process import free_port
from tests.conditions import needs_embedded_broker
from tests.e2e.own_pictures import TODAY, bring_own_things
from tests.e2e.tutorial_page import blocks_of, run_as_typed

OWN_PORT = "9393"
ASKED_OF_THE_OWN = {
    "ledger": "agent ledger --state my-car/state",
    "other_ledger": "agent ledger --state other-car/state",
    "agent": "agent status --state my-car/state",
    "other_agent": "agent status --state other-car/state",
    "status": "status --workspace own",
    "versions": "dataset list --workspace own",
}


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_embedded_broker
def test_own_pictures_labels_and_model_go_round_the_loop(tmp_path: Path) -> None:
    bring_own_things(tmp_path)
    blocks = blocks_of(2)
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

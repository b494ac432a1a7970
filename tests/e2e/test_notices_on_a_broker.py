"""A vehicle that looks once a minute takes a release seconds after it was published, because it was told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
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
from rollout.repository import init_repository
from tests.conditions import needs_embedded_broker
from tests.fakes.models import tiny_contract, tiny_model
from tests.waiting import until
from workspace.layout import CONFIG_NAME, Workspace

pytestmark = [
    pytest.mark.slow,
    needs_embedded_broker,
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


def test_a_notice_makes_a_vehicle_look_at_once(tmp_path: Path, broker: EmbeddedBroker) -> None:
    field = Field(tmp_path, broker.bootstrap)
    slots = SlotFolder(field.state.root)
    words = [sys.executable, "-m", "edge_agent.deliver", "--config", str(field.agent_toml)]
    process = subprocess.Popen(words, cwd=ROOT)
    try:
        until(lambda: field.told("notices").get("listening") is True, "the vehicle listens")
        until(lambda: field.told("models").get("refreshes", 0) == 2, "it looks after it began to listen")
        why = ("--override-by", "ana", "--override-why", "bench")
        field.run("release", "create", "--model", str(field.models["v2"]), "--id", "r2", *why)
        field.configure(notice_wait_s=10.0)
        assert field.run("rollout", "start", "r2")["notified"] is True
        until(lambda: slots.read_candidate() is not None, "a candidate", limit_s=INTERVAL_S / 2)
        assert build_status(field.state.root)["notices"] == field.told("notices")
        assert int(str(field.told("notices")["heard"])) >= 1
        process.terminate()
        assert process.wait(20) == 0
        assert field.told("models")["refreshes"] == 3, (
            "one look for one notice: nobody told it of the release"
        )
    finally:
        process.kill()
        process.wait(10)

"""Vehicles with their real agents, a broker, and `ingest --follow`, as processes on this machine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from connectors.kafka.admin import ensure_topics
from connectors.kafka.settings import KafkaSettings
from devservers.child_process import ChildProcess
from devservers.embedded_broker import EmbeddedBroker
from edge_agent.key_file import load_key
from schemas.enrolment import EnrolledKey, Enrolment
from tests.edge_agent.agent_bench import WALL_NS, enrol, png
from workspace.enrolment_file import save_enrolment

ROOT = Path(__file__).parents[2]
FRAMES = 200
CONFIG = """
vehicle_id = "{name}"
state_folder = "state"
[source]
kind = "image_folder"
path = "recording"
rate_hz = {rate_hz}
loop = true
[selection]
limits_tracks = false
[selection.uncertainty]
enabled = false
[selection.random]
probability = 0.5
[upload.kafka]
bootstrap = "{bootstrap}"
[telemetry]
interval_s = 2.0
"""


class Rig:
    """Everything under `folder`; enter it to start, leave it to end what it started."""

    def __init__(self, folder: Path, vehicles: int, rate_hz: float) -> None:
        self.folder = folder
        self.workspace = folder / "workspace"
        self.names = [f"car-{number}" for number in range(1, vehicles + 1)]
        self._rate_hz = rate_hz
        self.broker = EmbeddedBroker()
        self.processes: dict[str, ChildProcess] = {}

    def __enter__(self) -> Rig:
        self.broker.start()
        ensure_topics(KafkaSettings(bootstrap=self.broker.bootstrap))
        enrolment = Enrolment()
        for name in self.names:
            place = self.folder / name
            enrol(place / "state", name)
            key = load_key(place / "state" / "key.pem")
            enrolment = enrolment.with_key(EnrolledKey(name, key.key_id, key.public_b64, WALL_NS))
            drive = place / "recording" / f"drive-{name}"
            drive.mkdir(parents=True)
            for number in range(FRAMES):
                (drive / f"{number:05d}.png").write_bytes(png(number))
            config = CONFIG.format(name=name, rate_hz=self._rate_hz, bootstrap=self.broker.bootstrap)
            (place / "agent.toml").write_text(config)
        (self.workspace / "registry").mkdir(parents=True)
        (self.workspace / "fleetloop.toml").write_text(
            f'name = "soak"\nbootstrap = "{self.broker.bootstrap}"\n'
        )
        (self.workspace / "params.yaml").write_text("{}\n")
        save_enrolment(enrolment, self.workspace / "registry" / "vehicles.json")
        for name in self.names:
            config_path = str(self.folder / name / "agent.toml")
            self._start(f"agent {name}", "agent", "run", "--config", config_path)
        follow = ("--follow", "--poll-s", "2", "--fresh-s", "5")
        self._start("ingest", "ingest", "--workspace", str(self.workspace), *follow)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill_group()
        self.broker.stop()

    def _start(self, name: str, *words: str) -> None:
        self.processes[name] = self._child(self.folder / f"{name.replace(' ', '-')}.log", *words)

    def _child(self, log: Path, *words: str) -> ChildProcess:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        return ChildProcess([sys.executable, "-m", "fleetloop", *words], log, folder=ROOT, env=environment)

    def status(self) -> dict[str, object]:
        """Run `fleetloop status` as an operator does."""
        log = self.folder / "status.json"
        log.unlink(missing_ok=True)
        child = self._child(log, "status", "--json", "--workspace", str(self.workspace))
        assert child.wait(120.0) == 0, log.read_text()
        document: dict[str, object] = json.loads(log.read_text())
        return document

    def ingest_seconds(self, after_line: int) -> tuple[list[float], int]:
        """Return how long each run of ingest took since a line of its log, and the line to go on from."""
        log = self.folder / "ingest.log"
        lines = log.read_text().splitlines() if log.exists() else []
        found = [json.loads(line)["seconds"] for line in lines[after_line:] if line.startswith("{")]
        return found, len(lines)

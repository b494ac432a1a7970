"""A vehicle under a load that is told to the checker, its uplink, a workspace, and the checker as a program."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from connectors.kafka.settings import KafkaSettings
from connectors.kafka.source import KafkaSource
from edge_agent.state_folder import StateFolder, read_status
from edge_agent.status import build_status, is_alive
from schemas.signing import EnrolledKey, Enrolment, VehicleKey
from schemas.wire import TOPICS
from tests.edge_agent.agent_bench import WALL_NS, enrol
from workspace.enrolment_file import save_enrolment

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90.0

CONFIG = """
vehicle_id = "{vehicle}"
state_folder = "state"
[source]
kind = "image_folder"
path = "recording"
rate_hz = {rate_hz}
loop = {loop}
[selection]
limits_tracks = false
[selection.uncertainty]
enabled = false
[selection.random]
probability = {probability}
[spool]
receipt_path = "{receipts}"
{spool}
[upload]
drain_s = {drain_s}
[upload.kafka]
bootstrap = "{bootstrap}"
{kafka}
[upload.pace]
lease_bytes = {lease_bytes}
backoff_first_s = 0.1
backoff_max_s = 0.5
{pace}
[telemetry]
interval_s = 1.0
[health]
enabled = false
[supervisor]
backoff_first_s = 0.05
backoff_max_s = 0.2
stop_s = 20.0
{supervisor}
"""


def picture(number: int) -> bytes:
    """A picture of noise, 5 to 20 kB, another for each number and the same for the same."""
    rng = np.random.default_rng(number)
    side = int(rng.integers(40, 80))
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


class LogEnd:
    """How many records the broker's log of samples has."""

    def __init__(self, bootstrap: str) -> None:
        self._source = KafkaSource(KafkaSettings(bootstrap=bootstrap))
        self._partitions = self._source.describe(TOPICS.samples).partitions

    def __call__(self) -> int:
        return sum(self._source.bounds(TOPICS.samples, partition)[1] for partition in self._partitions)

    def close(self) -> None:
        self._source.close()


class Vehicle:
    """One vehicle with a recording; everything it does is done by its own processes."""

    def __init__(self, root: Path, vehicle_id: str, bootstrap: str, frames: int, **config: Any) -> None:
        self.root = root
        self.vehicle_id = vehicle_id
        self.state = StateFolder(root / "state")
        self.config = root / "agent.toml"
        self.receipts_path = root / "receipts"
        self.offered_path = root / "offered.jsonl"
        self.ledger_path = root / "ledger.json"
        self.log_path = root / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._bootstrap = bootstrap
        self.key: VehicleKey = enrol(self.state.root, vehicle_id)
        self._offer(frames)
        self.configure(**config)

    def _offer(self, frames: int) -> None:
        """The load generator: frames on the disk, and what it tells the checker about them."""
        drive = self.root / "recording" / "drive-1"
        drive.mkdir(parents=True)
        offers = []
        for number in range(frames):
            data = picture(number)
            (drive / f"{number:05d}.png").write_bytes(data)
            offers.append(json.dumps({"payload_sha256": hashlib.sha256(data).hexdigest()}))
        self.offered_path.write_text("".join(f"{offer}\n" for offer in offers))

    def configure(
        self,
        *,
        rate_hz: float = 0.0,
        loop: bool = False,
        kafka: str = "",
        spool: str = "",
        pace: str = "",
        probability: float = 1.0,
        lease_bytes: int = 100_000,
        drain_s: float = 60.0,
        supervisor: str = "",
    ) -> None:
        self.config.write_text(
            CONFIG.format(
                vehicle=self.vehicle_id,
                rate_hz=rate_hz,
                loop=str(loop).lower(),
                receipts=self.receipts_path,
                spool=spool,
                bootstrap=self._bootstrap,
                kafka=kafka,
                pace=pace if "stall_s" in pace else f"stall_s = 10.0\n{pace}",
                probability=probability,
                lease_bytes=lease_bytes,
                drain_s=drain_s,
                supervisor=supervisor,
            )
        )

    def start(self, *arguments: str) -> None:
        command = ["-m", "fleetloop", "agent", "run", "--config", str(self.config), *arguments]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=log, stderr=log)

    def end(self, timeout_s: float = 2 * PATIENCE_S) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def clean_up(self) -> None:
        """End what is left of this agent."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def child(self, name: str) -> int | None:
        """The id of the process, while it lives."""
        children = read_status(self.state.status_path("supervisor")).get("children", {})
        pid = children.get(name, {}).get("pid")
        return pid if pid is not None and is_alive(pid) else None

    def receipts(self) -> int:
        return self.receipts_path.read_bytes().count(b"\n") if self.receipts_path.exists() else 0

    def status(self) -> dict[str, Any]:
        return build_status(self.state.root)

    def export_ledger(self) -> dict[str, Any]:
        exported = run_program("fleetloop", "agent", "ledger", "--config", str(self.config), "--json")
        assert exported.returncode == 0, exported.stderr
        self.ledger_path.write_text(exported.stdout)
        ledger: dict[str, Any] = json.loads(exported.stdout)
        return ledger

    def told(self) -> list[str]:
        """What the checker is told of this vehicle."""
        return [
            *("--offered", str(self.offered_path)),
            *("--receipts", f"{self.vehicle_id}={self.receipts_path}"),
            *("--ledger", f"{self.vehicle_id}={self.ledger_path}"),
        ]


def workspace(root: Path, bootstrap: str, vehicles: Sequence[Vehicle]) -> Path:
    """A workspace in which these vehicles are enrolled."""
    enrolment = Enrolment()
    for vehicle in vehicles:
        key = vehicle.key
        enrolment = enrolment.with_key(EnrolledKey(vehicle.vehicle_id, key.key_id, key.public_b64, WALL_NS))
    (root / "registry").mkdir(parents=True)
    save_enrolment(enrolment, root / "registry" / "vehicles.json")
    (root / "fleetloop.toml").write_text(f'bootstrap = "{bootstrap}"\n')
    return root


def run_program(
    module: str, *arguments: str, timeout_s: float = 2 * PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ingest(
    place: Path, label: str = "", nth: int = 1, *, timeout_s: float = 2 * PATIENCE_S
) -> dict[str, Any]:
    """The real ingest of a workspace in a process of its own, killed when `label` is done for the nth time."""
    done = run_program("tests.e2e.ingest_child", str(place), label, str(nth), timeout_s=timeout_s)
    if label:
        assert done.returncode == -signal.SIGKILL, (label, done.returncode, done.stdout, done.stderr[-3000:])
        return {}
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def check(bootstrap: str, place: Path, told: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """The checker's exit status and verdict."""
    done = run_program(
        "tests.checker",
        *("--bootstrap", bootstrap),
        *("--lake", str(place / "lake" / "arrivals")),
        *("--schemas", str(ROOT / "schemas" / "avro")),
        *told,
    )
    assert done.returncode in (0, 1), done.stderr[-3000:]
    verdict: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, verdict

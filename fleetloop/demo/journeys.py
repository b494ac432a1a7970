"""Run the vehicles: real agents on replayed frames, with faults injected on the way."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devservers.child_process import ChildProcess
from edge_agent.status import build_status
from fleetloop.demo.lab import Lab
from fleetloop.demo.prepare import VEHICLES
from fleetloop.demo.uplink import Uplink
from foundation.documents import build, decode, parse_json
from foundation.errors import CorruptError, GuaranteeBrokenError
from foundation.files import write_atomic

FRAME_RATE_HZ = 70.0
PATROL_RATE_HZ = 25.0
BYTE_BUDGET_PER_DRIVE = 40_000
JOURNEY_DEADLINE_S = 150.0
STOP_DEADLINE_S = 20.0
OUTAGE_S = 5.0
KILL_AFTER_FRAMES = 0.45
CUT_AFTER_FRAMES = 0.25

CUT_VEHICLE, KILLED_VEHICLE = VEHICLES[1], VEHICLES[2]


@dataclass(frozen=True, slots=True)
class Road:
    """The addresses that the vehicles connect to: the broker and the repository of releases."""

    bootstrap: str
    repository_url: str
    uplink: Uplink


def write_config(lab: Lab, road: Road, vehicle_id: str, journey: str, *, loop: bool, rate_hz: float) -> Path:
    """Write the agent's settings for one journey, as a person would."""
    proxy = f'proxy_url = "{road.uplink.url}"\n' if vehicle_id == CUT_VEHICLE else ""
    text = f"""# Written by the demo for {vehicle_id}. See examples/agent.toml for every key.
vehicle_id = "{vehicle_id}"
state_folder = "state"

[source]
kind = "parquet"
path = "{lab.drives / vehicle_id / (journey + ".parquet")}"
rate_hz = {rate_hz}
loop = {str(loop).lower()}
replay_id = "{journey}"

[upload]
drain_s = 60.0
[upload.kafka]
bootstrap = "{road.bootstrap}"
{proxy}
[serving]
prediction_log = "predictions-{journey}.jsonl"
[serving.model]
poll_interval_s = 0.3
probation_frames = 40
trial_frames = 24
trial_frame_every = 5

[selection]
max_per_track = 2
[selection.uncertainty]
measure = "entropy"
threshold = 0.25
[selection.novelty]
enabled = true
threshold = 0.12
[selection.random]
probability = 0.06
seed = {lab.seed}
[selection.budget]
per_drive_bytes = {BYTE_BUDGET_PER_DRIVE}

[spool]
quota_bytes = 64000000
commit_count = 10
commit_interval_s = 0.2

[telemetry]
interval_s = 1.0

[updates]
base_url = "{road.repository_url}"
poll_interval_s = 1.0
backoff_first_s = 0.5
backoff_max_s = 2.0
"""
    path = lab.vehicle(vehicle_id) / f"agent-{journey}.toml"
    write_atomic(path, text.encode())
    return path


class Fleet:
    """The running agents. Leaves no process behind, whatever happens."""

    def __init__(self, lab: Lab, road: Road) -> None:
        self._lab, self._road = lab, road
        self._running: dict[str, ChildProcess] = {}
        self._words: dict[str, list[str]] = {}
        self.unordered_restarts = 0
        """How often a supervisor restarted a process that the demo did not kill."""

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self._running.values():
            agent.kill_group()

    def start(
        self, vehicle_id: str, journey: str, *, loop: bool = False, rate_hz: float = FRAME_RATE_HZ
    ) -> None:
        """Start a vehicle on a journey; without `loop` it ends when it has arrived and delivered."""
        config = write_config(self._lab, self._road, vehicle_id, journey, loop=loop, rate_hz=rate_hz)
        self._words[vehicle_id] = ["agent", "run", "--config", str(config)]
        if not loop:
            self._words[vehicle_id].append("--until-source-ends")
        self.restart(vehicle_id)

    def restart(self, vehicle_id: str) -> None:
        """Start a killed vehicle again with the same settings."""
        folder, words = self._lab.vehicle(vehicle_id), self._words[vehicle_id]
        receipts = str(self._lab.receipts(vehicle_id))
        self._running[vehicle_id] = self._lab.start(
            words, folder / "agent.log", folder, FLEETLOOP_RECEIPT_PATH=receipts
        )
        self._lab.commands.append(" ".join(words).replace(str(self._lab.out), ".."))

    def kill(self, vehicle_id: str) -> None:
        """Kill every process of the vehicle at once, like a power cut."""
        self._running[vehicle_id].kill_group()

    def stop(self, vehicle_id: str) -> None:
        """Stop a vehicle cleanly."""
        self._running[vehicle_id].signal(signal.SIGTERM)
        self._wait(vehicle_id, STOP_DEADLINE_S)

    def stop_all(self) -> None:
        """Stop every vehicle cleanly."""
        for vehicle_id in tuple(self._running):
            self.stop(vehicle_id)

    def wait_all(self, deadline_s: float = JOURNEY_DEADLINE_S) -> None:
        """Wait until every vehicle has arrived and delivered."""
        end = time.monotonic() + deadline_s
        for vehicle_id in tuple(self._running):
            self._wait(vehicle_id, max(1.0, end - time.monotonic()))

    def _wait(self, vehicle_id: str, deadline_s: float) -> None:
        try:
            status = self._running[vehicle_id].wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise GuaranteeBrokenError(
                f"the agent of {vehicle_id} did not end within {deadline_s:.0f} s"
            ) from None
        if status != 0:
            raise GuaranteeBrokenError(f"the agent of {vehicle_id} ended with {status}, expected 0")
        self._count_restarts(vehicle_id)
        del self._running[vehicle_id]

    def _count_restarts(self, vehicle_id: str) -> None:
        children = self.status(vehicle_id)["processes"]
        self.unordered_restarts += sum(int(child["restarts"]) for child in children.values())

    def status(self, vehicle_id: str) -> dict[str, Any]:
        """Return the document of `fleetloop agent status --json`."""
        return build_status(self._lab.state(vehicle_id))

    def frames_seen(self, vehicle_id: str) -> int:
        """Return the number of frames that the vehicle has seen since it was enrolled."""
        try:
            return int(self.status(vehicle_id)["frames_seen"])
        except (KeyError, TypeError, ValueError):
            return 0


def first_journey(lab: Lab, fleet: Fleet, road: Road, frames: dict[str, int]) -> list[str]:
    """Run all vehicles; one loses the broker for a while, one is killed and restarted. Returns the faults as text."""
    for vehicle_id in VEHICLES:
        fleet.start(vehicle_id, "first")
    cut_at, kill_at = (
        round(share * frames[v])
        for share, v in ((CUT_AFTER_FRAMES, CUT_VEHICLE), (KILL_AFTER_FRAMES, KILLED_VEHICLE))
    )
    told = []
    wait_until(
        lambda: fleet.frames_seen(CUT_VEHICLE) >= cut_at, 60.0, f"{CUT_VEHICLE} to see {cut_at} frames"
    )
    road.uplink.cut()
    cut_ns = time.monotonic_ns()
    lab.say(f"{CUT_VEHICLE} loses the broker")
    wait_until(
        lambda: fleet.frames_seen(KILLED_VEHICLE) >= kill_at,
        60.0,
        f"{KILLED_VEHICLE} to see {kill_at} frames",
    )
    before = fleet.frames_seen(KILLED_VEHICLE)
    fleet.kill(KILLED_VEHICLE)
    lab.say(f"{KILLED_VEHICLE} is killed (SIGKILL to every process) after {before} frames and starts again")
    fleet.restart(KILLED_VEHICLE)
    told.append(f"{KILLED_VEHICLE}: SIGKILL to all its processes after {before} frames; started again.")
    remaining_s = OUTAGE_S - (time.monotonic_ns() - cut_ns) / 1e9
    if remaining_s > 0:
        time.sleep(remaining_s)
    pending = int(fleet.status(CUT_VEHICLE)["ledger"]["pending"])
    road.uplink.restore()
    outage_s = (time.monotonic_ns() - cut_ns) / 1e9
    lab.say(f"{CUT_VEHICLE} has the broker back after {outage_s:.1f} s, {pending} samples wait in its spool")
    told.append(
        f"{CUT_VEHICLE}: no broker for {outage_s:.1f} s; {road.uplink.refused} connections refused; "
        f"{pending} samples waited in the spool and were delivered afterwards."
    )
    fleet.wait_all()
    return told


def wait_until(is_true: Callable[[], bool], deadline_s: float, what: str) -> None:
    """Wait until `is_true`, polled every 50 ms.

    Raises:
        GuaranteeBrokenError: it was not true within `deadline_s`.
    """
    end = time.monotonic() + deadline_s
    while not is_true():
        if time.monotonic() > end:
            raise GuaranteeBrokenError(f"waited {deadline_s:.0f} s for {what}")
        time.sleep(0.05)


def read_truth(lab: Lab) -> dict[str, str]:
    """Read frame_id -> true class name of every frame of the drives."""
    data = (lab.drives / "truth.json").read_bytes()
    return build(dict[str, str], parse_json(data, "truth.json", max_bytes=len(data)), "truth.json")


def on_vehicle_accuracy(lab: Lab, journey: str, frames: set[str], digests: set[str]) -> dict[str, list[int]]:
    """Return class name -> [correct, frames] of the vehicles' own predictions on `frames` by the models `digests`.

    Only the demo knows the true classes. Of a frame that was predicted twice (after a kill) the last prediction counts.
    """
    truth = read_truth(lab)
    said: dict[str, str] = {}
    for vehicle_id in VEHICLES:
        path = lab.vehicle(vehicle_id) / f"predictions-{journey}.jsonl"
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                row = decode(dict[str, Any], line, path.name)
            except CorruptError:
                continue  # the line that a SIGKILL cut short
            if row["frame_id"] in frames and row["model_digest"] in digests:
                said[row["frame_id"]] = row["predicted_class"]
    counts: dict[str, list[int]] = {}
    for frame_id, predicted in said.items():
        right = counts.setdefault(truth[frame_id], [0, 0])
        right[0] += predicted == truth[frame_id]
        right[1] += 1
    return counts

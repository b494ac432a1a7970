"""An older vehicle beside a newer cloud: the released agent reads today's repository, and today's ingest its records.

The agent is the released commit's own code, taken from the history of this repository and run as a process with the
packages of today. Without that commit in the clone, the tests are skipped by name.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.config import CaptureSettings, RandomSettings, SelectionSettings
from edge_agent.models.role_model import RoleModel
from edge_agent.models.settings import ServingSettings
from edge_agent.models.slots import install_initial
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import Vehicle, write_vehicle
from foundation.clock import ManualClock
from foundation.events import EventLog
from pipelines.ingest.decode import verify_and_decode
from rollout.release import GateReport, publish_release
from rollout.reports import FleetReports
from rollout.repository import Repository, init_repository
from rollout.service import RolloutService
from schemas.enrolment import EnrolledKey, Enrolment
from schemas.reasons import ModelState
from schemas.roles import SERVING
from schemas.topics import TOPICS
from services.migrate import migrate_vehicle
from tests.edge_agent.agent_bench import Vehicle1, make_frame, settings_for
from tests.fakes.kafka import FakeBroker, FakeSource
from tests.fakes.models import FakeBackend, tiny_contract, tiny_model
from tests.modelkit.bundle_rig import write_bundle
from tests.released.released import NAMES, code_of

WALL_NS = 1_790_000_000_000_000_000
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("release", NAMES)]

AGENT = """
import dataclasses, json, sys
from pathlib import Path

import schemas
from edge_agent.models.fetch import ModelFetcher
from edge_agent.models.serving import ServingModel
from edge_agent.models.settings import DownloadSettings, FetchSettings, ServingSettings, TrialLimits
from edge_agent.models.slots import SlotFolder, install_initial
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import Vehicle, write_vehicle
from edge_agent.spool.reader import SpoolReader
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.writer import SpoolWriter
from foundation.clock import ManualClock
from foundation.events import EventLog
from modelkit.fakes import FakeBackend, tiny_contract, tiny_model
from schemas.codec import encode_telemetry
from schemas.records import Telemetry
from schemas.signing import VehicleKey, seal
from schemas.wire import KIND_TELEMETRY, TOPICS
from tests.edge_agent.models.model_bench import FakeTrial
from tests.edge_agent.spool.spool_rig import sample
from edge_agent.models.trial import TrialResult

state, root, repository, wall_ns = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
clock, key = ManualClock(wall_ns), VehicleKey.generate()
state.mkdir()
write_vehicle(state, Vehicle("car-1", key.key_id, wall_ns))
TrustFolder(state).install(root.read_bytes())
install_initial(state, tiny_model(tiny_contract(name="v1"), seed=1), clock)
events = EventLog(None, clock)
settings = FetchSettings(base_url=repository, poll_interval_s=0.0, trial=TrialLimits(min_runs=3))
fetcher = ModelFetcher(
    settings, state, clock, events,
    start_trial=lambda slot, digest, frames: FakeTrial(TrialResult(True, "", frames=1, latency_p50_ns=1000)),
)
steps = []
for _ in range(50):
    step = fetcher.step()
    steps.append([step.outcome, step.detail])
    if step.outcome == "failed" or (step.outcome == "idle" and step.detail != "trial runs"):
        break
    clock.advance(step.wait_s)
serving = ServingModel(state, FakeBackend(), ServingSettings(poll_interval_s=0.0), clock, events)
serving.poll()
spool = state / "spool"
spool.mkdir(exist_ok=True)
writer = SpoolWriter.open(spool, SpoolSettings(), "car-1", key, clock, events)
for number in range(3):
    writer.append(sample(500, seed=number))
writer.commit()
writer.close()
with SpoolReader.open(spool, SpoolSettings(), "car-1", clock, events) as reader:
    records = [leased.wire for leased in reader.lease(10**9)]
said = Telemetry(
    vehicle_id="car-1", epoch="1" * 16, previous_epoch="", seq=0, telemetry_time_ns=wall_ns, monotonic_ns=1, boot_id="b",
    agent_version="0", model_digest=serving.digest, model_name=serving.name, model_events=serving.events,
)
records.append(seal(TOPICS.telemetry, KIND_TELEMETRY, said.identity, encode_telemetry(said), key))
print(json.dumps({
    "code": str(Path(schemas.__file__).parents[1]),
    "steps": steps,
    "serving": [serving.name, serving.release_id],
    "key": [key.key_id, key.public_b64],
    "records": [
        [each.topic, each.key.hex(), each.value.hex(), [[name, value.hex()] for name, value in each.headers]]
        for each in records
    ],
}))
"""

PUT_BACK = """
import json, sys
from pathlib import Path

from edge_agent.models.serving import ServingModel
from edge_agent.models.settings import ServingSettings
from foundation.clock import ManualClock
from foundation.events import EventLog
from modelkit.fakes import FakeBackend

clock = ManualClock(int(sys.argv[2]))
serving = ServingModel(Path(sys.argv[1]), FakeBackend(), ServingSettings(poll_interval_s=0.0), clock, EventLog(None, clock))
print(json.dumps([serving.name, serving.release_id]))
"""

SPOOL_PUT_BACK = """
import json, sys
from pathlib import Path

from edge_agent.spool.reader import SpoolReader
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.writer import SpoolWriter
from foundation.clock import ManualClock
from foundation.events import EventLog
from schemas.signing import VehicleKey
from tests.edge_agent.spool.spool_rig import sample

spool, clock, events = Path(sys.argv[1]), ManualClock(int(sys.argv[2])), EventLog(None)
with SpoolWriter.open(spool, SpoolSettings(), "car-1", VehicleKey.generate(), clock, events) as writer:
    found = writer.recovery
    writer.append(sample(500))
    writer.commit()
    counts = writer.ledger().counts
with SpoolReader.open(spool, SpoolSettings(), "car-1", clock, events) as reader:
    leased = [len(batch) for batch in iter(lambda: reader.lease(10**9), [])]
print(json.dumps([found.adopted, found.lost, counts.accepted, dict(counts.not_accepted), sum(leased)]))
"""


@dataclass
class Cloud:
    """Today's side: a signed repository, rollouts, and a broker in memory."""

    folder: Path

    def __post_init__(self) -> None:
        self.clock = ManualClock(WALL_NS)
        self.repository: Repository = init_repository(
            self.folder / "tuf", self.folder / "keys", clock=self.clock
        )
        self.service = RolloutService(self.repository, self.folder / "rollouts", self.clock)

    def publish(self, release_id: str, seed: int, **more: Any) -> None:
        data = tiny_model(tiny_contract(name=release_id), seed=seed)
        publish_release(
            self.repository, data, GateReport(True, ""), self.clock, release_id=release_id, **more
        )


@pytest.fixture(scope="module")
def released_code(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source tree of each release that this clone holds."""
    found = {name: code_of(name, tmp_path_factory.mktemp("released") / name) for name in NAMES}
    return {name: code for name, code in found.items() if code is not None}


def run_released(script: str, words: list[str], code: Path) -> Any:
    """The last line that a script says, run on the released code."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *words],
        cwd=code,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run_agent(cloud: Cloud, release: str, code: dict[str, Path]) -> dict[str, Any]:
    """What the released agent made of the repository, and the records that it sent."""
    if release not in code:
        pytest.skip(f"commit {release} is not in this clone")
    root = cloud.folder / "root.json"
    root.write_bytes(cloud.repository.root_bytes(1))
    words = [str(cloud.folder / "vehicle"), str(root), str(cloud.repository.path), str(WALL_NS)]
    said: dict[str, Any] = run_released(AGENT, words, code[release])
    assert said["code"] == str(code[release]), "it ran the released code, not today's"
    return said


def test_an_older_vehicle_takes_todays_release(
    release: str, released_code: dict[str, Path], tmp_path: Path
) -> None:
    cloud = Cloud(tmp_path)
    cloud.publish("r1", 2)
    cloud.publish("r2", 3)
    cloud.service.start("r2", "rest", ["car-1"])
    said = run_agent(cloud, release, released_code)
    assert said["serving"] == ["r2", "r2"], said["steps"]


def test_facts_that_an_older_vehicle_does_not_know_do_not_stop_it(
    release: str, released_code: dict[str, Path], tmp_path: Path
) -> None:
    """A release for a role that it does not have, and whatever stands in targets that it never asks for."""
    cloud = Cloud(tmp_path)
    cloud.publish("r2", 2)
    if "role" in inspect.signature(publish_release).parameters:
        cloud.publish("s1", 3, role="shadow")
    tomorrow = json.dumps(
        {"format": 7, "releases": [{"release_id": "r9", "must_understand": ["colour"]}]}
    ).encode()
    cloud.repository.publish("models", {"tomorrow.json": tomorrow})
    cloud.repository.publish("rollouts", {"tomorrow.json": tomorrow})
    cloud.service.start("r2", "rest", ["car-1"])
    said = run_agent(cloud, release, released_code)
    assert said["serving"] == ["r2", "r2"], said["steps"]


def test_an_older_vehicle_is_not_shown_a_release_of_several_files(
    release: str, released_code: dict[str, Path], tmp_path: Path
) -> None:
    cloud = Cloud(tmp_path)
    cloud.publish("r2", 2)
    cloud.service.start("r2", "rest", ["car-1", "car-2"], exclude=["car-2"])
    bundle = write_bundle(tmp_path / "bundle")
    publish_release(cloud.repository, bundle, GateReport(True, ""), cloud.clock, release_id="b1")
    cloud.service.start("b1", "rest", ["car-1", "car-2"], exclude=["car-1"])
    lists = {
        role: json.loads(cloud.repository.read_target(role, "index.json") or b"{}")
        for role in ("models", "rollouts")
    }
    assert [row["release_id"] for row in lists["models"]["releases"]] == ["r2"]
    assert {row["release_id"] for row in lists["rollouts"]["plans"]} == {"r2"}
    assert all("files" not in row for row in lists["models"]["releases"])
    said = run_agent(cloud, release, released_code)
    assert said["serving"] == ["r2", "r2"], said["steps"]


def test_todays_ingest_and_reports_take_what_an_older_vehicle_sends(
    release: str, released_code: dict[str, Path], tmp_path: Path
) -> None:
    cloud = Cloud(tmp_path)
    cloud.publish("r2", 2)
    cloud.service.start("r2", "rest", ["car-1"])
    said = run_agent(cloud, release, released_code)
    enrolment = Enrolment.of(EnrolledKey("car-1", *said["key"], WALL_NS))
    broker = FakeBroker(clock=cloud.clock)
    for topic, key, value, headers in said["records"]:
        held = tuple((name, bytes.fromhex(content)) for name, content in headers)
        broker.append(topic, bytes.fromhex(key), bytes.fromhex(value), held)
    accepted, rejected = verify_and_decode(list(broker.records(TOPICS.samples)), enrolment)
    assert (len(accepted), rejected) == (3, [])
    reports = FleetReports(tmp_path, cloud.clock)
    reports.listen(FakeSource(broker), enrolment)
    assert (reports.newest["car-1"].model_name, reports.not_believed) == ("r2", {})


def todays(state: Path) -> RoleModel:
    """The serving model as today's perceive starts it."""
    clock = ManualClock(WALL_NS)
    settings = ServingSettings(poll_interval_s=0.0)
    return RoleModel(SERVING, state, FakeBackend(), settings, clock, EventLog(None, clock))


def test_an_older_agent_that_is_put_back_goes_on_until_the_files_were_migrated_then_serves_the_factory_model(
    release: str, released_code: dict[str, Path], tmp_path: Path
) -> None:
    cloud = Cloud(tmp_path)
    cloud.publish("r2", 2)
    cloud.service.start("r2", "rest", ["car-1"])
    run_agent(cloud, release, released_code)
    state, words = tmp_path / "vehicle", [str(tmp_path / "vehicle"), str(WALL_NS)]
    serving = todays(state)
    for _ in range(ServingSettings().probation_frames):
        serving.predict([np.full((32, 32, 3), 90, dtype=np.uint8)])
    assert (serving.name, serving.state) == ("r2", ModelState.SERVING)
    assert run_released(PUT_BACK, words, released_code[release]) == ["r2", "r2"]
    assert migrate_vehicle(state, ManualClock(WALL_NS)).is_done
    assert todays(state).name == "r2"
    assert run_released(PUT_BACK, words, released_code[release]) == ["v1", ""]


def test_an_older_agent_starts_on_a_vehicle_that_is_enrolled_today(
    release: str, released_code: dict[str, Path], tmp_path: Path
) -> None:
    if release not in released_code:
        pytest.skip(f"commit {release} is not in this clone")
    cloud, state = Cloud(tmp_path), tmp_path / "vehicle"
    state.mkdir()
    write_vehicle(state, Vehicle("car-1", "0" * 16, WALL_NS))
    TrustFolder(state).install(cloud.repository.root_bytes(1))
    install_initial(state, tiny_model(tiny_contract(name="v1"), seed=1), cloud.clock)
    assert run_released(PUT_BACK, [str(state), str(WALL_NS)], released_code[release]) == ["v1", ""]


def test_an_older_agent_that_is_put_back_delivers_all_that_todays_accepted_and_todays_goes_on_after_it(
    release: str, released_code: dict[str, Path], tmp_path: Path
) -> None:
    """It passes over the steps in segments and ledger, also in what no commit frame counts: a kill left it there."""
    if release not in released_code:
        pytest.skip(f"commit {release} is not in this clone")
    every_second = SelectionSettings(random=RandomSettings(probability=0.5))
    vehicle = Vehicle1(settings_for(tmp_path, selection=every_second, capture=CaptureSettings(pre_s=0.001)))
    ledger, spool = vehicle.state.spool / "ledger.journal", vehicle.state.spool
    vehicle.play(*(make_frame(number) for number in range(12)))
    vehicle.loop.pause()
    counted = ledger.read_bytes()
    before = vehicle.writer.ledger().counts
    vehicle.play(*(make_frame(number) for number in range(12, 24)))
    vehicle.loop.pause()
    after = vehicle.writer.ledger().counts.accepted
    vehicle.kill()
    ledger.write_bytes(counted)
    assert after > before.accepted > 0
    said = run_released(SPOOL_PUT_BACK, [str(spool), str(WALL_NS)], released_code[release])
    assert said == [after - before.accepted, 0, after + 1, dict(before.not_accepted), after + 1]
    vehicle.start()
    assert not vehicle.trouble
    assert vehicle.writer.ledger().balances()
    assert vehicle.writer.ledger().counts.accepted == after + 1

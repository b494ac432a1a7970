"""Today's code reads every document that a released commit wrote: fixtures are made by that commit's own code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from connectors.lake.lock import locked_snapshot, read_lake_lock
from connectors.lake.table import LakeTable
from edge_agent.config import load_agent_settings
from edge_agent.durable_progress import DurableProgress
from edge_agent.models.desired import plans_of, releases_of
from edge_agent.models.slots import SlotFolder
from edge_agent.models.trust import SavedTrust
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import read_vehicle
from edge_agent.perceive import progress_limits
from edge_agent.spool.reader import SpoolReader
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.snapshot import read_ledger
from edge_agent.spool.writer import SpoolWriter
from edge_agent.state_folder import StateFolder
from foundation.clock import ManualClock
from foundation.events import EventLog
from modelkit.contract import ModelContract
from modelkit.verify import verify_model
from pipelines.curate.params import load_params
from pipelines.dataset.versions import list_versions
from rollout.history import History
from rollout.release import read_releases
from rollout.reports import FleetReports
from rollout.repository import Repository
from rollout.service import RolloutService
from schemas.codec import decode_sample, decode_telemetry
from schemas.documents import HALTED, RUNNING
from schemas.signing import VehicleKey
from tests.released.released import NAMES, ROOT, copy_of
from training.registry import ModelRecord
from workspace.enrolment_file import load_enrolment
from workspace.layout import Workspace
from workspace.served_models import serving_name

WALL_NS = 1_790_000_000_000_000_000
"""When the fixtures' vehicle was made, by its clock."""
pytestmark = pytest.mark.parametrize("release", NAMES)


def test_there_is_a_release_to_read(release: str) -> None:
    assert {"vehicle", "workspace", "learning", "tuf", "documents"} <= {
        path.name for path in (ROOT / release).iterdir()
    }


def test_a_vehicle_knows_itself_and_its_settings(release: str) -> None:
    vehicle = read_vehicle(ROOT / release / "vehicle")
    assert (vehicle.vehicle_id, vehicle.tags) == ("car-1", ())
    settings = load_agent_settings(ROOT / release / "documents" / "agent.toml")
    assert settings.vehicle_id == "car-1"


def test_a_vehicle_finds_its_models(release: str) -> None:
    slots = SlotFolder(ROOT / release / "vehicle")
    active, candidate = slots.read_active(), slots.read_candidate()
    assert (active.active.name, [event.event for event in active.events]) == ("v1", ["installed"])
    assert slots.read_factory() == active.active
    assert candidate is not None
    assert (candidate.slot.name, candidate.slot.release_id, candidate.trial_frames) == ("r3", "r3", 1)
    assert slots.read_fetch().refused == {}
    for slot in (active.active, candidate.slot):
        assert verify_model(slots.read_slot(slot.digest), slot.digest).contract.name == slot.name


def test_a_vehicle_trusts_what_it_trusted(release: str) -> None:
    trust = SavedTrust.load(TrustFolder(ROOT / release / "vehicle"), ManualClock(WALL_NS))
    assert [plan.release_id for plan in plans_of(trust.index("rollouts"))] == ["r2", "r3"]
    assert set(releases_of(trust.index("models"))) == {"r2", "r3"}


def test_a_vehicle_delivers_the_samples_that_it_had_accepted(release: str, tmp_path: Path) -> None:
    state = copy_of(release, "vehicle", tmp_path)
    ledger = read_ledger(state / "spool")
    assert (ledger.counts.accepted, ledger.counts.delivered) == (20, 5)
    reader = SpoolReader.open(state / "spool", SpoolSettings(), "car-1", ManualClock(WALL_NS), EventLog(None))
    with reader:
        leased = list(iter(lambda: reader.lease(10**9), []))
    samples = [decode_sample(record.wire.value) for batch in leased for record in batch]
    assert len(samples) == 15
    assert {sample.drive_id for sample in samples} == {"drive-1"}
    assert all(sample.payload for sample in samples)


def test_a_vehicle_goes_on_at_its_place(release: str, tmp_path: Path) -> None:
    """And its old file stays as it is, for an old agent that is put back."""
    state = StateFolder(copy_of(release, "vehicle", tmp_path))
    settings = load_agent_settings(ROOT / release / "documents" / "agent.toml")
    before, key = state.released_progress_path.read_bytes(), VehicleKey.generate()
    for _ in range(2):
        durable = DurableProgress(
            progress_limits(settings),
            ["the recording"],
            ManualClock(WALL_NS),
            state.released_progress_path,
        )
        writer = SpoolWriter.open(
            state.spool, SpoolSettings(), "car-1", key, ManualClock(WALL_NS), EventLog(None), carried=durable
        )
        writer.close()
        assert durable.trouble == ""
        progress = durable.progress
        assert (progress.place("the recording").frame_id, progress.frames_seen) == ("frame-00019", 20)
        assert read_ledger(state.spool).counts.accepted == 20
    assert state.released_progress_path.read_bytes() == before


def test_records_of_the_wire_are_read(release: str) -> None:
    vectors = ROOT / release / "documents" / "vectors"
    read = {"sample": decode_sample, "telemetry": decode_telemetry}
    found = [path for path in sorted(vectors.glob("*.avro")) if path.name.partition("-")[0] in read]
    assert len(found) >= 3
    for path in found:
        record = read[path.name.partition("-")[0]](path.read_bytes())
        assert (
            record.vehicle_id
            == json.loads(path.with_suffix(".json").read_text("utf-8"))["record"]["vehicle_id"]
        )


def test_a_contract_is_read(release: str) -> None:
    contract = ModelContract.from_json((ROOT / release / "documents" / "contract.json").read_text("utf-8"))
    assert contract.name == "tiny"
    assert len(contract.classes) >= 2


def test_a_workspace_opens_with_its_parameters_vehicles_and_models(release: str) -> None:
    place = Workspace.open(ROOT / release / "workspace")
    assert load_params(place.params_path).classes == ("green", "red", "yellow")
    enrolment = load_enrolment(place.enrolment_path)
    assert sorted(enrolment.vehicles) == ["car-0", "car-1", "car-2"]
    assert enrolment.vehicles["car-2"][0].revoked_time_ns == 9
    name, digest = serving_name(place)
    assert name == "v2"
    assert ModelRecord.read(place.models_path / name / "model.json").digest == digest


def test_a_dataset_version_is_read_with_what_it_was_made_from(release: str) -> None:
    place = Workspace.open(ROOT / release / "workspace")
    (version,) = list_versions(place)
    assert (version.id, version.message, version.parent) == ("v1", "first drives", "")
    assert version.manifest["digest"] == version.digest
    assert version.manifest["made_from"]["lake"]["tables"]["arrivals"]["version"] == 1


def test_the_lake_is_read_at_the_versions_that_were_locked(release: str) -> None:
    place = Workspace.open(ROOT / release / "workspace")
    lock = read_lake_lock(place.lake_lock_path)
    rows = {
        name: locked_snapshot(lock, name, LakeTable.open(place.lake_path / name)).read()
        for name in sorted(lock)
    }
    assert {name: table.num_rows for name, table in rows.items()} == {
        "arrivals": 24,
        "labels": 24,
        "reference": 2,
    }
    assert all(rows["arrivals"]["payload"].to_pylist())


def test_releases_rollouts_reports_and_history_are_read(release: str, tmp_path: Path) -> None:
    place = Workspace.open(copy_of(release, "workspace", tmp_path))
    repository = Repository(place.tuf_path, tmp_path / "no-keys", clock=ManualClock(WALL_NS))
    assert [each.release_id for each in read_releases(repository)] == ["r-v1", "r-v2"]
    folder = place.registry_path / "rollouts"
    service = RolloutService(repository, folder, ManualClock(WALL_NS))
    assert [(plan.plan_id, plan.state) for plan in service.plans()] == [
        ("r-v1.1", HALTED),
        ("r-v2.1", RUNNING),
    ]
    state = service.state_of(service.current())
    assert state is not None
    assert [wave.members for wave in state.waves] == [("car-0",), ("car-1",)]
    reports = FleetReports(folder, ManualClock(WALL_NS))
    assert {name: report.model_name for name, report in reports.newest.items()} == {
        "car-0": "v1",
        "car-1": "v1",
    }
    assert reports.not_believed == {"revoked_key": 3}
    rows = History(folder / "history.jsonl").rows
    assert [(row.vehicle_id, row.event) for row in rows] == [
        (vehicle, event) for vehicle in ("car-0", "car-1") for event in ("installed", "activated")
    ]

"""Only what a vehicle signed is believed, each word once; the history names every model that ever served."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.kafka.fakes import FakeBroker, FakeSource
from foundation.clock import ManualClock
from foundation.errors import CorruptError
from foundation.files import write_atomic
from rollout.history import History
from rollout.reports import FleetReports
from schemas.codec import encode_telemetry
from schemas.reasons import ModelState
from schemas.records import Health, ModelEvent, Telemetry
from schemas.signing import EnrolledKey, Enrolment, VehicleKey, seal
from schemas.topics import TOPICS
from schemas.wire import KIND_TELEMETRY, WireRecord

A, B = "a" * 64, "b" * 64
INSTALLED = ModelEvent(10, A, "v1", "installed")
ACTIVATED = ModelEvent(20, B, "v2", "activated", "", "r2")
ROLLED_BACK = ModelEvent(30, B, "v2", "rolled_back", "not_finite", "r2")
BACK = ModelEvent(31, A, "v1", "activated", "rolled_back")


class Fleet:
    """Vehicles with real keys on a broker in memory."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.broker = FakeBroker(clock=self.clock)
        self.keys = {name: VehicleKey.generate() for name in ("car-1", "car-2")}
        self.enrolment = Enrolment.of(
            *(EnrolledKey(name, key.key_id, key.public_b64, 0) for name, key in self.keys.items())
        )

    def say(
        self,
        vehicle: str,
        seq: int,
        *,
        epoch: str = "1" * 16,
        digest: str = A,
        signer: str = "",
        **fields: object,
    ) -> WireRecord:
        values: dict[str, object] = {
            "vehicle_id": vehicle,
            "epoch": epoch,
            "previous_epoch": "",
            "seq": seq,
            "telemetry_time_ns": 1,
            "monotonic_ns": 1,
            "boot_id": "boot",
            "agent_version": "0",
            "model_digest": digest,
            "model_name": "v1" if digest == A else "v2",
        }
        telemetry = Telemetry(**{**values, **fields})  # type: ignore[arg-type]
        key = self.keys[signer or vehicle]
        wire = seal(TOPICS.telemetry, KIND_TELEMETRY, telemetry.identity, encode_telemetry(telemetry), key)
        self.broker.produce(wire)
        return wire

    def reports(self) -> FleetReports:
        return FleetReports(self.folder, self.clock)

    def listen(self, reports: FleetReports | None = None) -> FleetReports:
        reports = reports or self.reports()
        reports.listen(FakeSource(self.broker), self.enrolment)
        return reports


@pytest.fixture
def vehicles(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "rollouts")


def test_reading_goes_on_from_the_saved_offsets_in_the_next_process(vehicles: Fleet) -> None:
    vehicles.say("car-1", 0)
    assert vehicles.listen().newest["car-1"].seq == 0
    vehicles.say("car-1", 1)
    reports = vehicles.reports()
    assert reports.listen(FakeSource(vehicles.broker), vehicles.enrolment) == 1
    assert reports.newest["car-1"].seq == 1
    assert vehicles.reports().newest == reports.newest


def test_a_record_by_another_vehicles_key_is_not_believed(vehicles: Fleet) -> None:
    vehicles.say("car-1", 0, digest=B, signer="car-2")
    reports = vehicles.listen()
    assert reports.newest == {}
    assert reports.not_believed == {"bad_signature": 1}


def test_a_revoked_vehicle_is_not_believed(vehicles: Fleet) -> None:
    vehicles.enrolment = vehicles.enrolment.with_revoked("car-1", 5)
    vehicles.say("car-1", 0)
    assert vehicles.listen().not_believed == {"revoked_key": 1}


def test_a_replayed_record_does_not_renew_a_vehicles_health(vehicles: Fleet) -> None:
    old = vehicles.say("car-1", 0, epoch="1" * 16)
    vehicles.say("car-1", 5, epoch="2" * 16)
    reports = vehicles.listen()
    heard_ns = reports.newest["car-1"].heard_ns
    vehicles.clock.advance(1000)
    vehicles.broker.produce(old)
    vehicles.say("car-1", 5, epoch="2" * 16)
    vehicles.listen(reports)
    assert reports.newest["car-1"].heard_ns == heard_ns
    assert reports.not_believed == {"repeated": 2}


def test_a_garbled_record_is_counted_and_stops_nothing(vehicles: Fleet) -> None:
    good = vehicles.say("car-1", 0)
    vehicles.broker.produce(WireRecord(good.topic, good.key, b"garbled", good.headers))
    vehicles.broker.produce(WireRecord(good.topic, b"car-1", b"", ()))
    vehicles.say("car-1", 1)
    reports = vehicles.listen()
    assert reports.newest["car-1"].seq == 1
    assert sum(reports.not_believed.values()) == 2


def test_counts_are_those_of_the_present_model_and_survive_a_restart_of_the_agent(vehicles: Fleet) -> None:
    vehicles.say("car-1", 0, frames_seen=100, health=Health(error_count=7))
    vehicles.say("car-1", 1, digest=B, frames_seen=150, health=Health(error_count=7))
    vehicles.say("car-1", 2, digest=B, frames_seen=200, health=Health(error_count=9, nan_count=1))
    vehicles.say("car-1", 0, epoch="2" * 16, digest=B, frames_seen=30, health=Health(error_count=1))
    report = vehicles.listen().newest["car-1"]
    assert (report.reports_on_model, report.frames, report.errors, report.not_finite) == (3, 130, 3, 1)


def test_how_a_release_ended_on_a_vehicle_is_remembered(vehicles: Fleet) -> None:
    vehicles.say("car-1", 0, model_events=(INSTALLED, ACTIVATED, ROLLED_BACK, BACK), rollbacks=1)
    reports = vehicles.listen()
    assert reports.newest["car-1"].ends == {"r2": ("rolled_back", "not_finite")}
    assert vehicles.reports().newest["car-1"].ends == {"r2": ("rolled_back", "not_finite")}
    assert vehicles.reports().newest["car-1"].model_state is ModelState.SERVING


def test_the_history_says_which_vehicle_ran_which_model_when(vehicles: Fleet) -> None:
    vehicles.say("car-1", 0, model_events=(INSTALLED,))
    vehicles.say("car-2", 0, model_events=(INSTALLED,))
    vehicles.say("car-1", 2, model_events=(INSTALLED, ACTIVATED, ROLLED_BACK, BACK))  # seq 1 was lost
    runs = vehicles.listen().history.runs()
    assert [(r.vehicle_id, r.model_name, r.release_id, r.start_ns, r.end_ns, r.ended_by) for r in runs] == [
        ("car-1", "v1", "", 10, 20, "replaced"),
        ("car-1", "v2", "r2", 20, 31, "rolled_back"),
        ("car-1", "v1", "", 31, None, ""),
        ("car-2", "v1", "", 10, None, ""),
    ]


def test_the_history_is_the_same_however_often_telemetry_is_read(vehicles: Fleet) -> None:
    vehicles.say("car-1", 0, model_events=(INSTALLED, ACTIVATED))
    vehicles.say("car-1", 1, model_events=(INSTALLED, ACTIVATED, ROLLED_BACK, BACK))
    first = vehicles.listen().history.rows
    (vehicles.folder / "reports.json").unlink()  # as after a crash between history and offsets
    again = vehicles.listen().history.rows
    assert again == first
    assert len(first) == 4


def test_offsets_that_retention_took_are_counted_and_passed_over(vehicles: Fleet) -> None:
    for seq in range(10):
        vehicles.say("car-1", seq)
    info = vehicles.broker.describe(TOPICS.telemetry)
    vehicles.listen()
    for seq in range(10, 20):
        vehicles.say("car-1", seq)
    for partition in info.partitions:
        _begin, end = vehicles.broker.bounds(TOPICS.telemetry, partition)
        if end == 20:
            vehicles.broker.delete_records(TOPICS.telemetry, partition, 15)
    reports = vehicles.listen()
    assert reports.newest["car-1"].seq == 19
    assert reports.lost_offsets == 5


def test_a_topic_created_anew_is_read_from_its_beginning(vehicles: Fleet) -> None:
    vehicles.say("car-1", 0)
    vehicles.listen()
    vehicles.broker.restart_empty()
    vehicles.say("car-1", 1)
    assert vehicles.listen().newest["car-1"].seq == 1


def test_damaged_files_are_named(vehicles: Fleet) -> None:
    write_atomic(vehicles.folder / "history.jsonl", b'{"no": "event"}\n')
    with pytest.raises(CorruptError, match=r"history\.jsonl.*line 1"):
        History(vehicles.folder / "history.jsonl")
    (vehicles.folder / "history.jsonl").unlink()
    write_atomic(vehicles.folder / "reports.json", b'{"format": 1}')
    with pytest.raises(CorruptError, match=r"reports\.json"):
        vehicles.reports()

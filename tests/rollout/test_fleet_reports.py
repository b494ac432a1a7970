"""Only what a vehicle signed is believed, each word once; the history names every model that ever served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foundation import syscalls
from foundation.clock import ManualClock
from foundation.errors import CorruptError, RetryLaterError
from foundation.files import write_atomic
from rollout.history import MAX_NEW_ROWS, History
from rollout.reports import FleetReports
from schemas.codec import encode_telemetry
from schemas.reasons import ModelState
from schemas.records import Health, ModelEvent, RoleReport, Telemetry
from schemas.signing import EnrolledKey, Enrolment, VehicleKey, sign_record
from schemas.topics import TOPICS
from schemas.wire import KIND_TELEMETRY, WireRecord
from tests.fakes.kafka import FakeBroker, FakeSource

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
        wire = sign_record(
            TOPICS.telemetry, KIND_TELEMETRY, telemetry.identity, encode_telemetry(telemetry), key
        )
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
    (vehicles.folder / "reports.jsonl").unlink()  # as after a crash between history and offsets
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
    (row,) = History(vehicles.folder / "history.jsonl").unreadable
    assert "history.jsonl: line 1: event.vehicle_id is missing" in row.why
    (vehicles.folder / "history.jsonl").unlink()
    write_atomic(vehicles.folder / "reports.json", b'{"format": 1}')
    with pytest.raises(CorruptError, match=r"reports\.json"):
        vehicles.reports()
    write_atomic(vehicles.folder / "reports.jsonl", b'{"kind": "mark", "seq": 1}\n')
    with pytest.raises(CorruptError, match=r"reports\.jsonl.*line 1"):
        vehicles.reports()


@pytest.mark.parametrize("is_numbered", [True, False])
def test_a_recorded_report_is_never_news_after_any_number_of_starts_and_restarts(
    vehicles: Fleet, monkeypatch: pytest.MonkeyPatch, is_numbered: bool
) -> None:
    monkeypatch.setattr("rollout.reports._COMPACT_ABOVE_ROWS", 20)
    recorded = []
    for start in range(1, 200):
        number = start if is_numbered else 0
        epoch = f"{start:016x}"
        recorded.append(vehicles.say("car-1", 7, epoch=epoch, digest=B, start_number=number))
        vehicles.listen()  # each time a new process, which knows only what is on disk
    vehicles.say("car-1", 0, epoch="f" * 16, digest=A, start_number=200 if is_numbered else 0)
    before = vehicles.listen().newest["car-1"]
    rows_before = len(vehicles.reports().history.rows)
    vehicles.clock.advance(10_000)
    for record in recorded:
        vehicles.broker.produce(record)
    after = vehicles.listen()
    assert after.newest["car-1"] == before
    assert after.not_believed == {"repeated": len(recorded)}
    assert len(after.history.rows) == rows_before


def test_a_report_that_was_recorded_and_held_back_is_not_news_when_it_comes_late(vehicles: Fleet) -> None:
    vehicles.say("car-1", 0, epoch="2" * 16, start_number=2)
    before = vehicles.listen().newest["car-1"]
    vehicles.say("car-1", 9, epoch="1" * 16, digest=B, start_number=1)  # of an earlier start, never heard
    vehicles.say("car-1", 9, epoch="3" * 16, digest=B)  # of an agent that did not number its starts yet
    assert vehicles.listen().newest["car-1"] == before


def test_an_epoch_that_a_report_names_as_the_one_before_is_over(vehicles: Fleet) -> None:
    vehicles.say("car-1", 0, epoch="2" * 16, previous_epoch="1" * 16)
    before = vehicles.listen().newest["car-1"]
    vehicles.say("car-1", 9, epoch="1" * 16, digest=B)
    assert vehicles.listen().newest["car-1"] == before


def test_a_vehicle_enrolled_anew_is_heard_and_its_former_key_says_nothing_new(vehicles: Fleet) -> None:
    recorded = vehicles.say("car-1", 5, epoch="1" * 16, start_number=1000)
    vehicles.listen()
    key = VehicleKey.generate()
    former = vehicles.enrolment.vehicles["car-1"]
    anew = EnrolledKey("car-1", key.key_id, key.public_b64, 1)
    other = vehicles.enrolment.vehicles["car-2"]
    vehicles.enrolment = Enrolment.of(*former, anew, *other)
    vehicles.keys["car-1"] = key
    vehicles.say("car-1", 0, epoch="2" * 16, digest=B, start_number=1)
    vehicles.broker.produce(recorded)
    assert vehicles.listen().newest["car-1"].model_digest == B


def test_what_the_first_release_kept_is_read_and_its_epochs_stay_over(vehicles: Fleet) -> None:
    report = {
        "vehicle_id": "car-1", "heard_ns": 5, "epoch": "2" * 16, "seq": 3, "model_digest": A, "model_name": "v1",
        "model_state": "trial", "reports_on_model": 2, "frames": 9, "errors": 1, "not_finite": 0, "swaps": 1,
        "rollbacks": 0, "ends": {"r2": ["rolled_back", "not_finite"]},
    }  # fmt: skip
    totals = {"frames": 9, "errors": 1, "not_finite": 0, "epochs": ["1" * 16, "2" * 16]}
    document = {
        "format": 1, "topic_id": "gone", "offsets": {"0": 4}, "reports": {"car-1": report},
        "totals": {"car-1": totals}, "not_believed": {"repeated": 1}, "lost_offsets": 2,
    }  # fmt: skip
    write_atomic(vehicles.folder / "reports.json", json.dumps(document).encode())
    reports = vehicles.reports()
    assert reports.newest["car-1"].ends == {"r2": ("rolled_back", "not_finite")}
    assert (reports.not_believed, reports.lost_offsets) == ({"repeated": 1}, 2)
    vehicles.say("car-1", 9, epoch="1" * 16, digest=B)
    vehicles.listen(reports)
    assert reports.newest["car-1"].model_digest == A
    assert not (vehicles.folder / "reports.json").exists()
    again = vehicles.reports()
    assert again.newest == reports.newest
    assert again.not_believed == {"repeated": 2}


def test_rows_are_appended_and_half_a_row_that_a_crash_left_is_written_over(vehicles: Fleet) -> None:
    vehicles.say("car-1", 0, model_events=(INSTALLED,))
    vehicles.listen()
    before = {name: (vehicles.folder / name).read_bytes() for name in ("history.jsonl", "reports.jsonl")}
    for name, data in before.items():
        (vehicles.folder / name).write_bytes(data + b'{"kind": "mark", "vehi')
    vehicles.say("car-1", 1, model_events=(INSTALLED, ACTIVATED))
    vehicles.listen()
    for name, data in before.items():
        assert (vehicles.folder / name).read_bytes().startswith(data)
        assert (vehicles.folder / name).read_bytes().endswith(b"}\n")
    assert [row.event for row in vehicles.reports().history.rows] == ["installed", "activated"]
    assert vehicles.reports().newest["car-1"].seq == 1


def test_two_processes_that_listen_in_turn_see_each_others_rows(vehicles: Fleet) -> None:
    first, second = vehicles.reports(), vehicles.reports()
    for seq, reports in enumerate((first, second, first)):
        vehicles.say("car-1", seq, model_events=(INSTALLED, ACTIVATED, ROLLED_BACK)[: seq + 1])
        assert reports.listen(FakeSource(vehicles.broker), vehicles.enrolment) == 1
    assert [row.event for row in first.history.rows] == ["installed", "activated", "rolled_back"]
    assert vehicles.reports().not_believed == {}


def test_what_a_full_disk_refused_is_heard_again_by_the_same_process(
    vehicles: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    vehicles.say("car-1", 0, model_events=(INSTALLED,))
    reports = vehicles.listen()
    vehicles.say("car-1", 1, model_events=(INSTALLED, ACTIVATED))

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(syscalls, "fsync", full)
    with pytest.raises(RetryLaterError, match="history"):
        vehicles.listen(reports)
    assert [row.event for row in reports.history.rows] == ["installed"]
    monkeypatch.undo()
    assert reports.listen(FakeSource(vehicles.broker), vehicles.enrolment) == 1
    assert [row.event for row in reports.history.rows] == ["installed", "activated"]
    assert vehicles.reports().history.rows == reports.history.rows
    assert (reports.not_believed, reports.newest["car-1"].seq) == ({}, 1)


def test_each_role_of_a_vehicle_is_reported_and_remembered_apart(vehicles: Fleet) -> None:
    activated = ModelEvent(5, B, "v2", "activated", "", "r9")
    withdrawn = ModelEvent(9, B, "v2", "withdrawn", "plan_halted", "r9")
    shadow = RoleReport("shadow", B, "v2", ModelState.SHADOW, "r9", 1, 0, 40, Health(2), (activated,))
    vehicles.say("car-1", 0, frames_seen=100, model_events=(INSTALLED,), other_roles=(shadow,))
    reports = vehicles.listen()
    assert reports.newest["car-1"].model_digest == A
    found = reports.newest_of("shadow")["car-1"]
    assert (found.model_digest, found.frames, found.errors) == (B, 40, 2)
    gone = RoleReport(
        "shadow", "", "", ModelState.ROLLED_BACK, "", 1, 1, 40, Health(2), (activated, withdrawn)
    )
    vehicles.say("car-1", 1, frames_seen=100, model_events=(INSTALLED,), other_roles=(gone,))
    runs = vehicles.listen().history.runs()
    assert [(r.role, r.model_digest, r.end_ns, r.ended_by) for r in runs] == [
        ("serving", A, None, ""),
        ("shadow", B, 9, "withdrawn"),
    ]


def test_one_vehicle_fills_its_share_of_the_history_and_no_more(vehicles: Fleet) -> None:
    """A flood of invented events costs the one that sends it: its share is bounded per hour and in all, and counted."""
    for seq in range(12):
        flood = tuple(
            ModelEvent(seq * 1000 + n, B, "m", "refused", "x" * 4000, f"r{seq}-{n}") for n in range(200)
        )
        vehicles.say("car-1", seq, model_events=flood)
    vehicles.say("car-2", 0, model_events=(INSTALLED, ACTIVATED, ROLLED_BACK, BACK))
    reports = vehicles.listen()
    rows = [row.vehicle_id for row in reports.history.rows]
    assert (rows.count("car-1"), rows.count("car-2")) == (MAX_NEW_ROWS, 4)
    assert reports.not_believed["too_many_events"] == 12 * 200 - MAX_NEW_ROWS
    assert reports.newest["car-2"].ends == {"r2": ("rolled_back", "not_finite")}
    assert (vehicles.folder / "reports.jsonl").stat().st_size < 100_000


def test_of_a_flood_that_goes_on_for_days_the_newest_events_are_kept_and_the_rest_is_counted(
    vehicles: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.history.MAX_ROWS", 1000)
    vehicles.say("car-2", 0, model_events=(INSTALLED, ACTIVATED))
    reports = vehicles.listen()
    sizes = []
    for seq in range(20):
        flood = tuple(ModelEvent(seq * 1000 + n, B, "m", "refused", "x", f"r{seq}-{n}") for n in range(200))
        vehicles.say("car-1", seq, model_events=flood)
        vehicles.clock.advance(3601)
        vehicles.listen(reports)
        sizes.append((vehicles.folder / "history.jsonl").stat().st_size)
    kept = vehicles.reports().history.rows
    assert len(kept) <= 2 + 1000 + MAX_NEW_ROWS
    assert [row.vehicle_id for row in kept[:2]] == ["car-2", "car-2"]
    assert kept[-1].release_id == "r19-199"
    assert reports.not_believed["events_forgotten"] == 20 * 200 + 2 - len(kept)
    assert max(sizes[10:]) <= 1.1 * max(sizes[:10]), "it grows no more"


def test_an_end_that_is_not_in_the_newest_record_stays_known_and_an_old_one_told_again_replaces_no_newer(
    vehicles: Fleet,
) -> None:
    refused = ModelEvent(5, B, "v2", "refused", "crashed", "r2")
    vehicles.say("car-1", 0, model_events=(refused,))
    vehicles.say("car-1", 1, model_events=(ROLLED_BACK,))
    vehicles.say("car-1", 2)
    vehicles.say("car-1", 3, model_events=(refused,))
    assert vehicles.listen().newest["car-1"].ends == {"r2": ("rolled_back", "not_finite")}

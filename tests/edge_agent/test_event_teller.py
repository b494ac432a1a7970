"""A telemetry record stays small whatever happened on the vehicle, and the fleet still hears of every event."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.event_teller import RETELL_S, EventTeller
from edge_agent.models.slots import SlotFolder
from edge_agent.spool.writer import SpoolWriter
from edge_agent.state_folder import StateFolder, publish_json
from edge_agent.telemetry import TelemetryJob
from foundation.clock import ManualClock
from foundation.events import EventLog
from rollout.reports import FleetReports
from schemas.codec import decode_telemetry
from schemas.enrolment import EnrolledKey, Enrolment
from schemas.records import MAX_MODEL_EVENTS, ModelEvent
from schemas.wire import TOPICS
from tests.edge_agent.agent_bench import VEHICLE, WALL_NS, enrol, settings_for
from tests.fakes.kafka import FakeBroker, FakeSink, FakeSource

MAX_RECORD_BYTES = 2000
"""Key, value and headers of a record of a vehicle with one role."""


def happened(number: int, word: str = "activated", reason: str = "") -> ModelEvent:
    return ModelEvent(number, f"{number:064x}", f"model-{number}", word, reason, f"release-{number:03d}")


def size_of(record) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


class Vehicle:
    """A vehicle with a full journal of events, whose perceive failed with a long message."""

    def __init__(self, folder, events: int) -> None:
        settings = settings_for(folder)
        self.state = StateFolder(settings.state_folder)
        self.key = enrol(self.state.root)
        self.state.make()
        self.clock = ManualClock(WALL_NS)
        self.broker = FakeBroker()
        with SpoolWriter.open(
            self.state.spool, settings.spool, VEHICLE, self.key, self.clock, EventLog(None)
        ):
            pass
        publish_json(self.state.status_path("perceive"), {"health": {"last_error": "Ünreadable " * 300}})
        self.slots = SlotFolder(self.state.root)
        self.add(*(happened(n, "rolled_back", "why " * 1000) for n in range(events)))
        self.start()

    def add(self, *events: ModelEvent) -> None:
        held = self.slots.read_active()
        self.slots.write_active(replace(held, events=(*held.events, *events)[-MAX_MODEL_EVENTS:]))

    def start(self) -> None:
        self.job = TelemetryJob(
            self.state,
            VEHICLE,
            self.key,
            lambda: FakeSink(self.broker, clock=self.clock),
            self.clock,
            other_roles=(),
        )

    def say(self, records: int = 1) -> None:
        for _ in range(records):
            self.job.step()
            self.clock.advance(10.0)

    def fleet(self, folder) -> FleetReports:
        folder.mkdir(exist_ok=True)
        enrolment = Enrolment.of(EnrolledKey(VEHICLE, self.key.key_id, self.key.public_b64, WALL_NS, None))
        reports = FleetReports(folder, self.clock)
        reports.listen(FakeSource(self.broker), enrolment)
        return reports


@pytest.mark.parametrize("events", [0, 1, 5, MAX_MODEL_EVENTS])
def test_no_record_exceeds_2_kb_whatever_happened_on_the_vehicle(tmp_path, events: int) -> None:
    vehicle = Vehicle(tmp_path / "car", events)
    vehicle.say(20)
    records = vehicle.broker.records(TOPICS.telemetry)
    assert len(records) == 20
    assert max(map(size_of, records)) <= MAX_RECORD_BYTES


def test_the_fleet_hears_of_every_event_in_order_though_no_record_has_room_for_all(tmp_path) -> None:
    vehicle = Vehicle(tmp_path / "car", 0)
    for number in range(60):
        vehicle.add(happened(number))
        vehicle.say()
    vehicle.start()  # deliver started again: everything is told once more, and nothing twice in the history
    vehicle.say(30)
    told = [row.release_id for row in vehicle.fleet(tmp_path / "fleet").history.rows if row.release_id]
    assert told == [f"release-{number:03d}" for number in range(60)]


def test_what_a_fleet_lost_it_hears_again_within_hours(tmp_path) -> None:
    vehicle = Vehicle(tmp_path / "car", 0)
    vehicle.add(*map(happened, range(60)))
    vehicle.say(30)
    vehicle.broker = FakeBroker()  # its log is lost, and with it everything that was acknowledged
    vehicle.job._drop_sink()
    for _ in range(30):
        vehicle.say()
        vehicle.clock.advance(RETELL_S)
    heard = {row.release_id for row in vehicle.fleet(tmp_path / "fleet").history.rows}
    assert heard >= {f"release-{number:03d}" for number in range(60)}


def test_a_rollback_is_known_to_the_health_of_a_rollout_from_the_first_record_and_stays_known(
    tmp_path,
) -> None:
    vehicle = Vehicle(tmp_path / "car", 0)
    vehicle.add(*map(happened, range(100)))
    vehicle.add(happened(200, "rolled_back", "not_finite"))
    vehicle.say()
    first = vehicle.fleet(tmp_path / "one").newest[VEHICLE]
    assert (first.ends or {})["release-200"] == ("rolled_back", "not_finite")
    vehicle.add(*(happened(n, "refused") for n in range(201, 240)))
    vehicle.say(30)
    assert (vehicle.fleet(tmp_path / "one").newest[VEHICLE].ends or {})["release-200"][0] == "rolled_back"


def test_the_newest_end_is_in_every_record_for_a_fleet_that_knows_the_newest_record_only(tmp_path) -> None:
    vehicle = Vehicle(tmp_path / "car", 0)
    vehicle.add(happened(1, "rolled_back", "not_finite"), happened(2, "activated"))
    vehicle.say(30)
    for record in vehicle.broker.records(TOPICS.telemetry):
        said = decode_telemetry(record.value)
        assert ("rolled_back", "release-001") in {(e.event, e.release_id) for e in said.model_events}


@given(
    st.lists(st.integers(1, 400), max_size=40),
    st.integers(200, 2000),
    st.lists(st.booleans(), min_size=1, max_size=60),
)
def test_every_event_is_acknowledged_after_enough_records_and_none_leaves_its_order(
    reasons: list[int], room: int, answers: list[bool]
) -> None:
    journal = [happened(number, reason="x" * size) for number, size in enumerate(reasons)]
    teller, heard, monotonic_ns = EventTeller(), set(), 0
    for is_acknowledged in [*answers, *[True] * (len(journal) + 1)]:
        chosen = teller.choose({"serving": journal}, room, monotonic_ns)["serving"]
        assert [event.time_ns for event in chosen] == sorted(event.time_ns for event in chosen)
        monotonic_ns += 10**10
        if is_acknowledged:
            teller.acknowledged(monotonic_ns)
            heard |= {event.time_ns for event in chosen}
    assert heard == {event.time_ns for event in journal}

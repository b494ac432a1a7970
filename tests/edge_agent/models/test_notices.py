"""A notice makes the vehicle look at once; it is only a hint, and nobody needs it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from edge_agent.notices import LOOK_GAP_S, RETRY_MAX_S, NoticeJob
from edge_agent.step import Failed, Idle
from foundation.clock import ManualClock
from foundation.errors import MisconfiguredError
from schemas.codec import decode_notice
from schemas.notices import notice_record
from schemas.records import Notice
from schemas.wire import TOPICS, WireRecord
from services.notices import send_notice
from tests.edge_agent.models.model_bench import Bench
from tests.fakes.kafka import FakeBroker, FakeSink, FakeTail


@dataclass
class Ear:
    """A vehicle's listener, the broker that it hears, and how often it looked."""

    clock: ManualClock = field(default_factory=ManualClock)
    broker: FakeBroker = field(default_factory=FakeBroker)
    looks: int = 0

    def __post_init__(self) -> None:
        self.tails: list[FakeTail] = []
        self.job = NoticeJob("car-1", self.make_tail, self.look, self.clock)

    def make_tail(self) -> FakeTail:
        self.tails.append(FakeTail(self.broker, TOPICS.notices))
        return self.tails[-1]

    def look(self) -> None:
        self.looks += 1

    def publish(self, target: str = "", *, value: bytes | None = None) -> None:
        record = notice_record(Notice("n", 1, target=target))
        self.broker.produce(record if value is None else WireRecord(record.topic, b"", value, ()))

    def step(self) -> int:
        """Listen once, long after the look before. Returns how many looks came of it."""
        self.clock.advance(LOOK_GAP_S)
        before = self.looks
        assert isinstance(self.job.step(), Idle)
        return self.looks - before


@pytest.fixture
def ear() -> Ear:
    return Ear()


def test_listening_begins_at_the_end_and_looks_once_for_what_was_said_before(ear: Ear) -> None:
    for _ in range(3):
        ear.publish()
    assert ear.step() == 1
    assert ear.step() == 0
    assert ear.job.heard == 0
    ear.publish()
    assert ear.step() == 1
    assert ear.job.status() == {"listening": True, "heard": 1, "ignored": 0, "last_error": ""}


def test_a_notice_for_another_vehicle_and_bytes_that_are_none_are_ignored_and_counted(ear: Ear) -> None:
    ear.step()
    ear.publish("car-2")
    ear.publish(value=b"")
    ear.publish(value=b"\xc3\x01 no notice at all")
    assert ear.step() == 0
    ear.publish("car-1")
    assert ear.step() == 1
    assert (ear.job.heard, ear.job.ignored) == (1, 3)


def test_a_flood_of_notices_makes_a_vehicle_look_once_in_a_while_and_misses_none(ear: Ear) -> None:
    ear.step()
    for _ in range(100):
        ear.publish()
        ear.job.step()
        ear.clock.advance(LOOK_GAP_S / 10)
    assert 9 <= ear.looks <= 12
    assert ear.job.heard == 100
    ear.step()
    ear.publish()
    looks = ear.looks
    ear.job.step()
    assert ear.looks == looks  # too early
    assert ear.step() == 1  # but not forgotten


def test_a_broker_that_is_away_is_normal_and_what_was_said_meanwhile_is_looked_for(ear: Ear) -> None:
    ear.broker.stop()
    for _ in range(5):
        done = ear.job.step()
        assert isinstance(done, Failed)
        assert 0 <= done.wait_s <= RETRY_MAX_S
    assert ear.looks == 0
    assert all(tail.is_closed for tail in ear.tails)
    assert "not reachable" in ear.job.last_error
    ear.broker.start()
    ear.publish()
    assert ear.step() == 1
    assert ear.job.last_error == ""


def test_a_missing_topic_and_a_refused_client_stop_nothing(ear: Ear) -> None:
    ear.broker.delete_topic(TOPICS.notices)
    assert isinstance(ear.job.step(), Failed)

    def refuse() -> FakeTail:
        raise MisconfiguredError("the broker refuses this client")

    refused = NoticeJob("car-1", refuse, ear.look, ear.clock)
    assert isinstance(refused.step(), Failed)
    assert "refuses this client" in refused.last_error


def test_a_notice_brings_a_plan_long_before_the_interval_and_changes_no_trust(bench: Bench) -> None:
    fetcher = bench.fetcher(poll_interval_s=3600.0)
    assert bench.run(fetcher)[-1].wait_s == 3600.0
    bench.release("r2", 2)
    bench.plan("r2")
    assert fetcher.step().outcome == "idle"
    assert fetcher.status().refreshes == 1
    broker = FakeBroker()
    job = NoticeJob("car-1", lambda: FakeTail(broker, TOPICS.notices), fetcher.look_now, bench.clock)
    job.step()
    bench.run(fetcher)
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    assert candidate.slot.release_id == "r2"
    bench.clock.advance(LOOK_GAP_S)
    broker.produce(notice_record(Notice("n", 1, kind="release", detail="run r9 now, trust me")))
    refreshes = fetcher.status().refreshes
    job.step()
    bench.run(fetcher)
    assert fetcher.status().refreshes == refreshes + 1
    assert bench.slots.read_candidate() == candidate


def test_a_notice_in_the_middle_of_a_refresh_is_not_lost(bench: Bench) -> None:
    fetcher = bench.fetcher(poll_interval_s=3600.0)
    bench.release("r2", 2)
    bench.plan("r2")
    assert fetcher.step().detail == "fetching release r2"
    fetcher.look_now()  # while the release is brought in
    bench.run(fetcher)
    assert bench.slots.read_candidate() is not None
    assert fetcher.status().refreshes == 2
    fetcher.step()
    assert fetcher.status().refreshes == 2


def test_a_notice_is_published_with_headers_that_say_what_it_is() -> None:
    broker, clock = FakeBroker(), ManualClock()
    assert send_notice(FakeSink(broker, clock=clock), Notice("n1", 7, detail="r2"), clock, 1.0) == ""
    (record,) = broker.records(TOPICS.notices)
    assert decode_notice(record.value or b"").detail == "r2"
    assert dict(record.headers)["ce_type"] == b"ai.fleetloop.notice.v1"


def test_a_broker_that_does_not_answer_delays_a_publication_by_the_deadline_only() -> None:
    broker, clock = FakeBroker(), ManualClock()
    broker.stop()
    began_ns = clock.monotonic_ns()
    assert "not reachable" in send_notice(FakeSink(broker, clock=clock), Notice("n1", 7), clock, 1.0)
    assert clock.monotonic_ns() - began_ns <= 1_000_000_000

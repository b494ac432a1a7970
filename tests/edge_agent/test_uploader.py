"""The uploader on a fake sink: nothing but an acknowledgement takes a record out of the spool."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.step import Failed, Idle, Ok
from edge_agent.uploader import SHORTEST_WAIT_S, Uploader, UploaderSettings
from foundation.errors import RejectedError, RetryLaterError, UntrustedError
from schemas.reasons import ValueClass
from schemas.wire import FL_SEQ, TOPICS, StoredRecord
from tests.edge_agent.spool.spool_rig import Spool, faults, whereabouts
from tests.fakes.kafka import FakeBroker, FakeSink

SETTINGS = UploaderSettings(max_in_flight_bytes=20_000, lease_bytes=5_000, stall_s=10.0)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder)
        self.clock = self.spool.clock
        self.broker = FakeBroker(clock=self.clock)
        self.sinks: list[FakeSink] = []
        self.refuse: list[Exception] = []
        self.is_held = False
        self.uploader = self.make()

    def make(self, settings: UploaderSettings = SETTINGS) -> Uploader:
        self.uploader = Uploader(
            self.spool.reader, self.sink, settings, self.clock, self.spool.events, rng=random.Random(1)
        )
        return self.uploader

    def sink(self) -> FakeSink:
        if self.refuse:
            raise self.refuse.pop(0)
        made = FakeSink(self.broker, clock=self.clock)
        made.is_held = self.is_held
        self.sinks.append(made)
        return made

    def run(self, steps: int = 200, seconds: float = 1.0) -> None:
        for _ in range(steps):
            self.uploader.step()
            if self.uploader.is_drained:
                return
            self.clock.advance(seconds)
        raise AssertionError(self.uploader.status())

    def log(self) -> list[StoredRecord]:
        return self.broker.records(TOPICS.samples)

    def seqs(self) -> list[int]:
        return [int(dict(record.headers)[FL_SEQ]) for record in self.log()]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with faults(is_syncing=False):
        made = Rig(tmp_path / "spool")
        yield made
        made.spool.close()


def test_everything_lands_once_and_the_ledger_says_delivered(rig: Rig) -> None:
    rig.spool.put(30)
    rig.run()
    assert rig.seqs() == list(range(30))
    counts = rig.spool.ledger().counts
    assert (counts.accepted, counts.delivered, counts.pending) == (30, 30, 0)
    status = rig.uploader.status()
    assert status.connected
    assert status.bytes_uploaded == sum(len(record.value or b"") for record in rig.log())
    assert isinstance(rig.uploader.step(), Idle)


def test_critical_records_go_first_and_a_class_keeps_its_order(rig: Rig) -> None:
    rig.spool.put(3, ValueClass.LOW)
    rig.spool.put(3, ValueClass.CRITICAL)
    rig.spool.put(3, ValueClass.NORMAL)
    rig.run()
    assert rig.seqs() == [3, 4, 5, 6, 7, 8, 0, 1, 2]


def test_a_start_without_a_broker_is_normal(rig: Rig) -> None:
    rig.refuse = [RetryLaterError("no broker at 127.0.0.1:1")] * 5
    rig.spool.put(3)
    first = rig.uploader.step()
    assert isinstance(first, Failed)
    assert "no broker" in first.reason
    assert not rig.uploader.status().connected
    assert "no broker" in rig.uploader.status().last_error
    rig.run()
    assert rig.seqs() == [0, 1, 2]
    assert rig.uploader.status().last_error == ""


def test_attempts_are_spaced_by_a_growing_backoff(rig: Rig) -> None:
    rig.refuse = [RetryLaterError("no broker")] * 1_000
    rig.spool.put(1)
    for _ in range(6_000):
        rig.uploader.step()
        rig.clock.advance(0.1)
    tried = 1_000 - len(rig.refuse)
    assert 20 < tried < 90, "600 s with pauses of at most 30 s"


def test_a_refused_certificate_is_never_delivery(rig: Rig) -> None:
    rig.refuse = [UntrustedError("certificate expired")] * 3
    rig.spool.put(2)
    for _ in range(50):
        result = rig.uploader.step()
        assert not isinstance(result, Ok) or rig.sinks
        if not rig.sinks:
            assert rig.spool.ledger().counts.delivered == 0
            assert "certificate expired" in rig.uploader.status().last_error
        rig.clock.advance(1.0)
    assert rig.seqs() == [0, 1]


def test_whoever_is_not_let_in_says_so_until_an_acknowledgement_says_otherwise(rig: Rig) -> None:
    rig.refuse = [UntrustedError("certificate expired")]
    rig.spool.put(3)
    assert rig.uploader.status().state == "waiting"
    rig.uploader.step()
    assert rig.uploader.status().state == "refused"
    rig.is_held = True
    rig.clock.advance(5.0)
    rig.uploader.step()
    assert rig.uploader.status().state == "refused", "a new client that has no answer yet is no news"
    rig.is_held = rig.sinks[-1].is_held = False
    rig.sinks[-1].pump()
    rig.uploader.step()
    assert rig.uploader.status().state == "connected"
    rig.spool.put(1)
    rig.is_held = rig.sinks[-1].is_held = True
    rig.uploader.step()
    rig.sinks[-1]._last_error, rig.sinks[-1].is_refused = "Handshake failed: alert", True
    rig.clock.advance(1.0)
    rig.uploader.step()
    assert rig.uploader.status().state == "refused", (
        "the client's own words are enough: no answer may ever come"
    )
    rig.sinks[-1]._last_error, rig.sinks[-1].is_refused = "nobody listens", False
    rig.clock.advance(1.0)
    rig.uploader.step()
    assert rig.uploader.status().state == "waiting"
    assert rig.spool.ledger().counts.delivered == 3


def test_a_refused_send_is_sent_again_and_not_counted(rig: Rig) -> None:
    rig.spool.put(4)
    rig.is_held = True
    rig.uploader.step()
    rig.sinks[0].fail_next(UntrustedError("topic authorization failed"), 2)
    rig.sinks[0].pump()
    assert isinstance(rig.uploader.step(), Failed)
    assert rig.spool.ledger().counts.delivered == 2
    rig.is_held = rig.sinks[0].is_held = False
    rig.run()
    assert sorted(rig.seqs()) == [0, 1, 2, 3]
    assert rig.uploader.status().resent == 2


def test_a_sink_without_progress_is_dropped_and_a_new_one_made(rig: Rig) -> None:
    rig.spool.put(5)
    rig.is_held = True
    rig.uploader.step()
    rig.clock.advance(9.0)
    assert isinstance(rig.uploader.step(), Idle)
    rig.clock.advance(2.0)
    result = rig.uploader.step()
    assert isinstance(result, Failed)
    assert "no progress" in result.reason
    assert rig.sinks[0].is_closed
    rig.is_held = False
    rig.run()
    assert len(rig.sinks) == 2
    assert rig.seqs() == [0, 1, 2, 3, 4]
    assert rig.uploader.status().stalls == 1
    assert rig.uploader.status().sinks_made == len(rig.sinks) == 2, "each sink is counted once"


def test_an_idle_sink_is_not_taken_for_a_stalled_one(rig: Rig) -> None:
    rig.spool.put(1)
    rig.run()
    rig.clock.advance(3_600.0)
    rig.uploader.step()
    rig.spool.put(1)
    rig.run()
    assert len(rig.sinks) == 1


def test_dropped_acknowledgements_lead_to_resends_with_the_same_bytes(rig: Rig) -> None:
    rig.spool.put(3)
    rig.is_held = True
    rig.uploader.step()
    rig.sinks[0].drops_acknowledgements = True
    rig.sinks[0].pump()
    rig.is_held = False
    assert len(rig.log()) == 3
    rig.run()
    assert sorted(rig.seqs()) == [0, 0, 1, 1, 2, 2]
    assert len({record.value for record in rig.log()}) == 3
    assert rig.uploader.status().resent == 3
    assert rig.spool.ledger().counts.delivered == 3


def test_bytes_in_flight_stay_under_the_cap_and_leases_do_not_pile_up(rig: Rig) -> None:
    rig.spool.put(60, size_bytes=700)
    rig.is_held = True
    for _ in range(30):
        rig.uploader.step()
        assert rig.uploader.status().in_flight_bytes <= SETTINGS.max_in_flight_bytes
        assert rig.sinks[0].in_flight_bytes <= SETTINGS.max_in_flight_bytes
        rig.clock.advance(0.1)
    assert rig.spool.reader.leased < 30
    rig.is_held = rig.sinks[0].is_held = False
    rig.sinks[0].pump()
    rig.run()
    assert rig.seqs() == list(range(60))


def test_a_nearly_full_window_is_no_reason_for_a_lease_of_one_record(rig: Rig) -> None:
    """Every lease is synced: room is saved up to a quarter of the window."""
    rig.is_held = True
    rig.spool.put(60, size_bytes=600)
    rig.uploader.step()
    full = rig.spool.reader.leased
    sink = rig.sinks[0]
    for number in range(1, 4):  # 20 kB are the window, about 1.3 kB one record
        record, on_done = sink._queue.popleft()
        on_done(rig.broker.produce(record))
        rig.uploader.step()
        assert rig.spool.reader.leased == full - number
    for _ in range(2):
        record, on_done = sink._queue.popleft()
        on_done(rig.broker.produce(record))
    rig.uploader.step()
    assert rig.spool.reader.leased > full - 3
    rig.is_held = rig.sinks[0].is_held = False
    rig.sinks[0].pump()
    rig.run()
    assert rig.seqs() == list(range(60))


def test_a_fast_network_is_not_kept_waiting_and_a_slow_one_costs_no_looking(rig: Rig) -> None:
    rig.is_held = True
    rig.spool.put(2)
    rig.uploader.step()
    assert rig.uploader.step() == Idle(), "no answer yet: nothing is known"
    for answer_s, wait_s in ((0.04, 0.005), (3.0, Idle().wait_s), (0.001, SHORTEST_WAIT_S)):
        rig.spool.put(1)
        rig.uploader.step()
        rig.clock.advance(answer_s)
        rig.sinks[0].pump()
        rig.uploader.step()
        rig.spool.put(1)
        rig.uploader.step()
        idle = rig.uploader.step()
        assert isinstance(idle, Idle)
        assert idle.wait_s == pytest.approx(wait_s)
        rig.sinks[0].pump()
        rig.uploader.step()
    rig.spool.put(1)
    rig.uploader.step()
    rig.clock.advance(1.0)
    assert rig.uploader.step() == Idle(), "answers were fast, but the broker fell silent"


def test_back_pressure_of_the_sink_loses_nothing(rig: Rig) -> None:
    rig.make(UploaderSettings(max_in_flight_bytes=1_000_000, lease_bytes=50_000))
    real = rig.sink

    def tight() -> FakeSink:
        made = real()
        made._max_in_flight_bytes = 4_000
        return made

    rig.uploader._sink_factory = tight
    rig.is_held = True
    rig.spool.put(20, size_bytes=300)
    rig.uploader.step()
    assert 0 < len(rig.sinks[0].sent) < 20
    rig.sinks[0].is_held = False
    rig.sinks[0].pump()
    rig.run()
    assert rig.seqs() == list(range(20))
    assert len(rig.sinks) == 1


def test_a_record_above_the_brokers_limit_is_given_up_by_name_and_the_rest_goes_on(rig: Rig) -> None:
    rig.broker.max_record_bytes = 3_000
    rig.spool.put(1)
    rig.spool.put(1, size_bytes=5_000)
    rig.spool.put(1)
    rig.run()
    assert rig.seqs() == [0, 2]
    counts = rig.spool.ledger().counts
    assert counts.evicted == {"policy": 1}
    assert rig.spool.ledger().balances()
    assert rig.uploader.status().refused == 1


def test_another_rejection_is_not_a_reason_to_give_up(rig: Rig) -> None:
    rig.spool.put(2)
    rig.is_held = True
    rig.uploader.step()
    rig.sinks[0].fail_next(RejectedError("unknown topic", reason="no_such_topic"), 2)
    rig.sinks[0].pump()
    rig.is_held = False
    rig.run()
    assert sorted(rig.seqs()) == [0, 1]
    assert len(rig.sinks) == 2, "a refused record may have poisoned the client"


def test_what_was_in_flight_at_a_kill_is_sent_again(rig: Rig) -> None:
    rig.spool.put(6)
    rig.is_held = True
    rig.uploader.step()
    rig.spool.restart_reader()
    rig.is_held = False
    rig.make()
    rig.run()
    assert rig.seqs() == [0, 1, 2, 3, 4, 5]
    assert rig.uploader.status().resent == 6


def test_the_bytes_uploaded_survive_a_restart(rig: Rig) -> None:
    rig.spool.put(3)
    rig.run()
    rig.uploader.close()
    before = rig.uploader.status().bytes_uploaded
    rig.spool.restart_reader()
    rig.make()
    assert rig.uploader.status().bytes_uploaded == before > 0


def test_a_broker_that_comes_and_goes_gets_everything_once_acknowledged(rig: Rig) -> None:
    chance = random.Random(3)
    for _ in range(40):
        rig.spool.put(chance.randint(0, 3))
        (rig.broker.start if chance.random() < 0.5 else rig.broker.stop)()
        for _ in range(chance.randint(1, 5)):
            rig.uploader.step()
            if rig.sinks and not rig.sinks[-1].is_closed and chance.random() < 0.5:
                rig.sinks[-1].pump()
            rig.clock.advance(chance.choice([0.1, 1.0, 8.0]))
        assert rig.spool.ledger().balances()
    rig.broker.start()
    for _ in range(200):
        rig.uploader.step()
        if rig.sinks and not rig.sinks[-1].is_closed:
            rig.sinks[-1].pump()
        rig.clock.advance(1.0)
    places = whereabouts(rig.spool.ledger())
    assert set(places.values()) == {"delivered"}
    assert set(rig.seqs()) == {seq for _, seq in places}


def test_a_step_without_a_ledger_that_can_be_written_fails_and_sends_nothing(tmp_path: Path) -> None:
    with faults(is_syncing=False) as hook:
        rig = Rig(tmp_path / "spool")
        rig.spool.put(2)
        hook.fail_next("write", 1_000)
        result = rig.uploader.step()
        assert isinstance(result, Failed)
        assert "journal" in result.reason
        assert rig.log() == []
        hook.fail["write"] = set()
        rig.run()
        assert rig.seqs() == [0, 1]
        rig.spool.close()

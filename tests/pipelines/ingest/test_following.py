"""`ingest --follow` commits few files, within a stated time, and is quiet while the broker is away."""

from __future__ import annotations

import logging
import threading

import pytest

from connectors.kafka.errors import client_log
from foundation.clock import ManualClock
from foundation.errors import MisconfiguredError, RetryLaterError
from pipelines.ingest.backlog import Backlog, FollowSettings, count_waiting
from pipelines.ingest.outage import Outage
from tests.fakes.kafka import FakeBroker, FakeSource
from tests.pipelines.ingest.ingest_lab import TOPIC, Lab

S = 10**9


class Table:
    """A snapshot whose end of each partition can be set."""

    def __init__(self) -> None:
        self.ends: dict[str, int] = {}

    def app_transaction(self, name: str) -> int | None:
        return self.ends.get(name.rpartition("/")[2])


def produce(broker: FakeBroker, count: int) -> None:
    for _ in range(count):
        broker.append(TOPIC, b"v1", b"x", (), partition=0)


def test_a_record_waits_until_there_are_enough_or_the_stated_time_is_over() -> None:
    broker, table = FakeBroker({TOPIC: 2}), Table()
    backlog = Backlog(FollowSettings(fresh_s=60.0, enough_offsets=100))

    def is_due(second: float) -> bool:
        return backlog.is_due(table, FakeSource(broker), TOPIC, round(second * S))  # type: ignore[arg-type]

    assert backlog.is_due_anyway, "the first look runs, whatever waits"
    backlog.ran()
    assert not backlog.is_due_anyway
    assert not is_due(1000), "nothing waits"
    produce(broker, 1)
    assert not is_due(1001)
    produce(broker, 50)
    assert not is_due(1060), "the time counts from the first record"
    assert is_due(1061)
    backlog.ran()
    table.ends = {"0": 51}
    produce(broker, 99)
    assert not is_due(1062)
    produce(broker, 1)
    assert is_due(1063), "a full file is not waited for"


def test_a_log_that_ends_before_the_lake_is_for_a_run_to_tell() -> None:
    broker, table = FakeBroker({TOPIC: 1}), Table()
    table.ends = {"0": 5}
    assert count_waiting(table, FakeSource(broker), TOPIC) is None  # type: ignore[arg-type]


def test_a_quiet_topic_makes_one_run_for_each_stated_time_and_no_more(tmp_path) -> None:
    """100 looks at 5 s with a record each: files for each minute, not for each look."""
    lab, clock, stop = Lab(tmp_path, partitions=1), ManualClock(), threading.Event()
    job = lab.ingest(clock=clock)
    looks, runs = [], []
    is_due = Backlog.is_due

    def look(self, *given):
        looks.append(clock.monotonic_ns())
        lab.produce(lab.fleet.record("v1", len(looks)))
        if len(looks) == 39:
            stop.set()
        return is_due(self, *given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Backlog, "is_due", look)
        job.follow(stop, runs.append, settings=FollowSettings(poll_s=5.0, fresh_s=60.0))
    assert len(looks) == 39
    assert len(runs) <= 1 + 40 * 5 // 60 + 1
    waited_ns = max(b - a for a, b in zip(looks, looks[12:], strict=False))
    assert waited_ns <= 61 * S
    assert lab.table.snapshot().files().num_rows == sum(report.files for report in runs)


def test_settings_that_cannot_be_are_named() -> None:
    with pytest.raises(MisconfiguredError, match="fresh_s is -1"):
        FollowSettings(fresh_s=-1)


def test_an_outage_is_one_line_a_change_another_and_its_end_says_how_often() -> None:
    told: list[str] = []
    outage = Outage(told.append)
    outage.ended()
    for attempt in range(500):
        outage.failed(RetryLaterError(f"no broker at 127.0.0.1:9092 within {attempt}.5 s"))
    outage.failed(RetryLaterError("the broker refuses the certificate"))
    outage.ended()
    outage.ended()
    assert told == [
        "waiting (1 failed): no broker at 127.0.0.1:9092 within 0.5 s",
        "waiting (501 failed): the broker refuses the certificate",
        "going on after 501 failed",
    ]


def test_the_clients_retries_reach_no_handler_but_ours(caplog: pytest.LogCaptureFixture) -> None:
    """Beam gives the root logger a handler; a thousand lines of the client came out of it in an outage."""
    client_log()
    root = logging.getLogger()
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Handler()
    root.addHandler(handler)
    try:
        logging.getLogger("kafka.conn").error("connection refused")
    finally:
        root.removeHandler(handler)
    assert lines == []

"""A tail hears what comes from now on, on the fake and on a real broker; without one it says so soon."""

from __future__ import annotations

import time

import pytest

from connectors.kafka.ports import RecordTail
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.tail import KafkaTail
from foundation.errors import RetryLaterError
from tests.connectors.worlds import Outcomes, World, record
from tests.fakes.kafka import FakeTail


def tail_of(world: World, topic: str) -> RecordTail:
    if world.settings is None:
        return FakeTail(world.broker, topic)
    return KafkaTail(world.settings, topic)


def send(world: World, topic: str, *values: bytes) -> None:
    sink, outcomes = world.sink(), Outcomes()
    for value in values:
        one = record(topic, value)
        sink.send(one, outcomes.of(one))
    outcomes.wait(len(values))
    assert not outcomes.errors
    sink.close(5.0)


def hear(tail: RecordTail, count: int, seconds: float = 10.0) -> list[bytes | None]:
    found: list[bytes | None] = []
    until = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < until:
        found += [each.value for each in tail.poll(0.5)]
    return found


def test_a_tail_hears_what_comes_after_it_began_and_nothing_before(world: World) -> None:
    topic = world.topic(partitions=2)
    send(world, topic, b"before-1", b"before-2")
    tail = tail_of(world, topic)
    assert not tail.is_connected
    assert tail.poll(0.1) == []
    assert tail.is_connected
    send(world, topic, b"after-1", b"after-2")
    found = hear(tail, 4 if world.kind == "embedded" else 2, seconds=5.0)
    assert {b"after-1", b"after-2"} <= set(found)
    assert len(found) == len(set(found))
    if world.kind != "embedded":  # its end is told a record early, see `KafkaSource.bounds`
        assert len(found) == 2
    assert tail.poll(0.1) == []
    tail.close()
    assert not tail.is_connected


def test_a_missing_topic_is_said_and_tried_again(world: World) -> None:
    tail = tail_of(world, "no-such-topic")
    with pytest.raises(Exception, match="no-such-topic"):
        tail.poll(0.1)
    assert not tail.is_connected
    tail.close()


def test_a_missing_broker_is_said_within_seconds() -> None:
    tail = KafkaTail(KafkaSettings(bootstrap="127.0.0.1:1"), "fleetloop.notices")
    began_s = time.monotonic()
    with pytest.raises(RetryLaterError):
        tail.poll(0.1)
    assert time.monotonic() - began_s < 12
    assert not tail.is_connected

"""A topic that a broker accepted a moment ago is waited for, and only that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from connectors.kafka import admin
from connectors.kafka.ports import TopicInfo
from connectors.kafka.settings import KafkaSettings
from foundation.clock import ManualClock
from foundation.errors import RejectedError
from schemas.topics import Topic

TOPIC = Topic("t", 1, 60)


class Broker:
    """Knows its new topic only after so many questions."""

    def __init__(self, unknown: int, reason: str = "no_such_topic") -> None:
        self.unknown, self.reason, self.asked = unknown, reason, 0

    def create(self, _topic: Topic, _replicas: int) -> bool:
        return True

    def describe(self, topic: str) -> TopicInfo:
        self.asked += 1
        if self.asked <= self.unknown:
            raise RejectedError(f"there is no topic {topic!r}", reason=self.reason)
        return TopicInfo("cluster", topic, "id", (0,))


def ensure(broker: Broker, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> list[admin.TopicState]:
    @contextmanager
    def administration(_settings: KafkaSettings) -> Iterator[Broker]:
        yield broker

    monkeypatch.setattr(admin, "administration", administration)
    return admin.ensure_topics("127.0.0.1:1", [TOPIC], clock=clock)


def test_a_topic_that_the_broker_does_not_know_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, clock = Broker(unknown=5), ManualClock()
    (state,) = ensure(broker, clock, monkeypatch)
    assert state.info.topic_id == "id" and broker.asked == 6


def test_a_topic_that_never_comes_is_refused_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, clock = Broker(unknown=10**9), ManualClock()
    began_ns = clock.monotonic_ns()
    with pytest.raises(RejectedError, match="no topic"):
        ensure(broker, clock, monkeypatch)
    assert 10e9 < clock.monotonic_ns() - began_ns < 60e9


def test_another_refusal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(unknown=1, reason="no_topic_id")
    with pytest.raises(RejectedError):
        ensure(broker, ManualClock(), monkeypatch)
    assert broker.asked == 1

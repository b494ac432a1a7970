"""Three brokers behind one small port, and what the tests of this folder share."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from connectors.kafka.admin import administration, ensure_topics
from connectors.kafka.ports import Acknowledgement, RecordSink, RecordSource
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from foundation.errors import FleetLoopError
from schemas.topics import Topic
from schemas.wire import WireRecord
from tests.fakes.kafka import FakeSink, FakeSource

KAFKA_HOME = Path(__file__).parents[2] / ".cache" / "kafka"


class Outcomes:
    """Collects what the callbacks of a sink were told; waits for a number of them."""

    def __init__(self) -> None:
        self.all: list[Acknowledgement | FleetLoopError] = []
        self.by_value: dict[bytes, list[Acknowledgement | FleetLoopError]] = {}
        self._changed = threading.Condition()

    def of(self, record: WireRecord) -> Any:
        def on_done(outcome: Acknowledgement | FleetLoopError) -> None:
            with self._changed:
                self.all.append(outcome)
                self.by_value.setdefault(record.value, []).append(outcome)
                self._changed.notify_all()

        return on_done

    def wait(self, count: int, seconds: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= count, seconds), (
                f"{len(self.all)} of {count} callbacks came within {seconds} s: {self.all[-3:]}"
            )

    @property
    def acknowledged(self) -> list[Acknowledgement]:
        return [each for each in self.all if isinstance(each, Acknowledgement)]

    @property
    def errors(self) -> list[FleetLoopError]:
        return [each for each in self.all if isinstance(each, FleetLoopError)]


@dataclass
class World:
    """What the contract tests need of a broker."""

    kind: str
    broker: Any
    settings: KafkaSettings | None

    def topic(self, partitions: int = 1) -> str:
        """A new topic of its own for one test."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.create(name, partitions)
        return name

    def create(self, name: str, partitions: int = 1) -> None:
        if self.settings is None:
            self.broker.create_topic(name, partitions)
        else:
            ensure_topics(self.settings, [Topic(name, partitions, 3600)])

    def delete(self, name: str) -> None:
        if self.settings is None:
            self.broker.delete_topic(name)
        else:
            with administration(self.settings) as admin:
                admin.delete(name)

    def retire(self, name: str, partition: int, before_offset: int) -> None:
        """What retention does."""
        if self.settings is None:
            self.broker.delete_records(name, partition, before_offset)
        else:
            with administration(self.settings) as admin:
                admin.delete_records(name, partition, before_offset)

    def sink(self, **changes: Any) -> RecordSink:
        if self.settings is None:
            return FakeSink(self.broker, **changes)
        return KafkaSink(replace(self.settings, **changes))

    def source(self, **changes: Any) -> RecordSource:
        if self.settings is None:
            return FakeSource(self.broker)
        return KafkaSource(replace(self.settings, **changes))


def record(topic: str, value: bytes, key: bytes = b"v-1") -> WireRecord:
    return WireRecord(topic, key, value, (("fl_seq", b"7"), ("raw", b"\x00\xff")))


def read_all(source: RecordSource, topic: str) -> list[Any]:
    found = []
    for partition in source.describe(topic).partitions:
        begin, end = source.bounds(topic, partition)
        for batch in source.read(topic, partition, begin, end):
            found.extend(batch)
    return found

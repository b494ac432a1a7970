"""In-memory fakes of the broker ports, which pass the same contract tests as the real adapters and can be made to fail.

`FakeBroker` is a Kafka log in memory: topics with ids, partitions with offsets, retention and compaction gaps. The
contract tests run on these fakes, on the embedded broker and on Apache Kafka. Nothing here starts a thread, sleeps or
opens a socket.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from connectors.kafka.limits import check_size
from connectors.kafka.ports import Acknowledgement, OnDone, TopicInfo
from foundation.clock import Clock, SystemClock
from foundation.errors import (
    BackPressureError,
    FleetLoopError,
    OffsetsLostError,
    RejectedError,
    RetryLaterError,
)
from schemas.topics import MAX_RECORD_BYTES, TOPIC_TABLE
from schemas.wire import StoredRecord, WireRecord


@dataclass(slots=True)
class _Partition:
    records: list[StoredRecord] = field(default_factory=list)
    begin: int = 0
    end: int = 0
    hidden: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Topic:
    topic_id: str
    partitions: list[_Partition]


class FakeBroker:
    """A broker's log in memory. `topics` maps a name to its partitions; the standard topics by default."""

    def __init__(
        self,
        topics: Mapping[str, int] | None = None,
        *,
        cluster_id: str = "fake-cluster",
        max_record_bytes: int = MAX_RECORD_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self.cluster_id = cluster_id
        self.max_record_bytes = max_record_bytes
        self.is_up = True
        self.open_offsets = 0
        """Number of offsets after the end of each partition that belong to an open transaction."""
        self.warnings: list[str] = []
        """The warnings that a source returns for the topics' settings."""
        self._clock = clock or SystemClock()
        self._created = 0
        self._topics: dict[str, _Topic] = {}
        standard = {spec.name: spec.partitions for spec in TOPIC_TABLE}
        for name, partitions in (standard if topics is None else topics).items():
            self.create_topic(name, partitions)

    def create_topic(self, topic: str, partitions: int = 1) -> TopicInfo:
        """Create a topic; if it exists, recreate it with another topic id."""
        self._created += 1
        self._topics[topic] = _Topic(
            f"topic-id-{self._created:04d}", [_Partition() for _ in range(partitions)]
        )
        return self.describe(topic)

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and its records."""
        self._topics.pop(topic, None)

    def stop(self) -> None:
        """Become unreachable. The log is kept, as on a durable disk."""
        self.is_up = False

    def start(self) -> None:
        """Become reachable again."""
        self.is_up = True

    def restart_empty(self) -> None:
        """Lose every record, as the embedded broker does: the topics come back with other ids."""
        for name, topic in list(self._topics.items()):
            self.create_topic(name, len(topic.partitions))
        self.is_up = True

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        *,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Acknowledgement:
        """Append one record, well formed or not, as any producer on the topic could.

        Raises RetryLaterError while stopped, RejectedError (reason no_such_topic or oversize).
        """
        if not self.is_up:
            raise RetryLaterError("the broker is not reachable")
        found = self._find(topic)
        check_size(topic, value or b"", self.max_record_bytes)
        number = zlib.crc32(key or b"") % len(found.partitions) if partition is None else partition
        log = found.partitions[number]
        stamp = self._clock.now_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
        log.records.append(StoredRecord(number, log.end, stamp, key, value, tuple(headers)))
        log.end += 1
        return Acknowledgement(topic, number, log.end - 1)

    def produce(self, record: WireRecord) -> Acknowledgement:
        """Append one wire record and return its acknowledgement."""
        return self.append(record.topic, record.key, record.value, record.headers)

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Remove everything below `before_offset`, as retention does."""
        log = self._find(topic).partitions[partition]
        log.begin = max(log.begin, min(before_offset, log.end))
        log.records = [record for record in log.records if record.offset >= log.begin]

    def compact(self, topic: str, partition: int, offsets: Iterable[int]) -> None:
        """Remove the records at these offsets, as log compaction does."""
        gone = set(offsets)
        log = self._find(topic).partitions[partition]
        log.records = [record for record in log.records if record.offset not in gone]

    def abort(self, topic: str, partition: int, offsets: Iterable[int]) -> None:
        """Hide the records at these offsets from readers, as Kafka does for aborted transactions and markers."""
        self.compact(topic, partition, offsets := tuple(offsets))
        self._find(topic).partitions[partition].hidden.update(offsets)

    def hidden(self, topic: str, partition: int) -> frozenset[int]:
        """Return the offsets that `abort` hid."""
        return frozenset(self._find(topic).partitions[partition].hidden)

    def records(self, topic: str) -> list[StoredRecord]:
        """Return all records of the topic, by partition and offset."""
        return [record for log in self._find(topic).partitions for record in log.records]

    def describe(self, topic: str) -> TopicInfo:
        """Return the topic's present state. Raises RejectedError (reason no_such_topic)."""
        found = self._find(topic)
        return TopicInfo(self.cluster_id, topic, found.topic_id, tuple(range(len(found.partitions))))

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first retained offset and one past the last: [begin, end)."""
        log = self._find(topic).partitions[partition]
        return log.begin, log.end

    def _find(self, topic: str) -> _Topic:
        found = self._topics.get(topic)
        if found is None:
            raise RejectedError(f"there is no topic {topic!r}", reason="no_such_topic")
        return found


class FakeSink:
    """A sink into a FakeBroker. Acknowledges inside `send` unless it is set to hold, to fail or to drop.

    `is_held`: queue records until `pump()` (a stall). `drops_acknowledgements`: the record is appended, but its callback
    comes only at `close`, with an error (a connection that died after the write). `fail_next(error)`: the next record
    ends with that error and is not appended.
    """

    def __init__(
        self,
        broker: FakeBroker,
        *,
        max_in_flight_bytes: int = 16_000_000,
        clock: Clock | None = None,
    ) -> None:
        self.broker = broker
        self.is_held = False
        self.drops_acknowledgements = False
        self.is_closed = False
        self.is_refused = False
        self.sent: list[WireRecord] = []
        self._max_in_flight_bytes = max_in_flight_bytes
        self._clock = clock or SystemClock()
        self._last_progress_ns = self._clock.monotonic_ns()
        self._last_error = ""
        self._failures: deque[FleetLoopError] = deque()
        self._queue: deque[tuple[WireRecord, OnDone]] = deque()
        self._silent: list[tuple[WireRecord, OnDone]] = []

    def fail_next(self, error: FleetLoopError, count: int = 1) -> None:
        """End the next `count` records with `error` instead of writing them."""
        self._failures.extend([error] * count)

    def send(self, record: WireRecord, on_done: OnDone) -> None:
        """See `RecordSink.send`."""
        if self.is_closed:
            raise RetryLaterError("the sink is closed")
        check_size(record.topic, record.value, self.broker.max_record_bytes)
        would_be_bytes = self.in_flight_bytes + record.size_bytes
        if would_be_bytes > self._max_in_flight_bytes:
            raise BackPressureError(would_be_bytes, self._max_in_flight_bytes)
        self.sent.append(record)
        self._queue.append((record, on_done))
        if not self.is_held:
            self.pump()

    def pump(self) -> int:
        """Append queued records while the broker is up, and return how many callbacks were called."""
        called = 0
        while self._queue:
            record, on_done = self._queue[0]
            outcome: Acknowledgement | FleetLoopError
            if self._failures:
                outcome = self._failures.popleft()
            else:
                try:
                    outcome = self.broker.produce(record)
                except RetryLaterError as error:
                    self._last_error = str(error)
                    break
                except RejectedError as error:  # a missing topic is a fault of the cluster, not of the record
                    outcome = RetryLaterError(str(error)) if error.reason == "no_such_topic" else error
            self._queue.popleft()
            if isinstance(outcome, Acknowledgement):
                if self.drops_acknowledgements:
                    self._silent.append((record, on_done))
                    continue
                self._last_progress_ns = self._clock.monotonic_ns()
                self._last_error = ""
            else:
                self._last_error = str(outcome)
            on_done(outcome)
            called += 1
        return called

    @property
    def in_flight_bytes(self) -> int:
        """See `RecordSink.in_flight_bytes`."""
        return sum(record.size_bytes for record, _ in (*self._queue, *self._silent))

    @property
    def last_progress_ns(self) -> int:
        """See `RecordSink.last_progress_ns`."""
        return self._last_progress_ns

    @property
    def last_error(self) -> str:
        """See `RecordSink.last_error`."""
        return self._last_error

    def close(self, deadline_s: float) -> None:
        """See `RecordSink.close`."""
        self.is_closed = True
        left = [*self._silent, *self._queue]
        self._silent.clear()
        self._queue.clear()
        for _, on_done in left:
            on_done(RetryLaterError(f"closed before the acknowledgement came (deadline {deadline_s} s)"))


class FakeSource:
    """A source over a FakeBroker. `fail_after_records`: raise RetryLaterError once, after that many records."""

    def __init__(self, broker: FakeBroker, *, batch_records: int = 100) -> None:
        self.broker = broker
        self.fail_after_records: int | None = None
        self._batch_records = batch_records

    def describe(self, topic: str) -> TopicInfo:
        """See `RecordSource.describe`."""
        self._reach()
        return self.broker.describe(topic)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See `RecordSource.bounds`."""
        self._reach()
        self._check_partition(topic, partition)
        return self.broker.bounds(topic, partition)

    def log_end(self, topic: str, partition: int) -> int:
        """See `RecordSource.log_end`."""
        return self.bounds(topic, partition)[1] + self.broker.open_offsets

    def warnings(self, topic: str) -> list[str]:
        """See `RecordSource.warnings`."""
        return list(self.broker.warnings)

    def retained_offsets(self, topic: str, partition: int, start: int, end: int) -> set[int]:
        """See `RecordSource.retained_offsets`."""
        begin, _ = self.bounds(topic, partition)
        if start < begin:
            raise OffsetsLostError(topic, partition, start, begin)
        seen = {record.offset for record in self.broker.records(topic) if record.partition == partition}
        return {offset for offset in seen | self.broker.hidden(topic, partition) if start <= offset < end}

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[StoredRecord]]:
        """See `RecordSource.read`."""
        position = start
        while position < end:
            begin, log_end = self.bounds(topic, partition)
            if position < begin:
                raise OffsetsLostError(topic, partition, position, begin)
            if position >= log_end:
                raise RetryLaterError(
                    f"no progress at offset {position} of {topic}/{partition}: the log ends at {log_end}"
                )
            stop = min(end, log_end)
            held = [
                record
                for record in self.broker.records(topic)
                if record.partition == partition and position <= record.offset < stop
            ]
            batch = held[: self._batch_records]
            if self.fail_after_records is not None:
                batch = batch[: self.fail_after_records]
                self.fail_after_records -= len(batch)
            if batch:
                yield batch
            position = batch[-1].offset + 1 if len(batch) < len(held) and batch else stop
            if self.fail_after_records == 0:
                self.fail_after_records = None
                raise RetryLaterError(f"set to fail at offset {position} of {topic}/{partition}")

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _reach(self) -> None:
        if not self.broker.is_up:
            raise RetryLaterError("the broker is not reachable")

    def _check_partition(self, topic: str, partition: int) -> None:
        partitions = self.broker.describe(topic).partitions
        if partition not in partitions:
            raise RejectedError(
                f"topic {topic!r} has no partition {partition} (it has {len(partitions)})",
                reason="no_such_partition",
            )


class FakeTail:
    """A tail over a FakeBroker; `poll` never waits."""

    def __init__(self, broker: FakeBroker, topic: str) -> None:
        self.broker = broker
        self.is_closed = False
        self._topic = topic
        self._ends: dict[int, int] | None = None

    @property
    def is_connected(self) -> bool:
        """See `RecordTail.is_connected`."""
        return self._ends is not None

    def poll(self, wait_s: float) -> list[StoredRecord]:
        """See `RecordTail.poll`."""
        if not self.broker.is_up:
            self._ends = None
            raise RetryLaterError("the broker is not reachable")
        places = self.broker.describe(self._topic).partitions
        old, self._ends = self._ends, {p: self.broker.bounds(self._topic, p)[1] for p in places}
        held = self.broker.records(self._topic) if old is not None else []
        return [record for record in held if old and record.offset >= old.get(record.partition, 0)]

    def close(self) -> None:
        """Remember that it was closed."""
        self.is_closed, self._ends = True, None

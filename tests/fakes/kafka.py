"""Fakes of the broker ports, which hold the same promises as the real parts and can be told to fail.

`FakeBroker` is a Kafka log in memory: topics with ids, partitions with offsets, retention and compaction
gaps. The contract tests run on these fakes, on the embedded broker and on Apache Kafka, so a test written on
a fake means the same on a real broker. Nothing here starts a thread, sleeps or opens a socket.
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
        """So many offsets behind the end of each partition belong to an open transaction."""
        self.warnings: list[str] = []
        """What is said of the topics' settings."""
        self._clock = clock or SystemClock()
        self._created = 0
        self._topics: dict[str, _Topic] = {}
        standard = {spec.name: spec.partitions for spec in TOPIC_TABLE}
        for name, partitions in (standard if topics is None else topics).items():
            self.create_topic(name, partitions)

    def create_topic(self, topic: str, partitions: int = 1) -> TopicInfo:
        """Make a topic, or make it anew under another topic id when it exists."""
        self._created += 1
        self._topics[topic] = _Topic(
            f"topic-id-{self._created:04d}", [_Partition() for _ in range(partitions)]
        )
        return self.describe(topic)

    def delete_topic(self, topic: str) -> None:
        """Forget a topic and its records."""
        self._topics.pop(topic, None)

    def stop(self) -> None:
        """Be unreachable. The log is kept: this broker's disk is durable."""
        self.is_up = False

    def start(self) -> None:
        """Be reachable again."""
        self.is_up = True

    def restart_empty(self) -> None:
        """Lose every record, as the embedded broker does: the topics come back under other ids."""
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
        """Write one record, well formed or not: what another producer on the topic could do.

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
        """Write one wire record and return where it is."""
        return self.append(record.topic, record.key, record.value, record.headers)

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Let retention take everything below `before_offset`."""
        log = self._find(topic).partitions[partition]
        log.begin = max(log.begin, min(before_offset, log.end))
        log.records = [record for record in log.records if record.offset >= log.begin]

    def compact(self, topic: str, partition: int, offsets: Iterable[int]) -> None:
        """Destroy the records at these offsets, as compaction does."""
        gone = set(offsets)
        log = self._find(topic).partitions[partition]
        log.records = [record for record in log.records if record.offset not in gone]

    def abort(self, topic: str, partition: int, offsets: Iterable[int]) -> None:
        """Let readers never see the records at these offsets, as those of aborted transactions and markers."""
        self.compact(topic, partition, offsets := tuple(offsets))
        self._find(topic).partitions[partition].hidden.update(offsets)

    def hidden(self, topic: str, partition: int) -> frozenset[int]:
        """The offsets that `abort` hid."""
        return frozenset(self._find(topic).partitions[partition].hidden)

    def records(self, topic: str) -> list[StoredRecord]:
        """Everything that the topic holds, by partition and offset."""
        return [record for log in self._find(topic).partitions for record in log.records]

    def describe(self, topic: str) -> TopicInfo:
        """What the topic is now. Raises RejectedError (reason no_such_topic)."""
        found = self._find(topic)
        return TopicInfo(self.cluster_id, topic, found.topic_id, tuple(range(len(found.partitions))))

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First retained offset and one past the last: [begin, end)."""
        log = self._find(topic).partitions[partition]
        return log.begin, log.end

    def _find(self, topic: str) -> _Topic:
        found = self._topics.get(topic)
        if found is None:
            raise RejectedError(f"there is no topic {topic!r}", reason="no_such_topic")
        return found


class FakeSink:
    """A sink into a FakeBroker. Acknowledges inside `send` unless it was told to hold, to fail or to drop.

    `is_held`: queue and do nothing until `pump()` (a stall). `drops_acknowledgements`: the record lands in
    the log but its callback comes only at `close`, with an error (a connection that died after the write).
    `fail_next(error)`: the next record ends with that error and is not written.
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
        """Queue one record; see `RecordSink.send`."""
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
        """Write what is queued while the broker is up, and return how many callbacks were called."""
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
                except RejectedError as error:  # a missing topic is the cluster's trouble, not the record's
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
        """Bytes sent and neither acknowledged nor failed."""
        return sum(record.size_bytes for record, _ in (*self._queue, *self._silent))

    @property
    def last_progress_ns(self) -> int:
        """Monotonic time (ns) of the last acknowledgement, or of creation before the first."""
        return self._last_progress_ns

    @property
    def last_error(self) -> str:
        """The last cause of trouble in words, or an empty string."""
        return self._last_error

    def close(self, deadline_s: float) -> None:
        """Stop; what is still in flight ends with RetryLaterError."""
        self.is_closed = True
        left = [*self._silent, *self._queue]
        self._silent.clear()
        self._queue.clear()
        for _, on_done in left:
            on_done(RetryLaterError(f"closed before the acknowledgement came (deadline {deadline_s} s)"))


class FakeSource:
    """A source over a FakeBroker. `fail_after_records`: raise RetryLaterError once, after so many records."""

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

    def kept(self, topic: str, partition: int, start: int, end: int) -> set[int]:
        """See `RecordSource.kept`."""
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
                raise RetryLaterError(f"told to fail at offset {position} of {topic}/{partition}")

    def close(self) -> None:
        """Nothing to give back."""

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

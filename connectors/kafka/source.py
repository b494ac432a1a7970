"""A bounded source over Kafka: reads exact offsets of assigned partitions, with deadlines and no offset reset.

1. `bounds` asks the broker for [begin, end) of a partition.
2. `read` seeks to `start` and polls until the consumer's position reaches `end`. Records cannot be counted instead,
   because transaction markers, aborted records and compaction leave gaps.
3. An offset below the first retained one is an error that names the lost interval (`auto_offset_reset` is none, as the
   other values skip silently).
4. `log_end` and `retained_offsets` use a second consumer with isolation level read_uncommitted. An offset that only this
   consumer sees is in an open or aborted transaction; one that neither sees is no longer in the log.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

import kafka.errors as client_errors
from kafka import KafkaConsumer, TopicPartition

from connectors.kafka.admin import KafkaAdmin
from connectors.kafka.batches import markers_shown
from connectors.kafka.bounded_call import call_within
from connectors.kafka.clients import create_client
from connectors.kafka.cluster_names import EMBEDDED_CLUSTER
from connectors.kafka.errors import client_log, translating
from connectors.kafka.ports import TopicInfo
from connectors.kafka.settings import KafkaSettings, consumer_options
from foundation.clock import Clock, SystemClock
from foundation.errors import (
    DeadlineError,
    MisconfiguredError,
    OffsetsLostError,
    RejectedError,
    RetryLaterError,
)
from foundation.retry import Deadline
from schemas.wire import StoredRecord

T = TypeVar("T")

_POLL_MS: Final = 200
_BATCH_RECORDS: Final = 100
"""Records per poll: that many records of the largest size take about 110 MB of memory."""


class KafkaSource:
    """A `RecordSource` over Kafka. Connects at the first call; one caller at a time."""

    def __init__(self, settings: KafkaSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._deadline_s = settings.progress_deadline_s
        self._client_log = client_log()
        self._consumer: Any = None
        self._raw_consumer: Any = None
        self._admin: KafkaAdmin | None = None

    def describe(self, topic: str) -> TopicInfo:
        """See `RecordSource.describe`."""
        return self._administration().describe(topic)

    def warnings(self, topic: str) -> list[str]:
        """See `RecordSource.warnings`. An embedded broker has no such settings."""
        admin = self._administration()
        if admin.describe(topic).cluster_id.startswith(EMBEDDED_CLUSTER):
            return []
        try:
            return [str(found) for found in admin.differences(topic)]
        except (MisconfiguredError, RetryLaterError) as error:
            return [f"cannot check whether the settings of {topic} keep every record: {error}"]

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See `RecordSource.bounds`. Raises RejectedError (reason no_such_topic or no_such_partition)."""
        info = self.describe(topic)  # a broker may answer 0 for a topic that does not exist
        partitions = info.partitions
        if partition not in partitions:
            raise RejectedError(
                f"topic {topic!r} has no partition {partition} (it has {len(partitions)})",
                reason="no_such_partition",
            )
        place = TopicPartition(topic, partition)
        begin, end = self._bounds(place)
        if end > begin and info.cluster_id.startswith(EMBEDDED_CLUSTER):
            end = max(end, self._high_watermark(place, end - 1))
        return begin, end

    def log_end(self, topic: str, partition: int) -> int:
        """See `RecordSource.log_end`."""
        if self.describe(topic).cluster_id.startswith(EMBEDDED_CLUSTER):
            return self.bounds(topic, partition)[1]
        place = TopicPartition(topic, partition)
        timeout_ms = int(self._deadline_s * 1000)
        consumer = self._raw()
        ends = self._call(
            f"asking for the end of {topic}/{partition}",
            lambda: consumer.end_offsets([place], timeout_ms=timeout_ms),
        )
        return int(ends[place])

    def retained_offsets(self, topic: str, partition: int, start: int, end: int) -> set[int]:
        """See `RecordSource.retained_offsets`."""
        found = self._read(self._raw(), topic, partition, start, end, markers_shown)
        return {record.offset for records in found for record in records}

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[StoredRecord]]:
        """See `RecordSource.read`."""
        for records in self._read(self._connected(), topic, partition, start, end, contextlib.nullcontext):
            yield [stored(record) for record in records]

    def _read(
        self,
        consumer: Any,
        topic: str,
        partition: int,
        start: int,
        end: int,
        polling: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> Iterator[list[Any]]:
        if start >= end:
            return
        place = TopicPartition(topic, partition)
        begin, log_end = self.bounds(topic, partition)
        if start < begin:
            raise OffsetsLostError(topic, partition, start, begin)
        if end > log_end:
            raise RetryLaterError(
                f"offsets [{start}, {end}) of {topic}/{partition} end above the end of the log, {log_end}"
            )
        consumer.assign([place])
        consumer.seek(place, start)
        try:
            yield from self._batches(consumer, place, start, end, polling)
        finally:
            with contextlib.suppress(client_errors.KafkaError):
                consumer.assign([])

    def close(self) -> None:
        """See `RecordSource.close`."""
        consumers = (self._consumer, self._raw_consumer)
        self._consumer = self._raw_consumer = None
        for consumer in consumers:
            if consumer is not None:
                with contextlib.suppress(RetryLaterError, client_errors.KafkaError):
                    call_within(5.0, partial(consumer.close, autocommit=False), "closing the consumer")
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    def _batches(
        self,
        consumer: Any,
        place: Any,
        start: int,
        end: int,
        polling: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> Iterator[list[Any]]:
        position, moved_ns, started_s = start, self._clock.monotonic_ns(), time.monotonic()
        while position < end:
            try:
                with translating(f"reading {place.topic}/{place.partition} at {position}"), polling():
                    polled = consumer.poll(timeout_ms=_POLL_MS, max_records=_BATCH_RECORDS)
                    reached = consumer.position(place, timeout_ms=_POLL_MS)
            except RetryLaterError:
                self._raise_when_lost(place, position)
                raise
            batch = [record for record in polled.get(place, ()) if record.offset < end]
            now_ns = self._clock.monotonic_ns()
            if reached is not None and reached > position:
                position, moved_ns = reached, now_ns
            elif (now_ns - moved_ns) / 1e9 > self._deadline_s:
                self._raise_when_lost(place, position)
                raise RetryLaterError(
                    f"no progress at offset {position} of {place.topic}/{place.partition} for "
                    f"{self._deadline_s:g} s: {self._client_log.since(started_s) or 'the broker is silent'}"
                )
            if batch:
                yield batch
                moved_ns = self._clock.monotonic_ns()  # the caller's own time does not count

    def _raise_when_lost(self, place: Any, position: int) -> None:
        """Raise OffsetsLostError if retention has passed the position since the read began."""
        begin, _ = self._bounds(place)
        if position < begin:
            raise OffsetsLostError(place.topic, place.partition, position, begin)

    def _high_watermark(self, place: Any, last: int) -> int:
        """Return one past the last offset, as reported by a fetch of the record at `last`."""
        consumer = self._connected()
        consumer.assign([place])
        consumer.seek(place, last)
        deadline = Deadline(self._clock, self._deadline_s)
        try:
            while (found := consumer.highwater(place)) is None:
                deadline.check(f"asking for the end of {place.topic}/{place.partition}")
                with translating(f"asking for the end of {place.topic}/{place.partition}"):
                    consumer.poll(timeout_ms=_POLL_MS, max_records=1)
        finally:
            consumer.assign([])
        return int(found)

    def _bounds(self, place: Any) -> tuple[int, int]:
        doing = f"asking for the offsets of {place.topic}/{place.partition}"
        consumer = self._connected()
        timeout_ms = int(self._deadline_s * 1000)
        begin = self._call(doing, lambda: consumer.beginning_offsets([place], timeout_ms=timeout_ms))
        end = self._call(doing, lambda: consumer.end_offsets([place], timeout_ms=timeout_ms))
        return int(begin[place]), int(end[place])

    def _administration(self) -> KafkaAdmin:
        if self._admin is None:
            self._admin = KafkaAdmin(self._settings)
        return self._admin

    def _connected(self) -> Any:
        if self._consumer is None:
            self._consumer = self._consumer_with({})
        return self._consumer

    def _raw(self) -> Any:
        """Return a consumer with isolation level read_uncommitted."""
        if self._raw_consumer is None:
            self._raw_consumer = self._consumer_with({"isolation_level": "read_uncommitted"})
        return self._raw_consumer

    def _consumer_with(self, changed: dict[str, Any]) -> Any:
        options = (
            consumer_options(self._settings)
            | changed
            | {
                "bootstrap_timeout_ms": int(self._deadline_s * 1000),
            }
        )
        return self._call(
            f"connecting to {self._settings.bootstrap}",
            lambda: create_client(KafkaConsumer, options),
            give_back=lambda consumer: consumer.close(autocommit=False),
        )

    def _call(
        self, doing: str, call: Callable[[], T], *, give_back: Callable[[T], object] | None = None
    ) -> T:
        started_s = time.monotonic()

        def translated_call() -> T:
            with translating(doing):
                return call()

        try:
            return call_within(self._deadline_s + 1.0, translated_call, doing, give_back=give_back)
        except DeadlineError as error:
            cause = self._client_log.since(started_s)
            raise RetryLaterError(f"{doing}: {cause or error}") from error


def stored(record: Any) -> StoredRecord:
    """Convert a client's record. Null header values become empty bytes."""
    return stored_at(record.partition, record)


def stored_at(partition: int, record: Any) -> StoredRecord:
    """Convert a client's record of the given partition; see `stored`."""
    headers = tuple(
        (str(name), b"" if value is None else bytes(value)) for name, value in record.headers or ()
    )
    why = (
        record.checksum if isinstance(record.checksum, str) else ""
    )  # see connectors.kafka.batches.UnreadableRecord
    return StoredRecord(partition, record.offset, record.timestamp, record.key, record.value, headers, why)

"""A source over Kafka: exact offsets of assigned partitions, no group, no silent jump, no endless wait.

1. `bounds` asks the broker for [begin, end) of a partition.
2. `read` seeks to `start` and polls until the position reaches `end`. Why the position: transaction markers,
   aborted records and compaction leave gaps, so records are never counted.
3. An offset below the first retained one is an error with the interval that is lost (`auto_offset_reset`
   none: the other settings jump silently).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import kafka.errors as client_errors
from kafka import KafkaConsumer, TopicPartition

from connectors.kafka.admin import KafkaAdmin
from connectors.kafka.bounded_call import call_within
from connectors.kafka.clients import made
from connectors.kafka.cluster_names import EMBEDDED_CLUSTER
from connectors.kafka.errors import translating, trouble_log
from connectors.kafka.ports import TopicInfo
from connectors.kafka.settings import KafkaSettings, consumer_options
from foundation.clock import Clock, SystemClock
from foundation.errors import DeadlineError, OffsetsLostError, RejectedError, RetryLaterError
from foundation.retry import Deadline
from schemas.wire import StoredRecord

T = TypeVar("T")

_POLL_MS: Final = 200
_BATCH_RECORDS: Final = 100
"""Of one poll: so many of the largest records, compressed or not, are held at once (about 110 MB)."""


class KafkaSource:
    """See `RecordSource`. Connects at the first call; one caller at a time."""

    def __init__(self, settings: KafkaSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._deadline_s = settings.progress_deadline_s
        self._trouble = trouble_log()
        self._consumer: Any = None
        self._admin: KafkaAdmin | None = None

    def describe(self, topic: str) -> TopicInfo:
        """See `RecordSource.describe`."""
        if self._admin is None:
            self._admin = KafkaAdmin(self._settings)
        return self._admin.describe(topic)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See `RecordSource.bounds`. Raises RejectedError (reason no_such_topic or no_such_partition)."""
        info = self.describe(topic)  # a broker may answer 0 for a topic that is not there
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

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[StoredRecord]]:
        """See `RecordSource.read`."""
        if start >= end:
            return
        place = TopicPartition(topic, partition)
        begin, log_end = self.bounds(topic, partition)
        if start < begin:
            raise OffsetsLostError(topic, partition, start, begin)
        if end > log_end:
            raise RetryLaterError(
                f"offsets [{start}, {end}) of {topic}/{partition} end above the log's end {log_end}"
            )
        consumer = self._connected()
        consumer.assign([place])
        consumer.seek(place, start)
        try:
            yield from self._batches(consumer, place, start, end)
        finally:
            with contextlib.suppress(client_errors.KafkaError):
                consumer.assign([])

    def close(self) -> None:
        """See `RecordSource.close`."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(RetryLaterError, client_errors.KafkaError):
                call_within(5.0, lambda: consumer.close(autocommit=False), "closing the consumer")
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    def _batches(self, consumer: Any, place: Any, start: int, end: int) -> Iterator[list[StoredRecord]]:
        position, moved_ns, started_s = start, self._clock.monotonic_ns(), time.monotonic()
        while position < end:
            try:
                with translating(f"reading {place.topic}/{place.partition} at {position}"):
                    polled = consumer.poll(timeout_ms=_POLL_MS, max_records=_BATCH_RECORDS)
                    reached = consumer.position(place, timeout_ms=_POLL_MS)
            except RetryLaterError:
                self._raise_when_lost(place, position)
                raise
            batch = [stored(record) for record in polled.get(place, ()) if record.offset < end]
            now_ns = self._clock.monotonic_ns()
            if reached is not None and reached > position:
                position, moved_ns = reached, now_ns
            elif (now_ns - moved_ns) / 1e9 > self._deadline_s:
                self._raise_when_lost(place, position)
                raise RetryLaterError(
                    f"no progress at offset {position} of {place.topic}/{place.partition} for "
                    f"{self._deadline_s:g} s: {self._trouble.since(started_s) or 'the broker is silent'}"
                )
            if batch:
                yield batch
                moved_ns = self._clock.monotonic_ns()  # the caller's own time does not count

    def _raise_when_lost(self, place: Any, position: int) -> None:
        """Retention may have passed the position since the read began."""
        begin, _ = self._bounds(place)
        if position < begin:
            raise OffsetsLostError(place.topic, place.partition, position, begin)

    def _high_watermark(self, place: Any, last: int) -> int:
        """One past the last offset, as a fetch of the record at `last` tells it."""
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

    def _connected(self) -> Any:
        if self._consumer is None:
            options = consumer_options(self._settings) | {
                "bootstrap_timeout_ms": int(self._deadline_s * 1000),
            }
            self._consumer = self._call(
                f"connecting to {self._settings.bootstrap}",
                lambda: made(KafkaConsumer, options),
                give_back=lambda consumer: consumer.close(autocommit=False),
            )
        return self._consumer

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
            cause = self._trouble.since(started_s)
            raise RetryLaterError(f"{doing}: {cause or error}") from error


def stored(record: Any) -> StoredRecord:
    """A client's record as ours. Header values may be null on the wire; ours are bytes."""
    headers = tuple(
        (str(name), b"" if value is None else bytes(value)) for name, value in record.headers or ()
    )
    why = record.checksum if isinstance(record.checksum, str) else ""  # see kafka_batches.UnreadableRecord
    return StoredRecord(
        record.partition, record.offset, record.timestamp, record.key, record.value, headers, why
    )

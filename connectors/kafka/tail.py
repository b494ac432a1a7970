"""A tail of one topic: new records from now on, and nothing that was there before.

For hints only. It joins no consumer group and stores no offsets. After an outage, or if retention passed it, it continues
at the end of the log without reporting what it missed. If the broker under-reports the end offset, the last record is
read again. Use `KafkaSource` where no record may be missed.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final

import kafka.errors as client_errors
from kafka import KafkaConsumer, TopicPartition

from connectors.kafka.bounded_call import call_within
from connectors.kafka.clients import create_client
from connectors.kafka.errors import client_log, translating
from connectors.kafka.settings import KafkaSettings, consumer_options
from connectors.kafka.source import stored
from foundation.errors import DeadlineError, RetryLaterError
from schemas.wire import StoredRecord

_CONNECT_S: Final = 5.0
_LONG_POLL_MS: Final = 5_000
"""How long the broker holds an empty fetch: an idle vehicle sends 12 fetches per minute instead of 120."""
_MOST_BYTES: Final = 65_536


class KafkaTail:
    """A `RecordTail` over Kafka. Connects at the first `poll`; one caller at a time."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._client_log = client_log()
        self._consumer: Any = None

    @property
    def is_connected(self) -> bool:
        """See `RecordTail.is_connected`."""
        return self._consumer is not None

    def poll(self, wait_s: float) -> list[StoredRecord]:
        """See `RecordTail.poll`."""
        started_s = time.monotonic()
        try:
            if self._consumer is None:
                self._consumer = self._connect()
                return []
            with translating(f"listening to {self._topic}"):
                polled = self._consumer.poll(timeout_ms=int(wait_s * 1000), max_records=100)
        except DeadlineError as error:
            self.close()
            raise RetryLaterError(self._client_log.since(started_s) or str(error)) from error
        except BaseException:
            self.close()
            raise
        return [stored(record) for batch in polled.values() for record in batch]

    def close(self) -> None:
        """See `RecordTail.close`."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(RetryLaterError, client_errors.KafkaError):
                call_within(2.0, lambda: consumer.close(autocommit=False), "closing the consumer")

    def _connect(self) -> Any:
        options = consumer_options(self._settings) | {
            "bootstrap_timeout_ms": int(_CONNECT_S * 1000),
            "auto_offset_reset": "latest",
            "fetch_max_wait_ms": min(_LONG_POLL_MS, int(self._settings.request_timeout_s * 300)),
            "max_partition_fetch_bytes": _MOST_BYTES,
        }

        def connect() -> Any:
            with translating(f"listening to {self._topic}"):
                consumer = create_client(KafkaConsumer, options)
                try:
                    self._seek_to_end(consumer)
                except BaseException:
                    with contextlib.suppress(client_errors.KafkaError):
                        consumer.close(autocommit=False)
                    raise
                return consumer

        return call_within(
            2 * _CONNECT_S,
            connect,
            f"connecting to {self._settings.bootstrap}",
            give_back=lambda consumer: consumer.close(autocommit=False),
        )

    def _seek_to_end(self, consumer: Any) -> None:
        places = [
            TopicPartition(self._topic, number) for number in consumer.partitions_for_topic(self._topic) or ()
        ]
        if not places:
            raise RetryLaterError(f"there is no topic {self._topic!r}, or this client may not see it")
        consumer.assign(places)
        ends = consumer.end_offsets(places, timeout_ms=int(_CONNECT_S * 1000))
        for place in places:
            consumer.seek(place, ends[place])

"""A sink into Kafka whose `send` never blocks and which calls the callback of each record exactly once.

1. `send` counts the record against the cap and queues it.
2. One feeder thread creates the producer and passes it the records. The client blocks in both (in the constructor while
   a TLS peer is silent, in `send` while it has no metadata), so it is never called from the caller's thread.
3. The client's future resolves with an offset or an error; the record is no longer in flight and its callback is called.
4. A final error makes an idempotent producer unusable for every topic: it is replaced, and the records it held end with
   RetryLaterError. At-least-once delivery is enough, because records are deduplicated by identity.

Records in flight exist only in memory; the spool provides durability.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Final

from connectors.kafka.errors import client_log, is_refusal, translated
from connectors.kafka.limits import check_size
from connectors.kafka.ports import Acknowledgement, OnDone
from connectors.kafka.producer import Producer
from connectors.kafka.settings import KafkaSettings, producer_options
from foundation.clock import Clock, SystemClock
from foundation.errors import BackPressureError, DeadlineError, FleetLoopError, RejectedError, RetryLaterError
from schemas.wire import WireRecord

_METADATA_WAIT_S: Final = 5.0
_ABSENT_TOPIC_S: Final = 5.0


class _InFlight:
    """One record between `send` and its callback. `producer` is the producer that holds it, None while it is queued."""

    __slots__ = ("on_done", "producer", "record", "size_bytes")

    def __init__(self, record: WireRecord, on_done: OnDone) -> None:
        self.record = record
        self.on_done = on_done
        self.size_bytes = record.size_bytes
        self.producer: Producer | None = None


class KafkaSink:
    """A `RecordSink` into Kafka. It can be created without a broker and waits for one.

    Raises (the constructor):
        MisconfiguredError: the TLS files cannot be loaded.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._options = producer_options(settings) | {"max_block_ms": int(_METADATA_WAIT_S * 1000)}
        self._started_s = time.monotonic()
        self._client_log = client_log()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._queue: deque[_InFlight] = deque()
        self._flights: set[_InFlight] = set()
        self._in_flight_bytes = 0
        self._last_progress_ns = self._clock.monotonic_ns()
        self._progress_s = 0.0
        self._last_failure = ""
        self._is_closing = False  # takes no more records
        self._is_closed = False  # makes no more producers
        self._producer: Producer | None = None
        self._absent_until: dict[str, float] = {}
        self._feeder = threading.Thread(target=self._feed, name=f"{settings.client_id}-feeder", daemon=True)
        self._feeder.start()

    def send(self, record: WireRecord, on_done: OnDone) -> None:
        """See `RecordSink.send`. Raises RetryLaterError once the sink is closed."""
        check_size(record.topic, record.value, self._settings.max_record_bytes)
        flight = _InFlight(record, on_done)
        with self._work:
            if self._is_closing:
                raise RetryLaterError("the sink is closed")
            would_be_bytes = self._in_flight_bytes + flight.size_bytes
            if would_be_bytes > self._settings.max_in_flight_bytes:
                raise BackPressureError(would_be_bytes, self._settings.max_in_flight_bytes)
            self._in_flight_bytes = would_be_bytes
            self._flights.add(flight)
            self._queue.append(flight)
            self._work.notify()

    @property
    def in_flight_bytes(self) -> int:
        """See `RecordSink.in_flight_bytes`."""
        return self._in_flight_bytes

    @property
    def last_progress_ns(self) -> int:
        """See `RecordSink.last_progress_ns`."""
        return self._last_progress_ns

    @property
    def last_error(self) -> str:
        """See `RecordSink.last_error`: the client's last warning since the last acknowledgement, or a failure."""
        told = self._client_log.since(max(self._started_s, self._progress_s))
        return told or self._last_failure

    @property
    def is_refused(self) -> bool:
        """See `RecordSink.is_refused`."""
        return is_refusal(self.last_error)

    def close(self, deadline_s: float) -> None:
        """Wait up to `deadline_s` for records in flight, then fail the rest with RetryLaterError and stop."""
        end_s = time.monotonic() + deadline_s
        with self._work:
            self._is_closing = True
            self._work.notify_all()
            while self._flights and (left_s := end_s - time.monotonic()) > 0:
                self._work.wait(left_s)
            self._is_closed = True
            producer, self._producer = self._producer, None
            left = list(self._flights)
        for flight in left:
            self._resolve(
                flight, RetryLaterError(f"closed without an acknowledgement within {deadline_s:g} s")
            )
        if producer is not None:
            producer.retire(max(0.0, end_s - time.monotonic()))

    # The feeder thread.

    def _feed(self) -> None:
        while (flight := self._next()) is not None:
            try:
                self._hand_over(flight)
            except Exception as error:  # noqa: BLE001 - a failure of one record must not end the feeder thread
                self._resolve(flight, _outcome(error, flight.record.topic))

    def _next(self) -> _InFlight | None:
        """Return the next queued record; None once the sink is closed and nothing is left to send."""
        with self._work:
            while not self._queue:
                if self._is_closing:
                    return None
                self._work.wait()
            return self._queue.popleft()

    def _hand_over(self, flight: _InFlight) -> None:
        topic = flight.record.topic
        if self._absent_until.get(topic, 0.0) > time.monotonic():
            self._resolve(flight, _absent(topic))
            return
        while (producer := self._held_by(flight)) is not None:
            try:
                future = producer.send(flight.record)
            except DeadlineError as error:
                self._last_failure = str(error)
                if producer.knows_brokers:
                    self._absent_until[topic] = time.monotonic() + _ABSENT_TOPIC_S
                    self._resolve(flight, _absent(topic))
                continue  # without a broker the record waits: starting without one is normal
            if future.failed():  # refused before it was sent: the producer is still usable
                self._resolve(flight, _outcome(future.exception, topic))
                continue
            future.add_both(self._on_client, flight)
            return

    def _held_by(self, flight: _InFlight) -> Producer | None:
        """Return the producer for the record, created if needed; None if the record is no longer in flight."""
        with self._lock:
            producer = self._producer
        made = Producer(self._options) if producer is None and not self._is_closed else None
        with self._lock:
            if self._producer is None and not self._is_closed:
                self._producer, made = made, None
            flight.producer = self._producer
            is_wanted = flight in self._flights and not self._is_closed
        if made is not None:
            made.retire(0.0)
        return flight.producer if is_wanted else None

    # Any thread of the client.

    def _on_client(self, flight: _InFlight, outcome: Any) -> None:
        if isinstance(outcome, BaseException):
            self._resolve(flight, _outcome(outcome, flight.record.topic))
            self._replace(flight.producer)
            return
        self._last_progress_ns = self._clock.monotonic_ns()
        self._progress_s = time.monotonic()
        self._last_failure = ""
        self._resolve(flight, Acknowledgement(outcome.topic, outcome.partition, outcome.offset))

    def _replace(self, producer: Producer | None) -> None:
        """Drop a producer after a final error; its other records can be sent again."""
        with self._lock:
            if producer is None or self._producer is not producer:
                return
            self._producer = None
            held = [flight for flight in self._flights if flight.producer is producer]
        producer.retire(0.0)
        for flight in held:
            self._resolve(flight, RetryLaterError("the producer that held this record had to be replaced"))

    def _resolve(self, flight: _InFlight, outcome: Acknowledgement | FleetLoopError) -> None:
        """Remove the record from flight and call its callback; only the first call for a record does so."""
        with self._work:
            if flight not in self._flights:
                return
            self._flights.discard(flight)
            self._in_flight_bytes -= flight.size_bytes
            if not self._flights:
                self._work.notify_all()
        if isinstance(outcome, FleetLoopError):
            self._last_failure = str(outcome)
        flight.on_done(outcome)


def _outcome(error: BaseException, topic: str) -> FleetLoopError:
    """Translate an error; a missing topic is a fault of the cluster, so the record is to be sent again."""
    ours = translated(error, f"sending to {topic}")
    if isinstance(ours, RejectedError) and ours.reason == "no_such_topic":
        return _absent(topic)
    return ours


def _absent(topic: str) -> RetryLaterError:
    return RetryLaterError(f"there is no topic {topic!r}, or this client may not see it")

"""A sink into Kafka: `send` never blocks, each record's callback is called exactly once, `close` never hangs.

1. `send` counts the record against the cap and queues it.
2. One feeder thread makes the producer and hands it the records: the client blocks in both (a constructor
   while a TLS peer is silent, a send while it has no metadata), so it is never called from the caller's
   thread.
3. The client's future resolves with an offset or an error; the record leaves the flight and its callback is
   called.
4. A final error poisons an idempotent producer for every topic: it is replaced, and what it held ends with
   RetryLaterError. At least once is enough: a record's identity makes it exact.

Refuses to keep anything: a record in flight exists only in memory; durability is the spool's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Final

from connectors.kafka.errors import is_refusal, translated, trouble_log
from connectors.kafka.limits import check_size
from connectors.kafka.ports import Acknowledgement, OnDone
from connectors.kafka.producer import Producer
from connectors.kafka.settings import KafkaSettings, producer_options
from foundation.clock import Clock, SystemClock
from foundation.errors import BackPressureError, DeadlineError, FleetLoopError, RejectedError, RetryLaterError
from schemas.wire import WireRecord

_METADATA_WAIT_S: Final = 5.0
_ABSENT_TOPIC_S: Final = 5.0


class _Flight:
    """One record between `send` and its callback. `producer` holds it; None while it is queued."""

    __slots__ = ("on_done", "producer", "record", "size_bytes")

    def __init__(self, record: WireRecord, on_done: OnDone) -> None:
        self.record = record
        self.on_done = on_done
        self.size_bytes = record.size_bytes
        self.producer: Producer | None = None


class KafkaSink:
    """See `RecordSink`. Made without a broker, it waits for one.

    Raises (the constructor):
        MisconfiguredError: the TLS files cannot be loaded.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._options = producer_options(settings) | {"max_block_ms": int(_METADATA_WAIT_S * 1000)}
        self._started_s = time.monotonic()
        self._trouble = trouble_log()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._queue: deque[_Flight] = deque()
        self._flights: set[_Flight] = set()
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
        """Queue one record; see `RecordSink.send`. RetryLaterError once the sink is closed."""
        check_size(record.topic, record.value, self._settings.max_record_bytes)
        flight = _Flight(record, on_done)
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
        """Bytes (key, value, headers) sent and neither acknowledged nor failed."""
        return self._in_flight_bytes

    @property
    def last_progress_ns(self) -> int:
        """Monotonic time (ns) of the last acknowledgement, or of creation before the first."""
        return self._last_progress_ns

    @property
    def last_error(self) -> str:
        """Why nothing moves, in words: the client's last warning since the last acknowledgement, or a failure."""
        told = self._trouble.since(max(self._started_s, self._progress_s))
        return told or self._last_failure

    @property
    def is_refused(self) -> bool:
        """Whether `last_error` says that this client is not let in, and not only that nobody answers."""
        return is_refusal(self.last_error)

    def close(self, deadline_s: float) -> None:
        """Wait up to `deadline_s` for what is in flight, then fail the rest with RetryLaterError and stop."""
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
            except Exception as error:  # noqa: BLE001 - one record's odd failure must not end the thread of all
                self._resolve(flight, _outcome(error, flight.record.topic))

    def _next(self) -> _Flight | None:
        """The next queued record; None when the sink is closed and nothing is left to send."""
        with self._work:
            while not self._queue:
                if self._is_closing:
                    return None
                self._work.wait()
            return self._queue.popleft()

    def _hand_over(self, flight: _Flight) -> None:
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
                continue  # without a broker the record waits: a start without one is normal
            if future.failed():  # refused before it was sent: the producer is as good as before
                self._resolve(flight, _outcome(future.exception, topic))
                continue
            future.add_both(self._on_client, flight)
            return

    def _held_by(self, flight: _Flight) -> Producer | None:
        """The producer for the record, made when there is none; None when it is no longer in flight."""
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

    def _on_client(self, flight: _Flight, outcome: Any) -> None:
        if isinstance(outcome, BaseException):
            self._resolve(flight, _outcome(outcome, flight.record.topic))
            self._replace(flight.producer)
            return
        self._last_progress_ns = self._clock.monotonic_ns()
        self._progress_s = time.monotonic()
        self._last_failure = ""
        self._resolve(flight, Acknowledgement(outcome.topic, outcome.partition, outcome.offset))

    def _replace(self, producer: Producer | None) -> None:
        """Drop a producer after a final error; what else it holds can be sent again."""
        with self._lock:
            if producer is None or self._producer is not producer:
                return
            self._producer = None
            held = [flight for flight in self._flights if flight.producer is producer]
        producer.retire(0.0)
        for flight in held:
            self._resolve(flight, RetryLaterError("the producer that held this record had to be replaced"))

    def _resolve(self, flight: _Flight, outcome: Acknowledgement | FleetLoopError) -> None:
        """Take the record out of flight and call its callback: only the first caller does."""
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
    """A missing topic is the cluster's trouble, not the record's: nothing is thrown away for it."""
    ours = translated(error, f"sending to {topic}")
    if isinstance(ours, RejectedError) and ours.reason == "no_such_topic":
        return _absent(topic)
    return ours


def _absent(topic: str) -> RetryLaterError:
    return RetryLaterError(f"there is no topic {topic!r}, or this client may not see it")

"""The one place that touches kafka-python's producer, and knows how to make it stop.

It reads three private names of the client (pinned to 3.0.12), because the public ones cannot say whether a
broker was ever reached, nor stop a producer that still holds records.
"""

from __future__ import annotations

import threading
from typing import Any

import kafka.errors as client_errors
from kafka import KafkaProducer

from connectors.kafka.errors import translating
from foundation.errors import DeadlineError, MisconfiguredError
from schemas.wire import WireRecord


class Producer:
    """An idempotent producer. `send` may block for max_block_ms: call it from a thread of its own."""

    def __init__(self, options: dict[str, Any]) -> None:
        with translating("making a producer"):
            self._client: Any = KafkaProducer(**options)

    def send(self, record: WireRecord) -> Any:
        """The client's future of one record.

        Raises:
            DeadlineError: nothing is known about the topic yet.
            MisconfiguredError: the topic's name is illegal.
        """
        try:
            return self._client.send(
                record.topic, value=record.value, key=record.key, headers=list(record.headers)
            )
        except client_errors.KafkaTimeoutError as error:
            raise DeadlineError(f"no metadata of {record.topic}: {error}") from error
        except ValueError as error:
            raise MisconfiguredError(f"the topic {record.topic!r} cannot be: {error}") from error

    @property
    def knows_brokers(self) -> bool:
        """Whether any broker ever told this producer about its cluster."""
        return bool(self._client._metadata.brokers())

    def retire(self, wait_s: float) -> None:
        """Stop sending now, without waiting for acknowledgements; wait up to `wait_s` for the threads to end.

        Why not `close(timeout)`: with records in flight it raises without closing, and the thread goes on
        sending.
        """
        client = self._client

        def stop() -> None:
            client._unregister_cleanup()  # or the interpreter waits for this client at its exit
            client._sender.force_close()
            client._sender.join(60.0)
            client._closed = True

        thread = threading.Thread(target=stop, name="retire-producer", daemon=True)
        thread.start()
        if wait_s > 0 and threading.current_thread() is not client._sender:
            thread.join(wait_s)

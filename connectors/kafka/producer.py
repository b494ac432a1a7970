"""A wrapper around kafka-python's producer that can be stopped while records are in flight.

It uses private names of the client (pinned to 3.0.12), because its public ones neither say whether a broker was ever
reached nor stop a producer that still holds records.
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
        with translating("creating a producer"):
            self._client: Any = KafkaProducer(**options)

    def send(self, record: WireRecord) -> Any:
        """Send one record and return the client's future.

        Raises:
            DeadlineError: no metadata of the topic within max_block_ms.
            MisconfiguredError: the topic name is invalid.
        """
        try:
            return self._client.send(
                record.topic, value=record.value, key=record.key, headers=list(record.headers)
            )
        except client_errors.KafkaTimeoutError as error:
            raise DeadlineError(f"no metadata of {record.topic}: {error}") from error
        except ValueError as error:
            raise MisconfiguredError(f"topic name {record.topic!r} is invalid: {error}") from error

    @property
    def knows_brokers(self) -> bool:
        """Whether this producer ever got metadata from a broker."""
        return bool(self._client._metadata.brokers())

    def retire(self, wait_s: float) -> None:
        """Stop sending now, without waiting for acknowledgements; wait up to `wait_s` for the threads to end.

        The client's `close(timeout)` raises without closing while records are in flight, and its thread keeps sending.
        """
        client = self._client

        def stop() -> None:
            client._unregister_cleanup()  # otherwise the interpreter waits for this client at exit
            client._sender.force_close()
            client._sender.join(60.0)
            client._closed = True

        thread = threading.Thread(target=stop, name="retire-producer", daemon=True)
        thread.start()
        if wait_s > 0 and threading.current_thread() is not client._sender:
            thread.join(wait_s)

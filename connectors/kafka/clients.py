"""Create clients of kafka-python without leaking a network thread when the constructor fails.

kafka-python's consumer and admin client start a network thread before they look for a broker, and do not stop it if
there is none; a caller that retries every second would leak one thread per second.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import kafka.errors as client_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket

from connectors.kafka import batches as kafka_batches
from connectors.kafka.bounded_call import call_within
from foundation.errors import RetryLaterError

T = TypeVar("T")

kafka_batches.install()
_connect = KafkaNetSocket.sock_connect


async def _connect_or_close(self: Any, net: Any, sock: socket.socket, *arguments: Any, **options: Any) -> Any:
    try:
        return await _connect(self, net, sock, *arguments, **options)
    except BaseException:
        sock.close()
        raise


KafkaNetSocket.sock_connect = _connect_or_close
"""kafka-python forgets a socket that could not connect: 30 per second of an outage, until the next cyclic collection."""


def create_client(make: Callable[..., T], options: dict[str, Any]) -> T:
    """Return `make(**options)`; if it raises, stop its network thread and close its sockets first."""
    networks: list[Any] = []

    def network(**configs: Any) -> Any:
        networks.append(KafkaNetClient(**configs))
        return networks[-1]

    try:
        return make(**options, kafka_client=network)
    except BaseException:
        for left in networks:
            _give_back(left)
        raise


def _give_back(network: Any) -> None:
    def stop() -> None:
        network._manager._net.stop(timeout_ms=2000)
        network.close()

    with contextlib.suppress(RetryLaterError, client_errors.KafkaError, OSError):
        call_within(5.0, stop, "stopping the client's network thread")

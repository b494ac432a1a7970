"""Without a broker a client gives back every file descriptor that it opened, without the help of the collector."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kafka.errors
import pytest
from kafka import KafkaAdminClient, KafkaConsumer

from connectors.kafka.clients import create_client


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("client", [KafkaConsumer, KafkaAdminClient])
def test_attempts_without_a_broker_leave_no_descriptor_open(client: Any, closed_port: int) -> None:
    options = {"bootstrap_servers": f"127.0.0.1:{closed_port}", "bootstrap_timeout_ms": 500}
    before = descriptors()
    for _ in range(3):
        with pytest.raises(kafka.errors.KafkaError):
            create_client(client, options)
    assert descriptors() <= before

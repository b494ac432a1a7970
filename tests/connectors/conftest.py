"""The three brokers that the contract tests run on: the fake, the embedded one, Apache Kafka."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.kafka.settings import KafkaSettings
from devservers.apache_kafka import ApacheKafka, missing
from devservers.embedded_broker import EmbeddedBroker
from tests.connectors.worlds import KAFKA_HOME, World
from tests.fakes.kafka import FakeBroker


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[ApacheKafka]:
    if why := missing(KAFKA_HOME):
        pytest.skip(f"Apache Kafka cannot run here: {why}")
    with ApacheKafka(home=KAFKA_HOME) as broker:
        yield broker


@pytest.fixture(
    params=["fake", "embedded", pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.slow])]
)
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        return World("fake", FakeBroker(), None)
    broker = request.getfixturevalue("embedded_broker" if request.param == "embedded" else "apache_kafka")
    return World(request.param, broker, KafkaSettings(bootstrap=broker.bootstrap, progress_deadline_s=10.0))

"""Who may not enter is never told "delivered", and is told why; who may, delivers. On a real Apache Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from devservers.apache_kafka import ApacheKafka, missing
from foundation.errors import RetryLaterError
from foundation.settings import Secret
from schemas.topics import TOPICS
from tests.connectors.gate import Gate, gate
from tests.connectors.tls import make_certificate
from tests.connectors.worlds import KAFKA_HOME, Outcomes, read_all, record
from tests.torture.broker_gate import PROMISES, REFUSED, Promise
from tests.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PASSWORD = "only-for-this-test"  # noqa: S105 - a broker on loopback that lives for one test
JAAS = (
    f'org.apache.kafka.common.security.plain.PlainLoginModule required username="ann" password="{PASSWORD}" '
    f'user_ann="{PASSWORD}";'
)


@pytest.fixture(autouse=True)
def _needs_kafka() -> None:
    if why := missing(KAFKA_HOME):
        pytest.skip(f"Apache Kafka cannot run here: {why}")


@pytest.fixture
def mutual_tls(tmp_path: Path) -> Iterator[KafkaSettings]:
    """A broker that takes only clients with a certificate it trusts, and the settings of such a client."""
    make_certificate(tmp_path)
    both = tmp_path / "broker.pem"
    both.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes())
    extra = {
        "listener.security.protocol.map": "PLAINTEXT:SSL,CONTROLLER:PLAINTEXT",
        "ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(both),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(tmp_path / "cert.pem"),
    }
    with ApacheKafka(home=KAFKA_HOME, extra=extra) as kafka:
        yield KafkaSettings(
            bootstrap=kafka.bootstrap,
            security_protocol="SSL",
            tls_ca_path=tmp_path / "cert.pem",
            tls_certificate_path=tmp_path / "cert.pem",
            tls_key_path=tmp_path / "key.pem",
            progress_deadline_s=10.0,
        )


@pytest.fixture
def password() -> Iterator[KafkaSettings]:
    """A broker that asks for a password, and the settings of a client that knows it."""
    extra = {
        "listener.security.protocol.map": "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.plaintext.plain.sasl.jaas.config": JAAS,
    }
    with ApacheKafka(home=KAFKA_HOME, extra=extra) as kafka:
        yield KafkaSettings(
            bootstrap=kafka.bootstrap,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_user="ann",
            sasl_password=Secret(PASSWORD),
            progress_deadline_s=10.0,
        )


def delivers(settings: KafkaSettings) -> None:
    ensure_topics(settings)
    outcomes, sink = Outcomes(), KafkaSink(settings)
    each = record(TOPICS.samples, b"x" * 5000)
    sink.send(each, outcomes.of(each))
    outcomes.wait(1)
    sink.close(10)
    assert outcomes.acknowledged
    source = KafkaSource(settings)
    assert [stored.value for stored in read_all(source, TOPICS.samples)] == [each.value]
    source.close()


def is_refused(settings: KafkaSettings, *, telling: str = "") -> str:
    """What the refused client says after it tried; a client may need several tries to be `telling` why."""
    outcomes, sink = Outcomes(), KafkaSink(settings)
    each = record(TOPICS.samples, b"x")
    sink.send(each, outcomes.of(each))
    until(lambda: sink.last_error and telling in sink.last_error, f"the client is refused: {telling}")
    said = sink.last_error
    sink.close(0.5)
    assert not outcomes.acknowledged
    assert len(outcomes.errors) == 1
    with pytest.raises(RetryLaterError, match="no broker at"):
        KafkaSource(replace(settings, progress_deadline_s=3.0)).describe(TOPICS.samples)
    return said


def test_a_certificate_opens_the_door_and_none_does_not(mutual_tls: KafkaSettings) -> None:
    delivers(mutual_tls)
    said = is_refused(replace(mutual_tls, tls_certificate_path=None, tls_key_path=None))
    assert said
    said = is_refused(replace(mutual_tls, security_protocol="PLAINTEXT"))
    assert said


def test_a_password_opens_the_door_and_a_wrong_one_is_told(password: KafkaSettings) -> None:
    delivers(password)
    said = is_refused(replace(password, sasl_password=Secret("another")), telling="wrong password")
    assert "wrong password" in said  # the client only says that it was cut off: we say what that can mean
    assert PASSWORD not in said


@pytest.fixture(scope="module")
def open_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A broker that knows vehicles by certificate, and gives each the rights of docs/security.md."""
    if why := missing(KAFKA_HOME):
        pytest.skip(f"Apache Kafka cannot run here: {why}")
    with gate(tmp_path_factory.mktemp("gate"), KAFKA_HOME) as made:
        yield made


@pytest.fixture(scope="module")
def tried(
    open_gate: Gate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[list[str]]]]:
    """What each agent that is refused did before the gate; all of them at the same time."""
    with ThreadPoolExecutor(len(REFUSED)) as pool:
        yield {
            promise.__name__: pool.submit(promise, open_gate, tmp_path_factory.mktemp(promise.__name__))
            for promise in REFUSED
        }


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "promise", [each for each in PROMISES if each not in REFUSED], ids=lambda promise: promise.__name__
)
def test_a_vehicle(promise: Promise, open_gate: Gate, tmp_path: Path) -> None:
    """may_not_read_samples, may_not_write_as_another, ...: each promise by its name."""
    assert promise(open_gate, tmp_path) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [each.__name__ for each in REFUSED])
def test_an_agent_before_a_closed_gate(name: str, tried: dict[str, Future[list[str]]]) -> None:
    """expired_is_refused, untrusted_is_refused, ...: each promise by its name."""
    assert tried[name].result() == []

"""The sink's promises when the broker is away, dies, hangs, or refuses."""

from __future__ import annotations

import logging
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.errors import client_log
from connectors.kafka.ports import Acknowledgement
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from devservers.apache_kafka import ApacheKafka, missing
from devservers.child_process import free_port
from devservers.embedded_broker import EmbeddedBroker
from foundation.errors import MisconfiguredError, RetryLaterError
from schemas.topics import TOPICS, Topic
from tests.connectors.tls import make_certificate, tls_listener
from tests.connectors.worlds import KAFKA_HOME, Outcomes, read_all, record
from tests.waiting import until


def test_a_sink_made_without_a_broker_returns_at_once_and_delivers_when_one_appears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("connectors.kafka.sink._METADATA_WAIT_S", 0.2)
    port, outcomes = free_port(), Outcomes()
    begin = time.monotonic()
    sink = KafkaSink(KafkaSettings(bootstrap=f"127.0.0.1:{port}"))
    records = [record(TOPICS.samples, b"%d" % number) for number in range(50)]
    for each in records:
        sink.send(each, outcomes.of(each))
    assert time.monotonic() - begin < 2.0
    until(lambda: "ECONNREFUSED" in sink.last_error, "the refusal is told")
    until(
        lambda: "no metadata" in sink._last_failure, "the client gives up once"
    )  # the client gave up once; the sink did not
    assert not outcomes.all
    assert sink.in_flight_bytes == sum(each.size_bytes for each in records)
    with EmbeddedBroker(port) as broker:
        ensure_topics(broker.bootstrap)
        outcomes.wait(50)
        assert len(outcomes.acknowledged) == 50
        assert sink.last_error == ""
        sink.close(5)


def test_close_fails_what_is_in_flight_exactly_once_and_within_its_deadline() -> None:
    outcomes, sink = Outcomes(), KafkaSink(KafkaSettings(bootstrap=f"127.0.0.1:{free_port()}"))
    for number in range(20):
        each = record(TOPICS.samples, b"%d" % number)
        sink.send(each, outcomes.of(each))
    begin = time.monotonic()
    sink.close(0.5)
    assert time.monotonic() - begin < 2.0
    sink.close(0.5)
    assert len(outcomes.all) == 20
    assert all(isinstance(each, RetryLaterError) for each in outcomes.all)
    assert {len(each) for each in outcomes.by_value.values()} == {1}
    assert sink.in_flight_bytes == 0


def test_a_closed_sink_leaves_no_thread_that_goes_on_sending() -> None:
    before = set(threading.enumerate())
    with EmbeddedBroker() as broker:
        ensure_topics(broker.bootstrap)
        outcomes, sink = Outcomes(), KafkaSink(KafkaSettings(bootstrap=broker.bootstrap))
        each = record(TOPICS.samples, b"x")
        sink.send(each, outcomes.of(each))
        outcomes.wait(1)
        sink.close(5)
        until(
            lambda: not [t for t in set(threading.enumerate()) - before if t.is_alive()],
            "the client's threads end",
        )


def test_what_the_client_holds_is_told_once_when_the_sink_closes_and_is_sent_no_more() -> None:
    before = set(threading.enumerate())
    outcomes, broker = Outcomes(), EmbeddedBroker()
    broker.start()
    ensure_topics(broker.bootstrap)
    sink = KafkaSink(KafkaSettings(bootstrap=broker.bootstrap))
    first = record(TOPICS.samples, b"first")
    sink.send(first, outcomes.of(first))
    outcomes.wait(1)
    broker.kill()
    for number in range(20):  # the topic is known, so these go into the client's own buffer
        each = record(TOPICS.samples, b"%d" % number)
        sink.send(each, outcomes.of(each))
    until(lambda: not sink._queue, "the queue is empty")
    sink.close(0.3)
    assert all(isinstance(each, RetryLaterError) for each in outcomes.all[1:])
    until(
        lambda: not [t for t in set(threading.enumerate()) - before if t.is_alive()],
        "the client's threads end",
    )
    assert {len(each) for each in outcomes.by_value.values()} == {1}
    assert len(outcomes.all) == 21
    broker.start()
    ensure_topics(broker.bootstrap)
    source = KafkaSource(KafkaSettings(bootstrap=broker.bootstrap))
    assert read_all(source, TOPICS.samples) == []
    source.close()
    broker.stop()


def test_a_source_without_a_broker_leaves_no_thread_however_often_it_tries() -> None:
    before = set(threading.enumerate())
    settings = KafkaSettings(bootstrap=f"127.0.0.1:{free_port()}", progress_deadline_s=0.3)
    for _ in range(3):
        source = KafkaSource(settings)
        with pytest.raises(RetryLaterError, match=r"no broker at .*ECONNREFUSED"):
            source.describe(TOPICS.samples)
        source.close()
    until(
        lambda: not [t for t in set(threading.enumerate()) - before if t.is_alive()],
        "the client's threads end",
    )


def test_a_peer_that_never_answers_hangs_neither_sink_nor_source(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = KafkaSettings(
            bootstrap=f"127.0.0.1:{silent.getsockname()[1]}",
            security_protocol="SSL",
            tls_ca_path=tmp_path / "cert.pem",
            progress_deadline_s=1.0,
        )
        outcomes, sink = Outcomes(), KafkaSink(settings)
        each = record(TOPICS.samples, b"x")
        sink.send(each, outcomes.of(each))
        begin = time.monotonic()
        sink.close(0.5)
        assert time.monotonic() - begin < 3.0
        assert isinstance(outcomes.all[0], RetryLaterError)
        source = KafkaSource(settings)
        with pytest.raises(RetryLaterError, match="no broker"):
            source.describe(TOPICS.samples)
        assert time.monotonic() - begin < 10.0
        source.close()


def test_a_certificate_that_is_not_trusted_is_never_success_and_is_told(tmp_path: Path) -> None:
    served, trusted = tmp_path / "served", tmp_path / "trusted"
    make_certificate(served)
    make_certificate(trusted)
    with tls_listener(served) as port:
        outcomes = Outcomes()
        sink = KafkaSink(
            KafkaSettings(
                bootstrap=f"127.0.0.1:{port}", security_protocol="SSL", tls_ca_path=trusted / "cert.pem"
            )
        )
        each = record(TOPICS.samples, b"x")
        sink.send(each, outcomes.of(each))
        until(lambda: "certificate verify failed" in sink.last_error.lower(), "the wrong certificate is told")
        assert not outcomes.all
        sink.close(0.2)
    assert isinstance(outcomes.all[0], RetryLaterError)


def test_tls_files_that_cannot_be_loaded_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"absent\.pem"):
        KafkaSink(
            KafkaSettings(
                bootstrap="127.0.0.1:1", security_protocol="SSL", tls_ca_path=tmp_path / "absent.pem"
            )
        )


def test_a_broker_that_lost_its_memory_gets_the_records_again_or_an_error_never_a_false_acknowledgement() -> (
    None
):
    """The embedded broker forgets everything when it is killed: acknowledged before, that is its limit."""
    outcomes, broker = Outcomes(), EmbeddedBroker()
    broker.start()
    ensure_topics(broker.bootstrap)
    sink = KafkaSink(KafkaSettings(bootstrap=broker.bootstrap))
    first = record(TOPICS.samples, b"first")
    sink.send(first, outcomes.of(first))
    outcomes.wait(1)
    source = KafkaSource(KafkaSettings(bootstrap=broker.bootstrap))
    before = source.describe(TOPICS.samples)
    source.close()
    broker.kill()
    later = [record(TOPICS.samples, b"later-%d" % number) for number in range(20)]
    for each in later:
        sink.send(each, outcomes.of(each))
    broker.start()
    ensure_topics(broker.bootstrap)
    outcomes.wait(21)
    sink.close(5)
    source = KafkaSource(KafkaSettings(bootstrap=broker.bootstrap))
    after = source.describe(TOPICS.samples)
    assert after.topic_id != before.topic_id
    assert after.cluster_id != before.cluster_id
    values = [each.value for each in read_all(source, TOPICS.samples)]
    source.close()
    broker.stop()
    for each in later:
        (outcome,) = outcomes.by_value[each.value]
        if isinstance(outcome, Acknowledgement):
            assert each.value in values


@pytest.mark.kafka
@pytest.mark.slow
class TestOnApacheKafka:
    """What only a durable broker can show."""

    @pytest.fixture(autouse=True)
    def _needs_kafka(self) -> None:
        if why := missing(KAFKA_HOME):
            pytest.skip(f"Apache Kafka cannot run here: {why}")

    def test_a_broker_killed_mid_stream_loses_and_doubles_nothing(self) -> None:
        outcomes = Outcomes()
        with ApacheKafka(home=KAFKA_HOME) as kafka:
            settings = KafkaSettings(bootstrap=kafka.bootstrap)
            ensure_topics(settings)
            sink = KafkaSink(settings)
            records = [
                record(TOPICS.samples, b"%06d" % n + b"." * 2000, b"v-%d" % (n % 5)) for n in range(1500)
            ]
            for number, each in enumerate(records):
                sink.send(each, outcomes.of(each))
                if number == 700:
                    outcomes.wait(1)
                    kafka.kill()
            kafka.start()
            outcomes.wait(len(records), 90)
            sink.close(20)
            source = KafkaSource(settings)
            stored = [each.value for each in read_all(source, TOPICS.samples)]
            source.close()
        assert len(outcomes.all) == len(outcomes.acknowledged) == len(records)
        assert sorted(stored) == sorted(each.value for each in records)

    def test_a_refused_write_poisons_no_other_topic(self, apache_kafka: ApacheKafka) -> None:
        settings = KafkaSettings(bootstrap=apache_kafka.bootstrap)
        small = Topic("limited", 1, 3600)
        ensure_topics(settings, [small, Topic("normal", 1, 3600)])
        limit_messages(settings, small.name, 2000)
        outcomes, sink = Outcomes(), KafkaSink(settings)
        refused, kept = record("limited", b"x" * 50_000), [record("normal", b"%d" % n) for n in range(20)]
        sink.send(refused, outcomes.of(refused))
        outcomes.wait(1)
        assert getattr(outcomes.all[0], "reason", None) == "oversize"
        for each in kept:
            sink.send(each, outcomes.of(each))
        outcomes.wait(21)
        sink.close(10)
        assert len(outcomes.acknowledged) == 20

    def test_retention_that_passes_a_running_read_is_named(self, apache_kafka: ApacheKafka) -> None:
        from connectors.kafka.admin import administration

        settings = KafkaSettings(bootstrap=apache_kafka.bootstrap, progress_deadline_s=5.0)
        ensure_topics(settings, [Topic("passing", 1, 3600)])
        outcomes, sink = Outcomes(), KafkaSink(settings)
        for number in range(60):  # 48 MB: more than one fetch holds
            each = record("passing", b"%02d" % number + b"." * 800_000)
            until(lambda: sink.in_flight_bytes <= 8_000_000, "the records before were acknowledged")
            sink.send(each, outcomes.of(each))
        outcomes.wait(60)
        sink.close(10)
        source = KafkaSource(replace(settings))
        batches = source.read("passing", 0, 0, 60)
        next(batches)
        with administration(settings) as admin:
            admin.delete_records("passing", 0, 58)
        seen: list[int] = []
        try:
            for batch in batches:
                seen.extend(each.offset for each in batch)
        except RetryLaterError:
            pytest.fail("the loss was not named")
        except Exception as error:
            assert type(error).__name__ == "OffsetsLostError"
            assert error.lost_end == 58  # type: ignore[attr-defined]
        else:
            assert seen[-1] == 59  # all of it was fetched before retention came
        source.close()

    def test_gaps_of_an_aborted_transaction_are_passed_over(self, apache_kafka: ApacheKafka) -> None:
        from kafka import KafkaProducer

        settings = KafkaSettings(bootstrap=apache_kafka.bootstrap, progress_deadline_s=10.0)
        ensure_topics(settings, [Topic("gaps", 1, 3600)])
        producer = KafkaProducer(bootstrap_servers=apache_kafka.bootstrap, transactional_id="t-1")
        producer.init_transactions()
        for is_kept, value in ((True, b"kept-1"), (False, b"aborted"), (True, b"kept-2")):
            producer.begin_transaction()
            producer.send("gaps", value=value)
            producer.flush()
            (producer.commit_transaction if is_kept else producer.abort_transaction)()
        producer.close()
        source = KafkaSource(settings)
        until(lambda: source.bounds("gaps", 0)[1] == 6, "three records and three markers are in the log")
        assert [each.value for each in read_all(source, "gaps")] == [b"kept-1", b"kept-2"]
        source.close()


def limit_messages(settings: KafkaSettings, topic: str, size_bytes: int) -> None:
    from kafka import KafkaAdminClient
    from kafka.admin import ConfigResource, ConfigResourceType

    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap)
    admin.alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(size_bytes)})]
    )
    admin.close()


@pytest.mark.parametrize("off_s", [-86_400.0, 10 * 365 * 86_400.0])
def test_a_wall_clock_that_jumps_hides_no_trouble_and_keeps_none(
    monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    """Trouble from before the last acknowledgement is over, trouble after it is told, whatever the time of day."""
    real, trouble, client = time.time, client_log(), logging.getLogger("kafka.test")
    client.warning("before")
    acknowledged_s = time.monotonic()
    assert trouble.since(acknowledged_s) == ""
    monkeypatch.setattr(time, "time", lambda: real() + off_s)
    monkeypatch.setattr(time, "time_ns", lambda: int((real() + off_s) * 1e9))
    client.warning("after")
    assert trouble.since(acknowledged_s) == "after"
    client.warning("ahead")
    monkeypatch.undo()
    assert trouble.since(time.monotonic()) == ""

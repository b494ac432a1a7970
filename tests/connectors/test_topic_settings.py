"""A topic that somebody else made is compared with what the product needs; each difference says what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from connectors.kafka.admin import administration, ensure_topics
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.source import KafkaSource
from connectors.kafka.topic_settings import differences, settings_for, topic_named
from devservers.apache_kafka import ApacheKafka, missing
from foundation.clock import SystemClock
from foundation.retry import Deadline
from schemas.topics import TOPIC_TABLE, TOPICS
from services.doctor import examine
from tests.connectors.worlds import KAFKA_HOME
from workspace.layout import Workspace

FOREIGN = {
    "cleanup.policy": "compact",
    "compression.type": "snappy",
    "message.timestamp.type": "CreateTime",
    "retention.ms": "3600000",
    "retention.bytes": "1000000",
    "max.message.bytes": "100000",
    "unclean.leader.election.enable": "true",
}


@pytest.mark.parametrize("setting", FOREIGN)
def test_each_setting_that_breaks_a_guarantee_is_told_with_value_wanted_value_and_cost(setting: str) -> None:
    (found,) = differences(TOPICS.samples, {setting: FOREIGN[setting]})
    assert (found.setting, found.found) == (setting, FOREIGN[setting])
    assert found.wanted in str(found)
    assert len(found.cost) > 20


@pytest.mark.parametrize("policy", ["compact,delete", "delete,compact", ""])
def test_any_policy_but_deletion_is_told(policy: str) -> None:
    assert [found.setting for found in differences(TOPICS.samples, {"cleanup.policy": policy})] == [
        "cleanup.policy"
    ]


@pytest.mark.parametrize("topic", TOPIC_TABLE)
def test_what_a_topic_is_made_with_has_no_difference(topic: object) -> None:
    for name in (TOPICS.samples, TOPICS.telemetry, TOPICS.notices, "samples.of.another.name"):
        assert differences(name, settings_for(topic_named(name))) == []
    assert differences(TOPICS.samples, {"retention.ms": "-1", "compression.type": "uncompressed"}) == []


def test_a_value_that_is_no_number_is_told_and_stops_nothing() -> None:
    assert [found.found for found in differences(TOPICS.samples, {"retention.ms": "long"})] == ["long"]


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaSettings]:
    if why := missing(KAFKA_HOME):
        pytest.skip(f"Apache Kafka cannot run here: {why}")
    extra = {"log.cleaner.backoff.ms": "200", "log.cleaner.dedupe.buffer.size": "2097152"}
    with ApacheKafka(home=KAFKA_HOME, extra=extra) as broker:
        yield KafkaSettings(bootstrap=broker.bootstrap, progress_deadline_s=20.0)


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_on_a_real_broker_a_topic_of_ours_has_no_difference_and_a_foreign_one_has_each(
    kafka: KafkaSettings,
) -> None:
    ensure_topics(kafka)
    with administration(kafka) as admin:
        assert admin.differences(TOPICS.samples) == []
        admin.ask(
            "making a foreign topic",
            lambda client: client.create_topics(
                {"foreign": {"num_partitions": 1, "replication_factor": 1, "configs": FOREIGN}}
            ),
        )
        assert {found.setting for found in admin.differences("foreign")} == set(FOREIGN)
    source = KafkaSource(kafka)
    assert len(source.warnings("foreign")) == len(FOREIGN)
    source.close()


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_doctor_looks_at_the_topics_of_a_workspace(kafka: KafkaSettings, tmp_path: Path) -> None:
    ensure_topics(kafka)
    (tmp_path / "fleetloop.toml").write_text(f'bootstrap = "{kafka.bootstrap}"\n')

    def told() -> dict[str, bool]:
        return {
            each.name: each.ok
            for each in examine(Workspace.open(tmp_path)).findings
            if "every record" in each.needed_for
        }

    assert told() == {"topics": True}
    with administration(kafka) as admin:
        resource = ConfigResource(ConfigResourceType.TOPIC, TOPICS.samples, {"cleanup.policy": "compact"})
        admin.ask("changing a setting", lambda client: client.alter_configs([resource]))
    assert told()["fleetloop.samples: cleanup.policy"] is False


def test_doctor_says_that_no_broker_answers(tmp_path: Path) -> None:
    (tmp_path / "fleetloop.toml").write_text(
        "[kafka]\nbootstrap = '127.0.0.1:1'\nprogress_deadline_s = 0.2\n"
    )
    (found,) = [each for each in examine(Workspace.open(tmp_path)).findings if each.name == "topics"]
    assert not found.ok
    assert "127.0.0.1:1" in found.found


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_on_a_real_broker_an_open_transaction_and_what_it_hid_are_told_apart_from_records(
    kafka: KafkaSettings,
) -> None:
    with administration(kafka) as admin:
        admin.ask(
            "making a topic",
            lambda client: client.create_topics({"t": {"num_partitions": 1, "replication_factor": 1}}),
        )
        admin.ask("waiting for it", lambda client: client.wait_for_topics(["t"]))
    plain = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    other = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id="t")
    other.init_transactions()
    plain.send("t", b"0", partition=0).get(20)
    other.begin_transaction()
    other.send("t", b"1", partition=0).get(20)
    plain.send("t", b"2", partition=0).get(20)
    source = KafkaSource(kafka)
    assert (source.bounds("t", 0)[1], source.log_end("t", 0)) == (1, 3)
    other.abort_transaction()
    for producer in (plain, other):
        producer.close(timeout=5)
    deadline = Deadline(SystemClock(), 20.0)
    while source.bounds("t", 0)[1] < 4:  # the broker writes the marker after it answered
        deadline.check("waiting for the marker")
    assert source.log_end("t", 0) == 4
    seen = [record.offset for part in source.read("t", 0, 0, 4) for record in part]
    assert seen == [0, 2]
    assert source.retained_offsets("t", 0, 0, 4) == {0, 1, 2, 3}  # also the aborted record and the marker
    source.close()

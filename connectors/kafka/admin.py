"""Topic administration: create topics as `TOPIC_TABLE` says, and describe them with their topic ids."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import kafka.errors as client_errors
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from connectors.kafka.bounded_call import call_within
from connectors.kafka.clients import create_client
from connectors.kafka.errors import client_log, translated, translating
from connectors.kafka.ports import TopicInfo
from connectors.kafka.settings import KafkaSettings, connection_options
from connectors.kafka.topic_settings import Difference, differences, settings_for
from foundation.clock import Clock, SystemClock
from foundation.errors import DeadlineError, RejectedError, RetryLaterError
from schemas.topics import TOPIC_TABLE, Topic

_NO_ERROR: Final = 0
_UNKNOWN_TOPIC: Final = 3
_EXISTS: Final = 36
_KNOWN_WITHIN_NS: Final = 15_000_000_000
_LOOK_AGAIN_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic after `ensure_topics`; `is_new` if that call created it."""

    info: TopicInfo
    is_new: bool


class KafkaAdmin:
    """A connection for administration. Every call ends within `KafkaSettings.progress_deadline_s`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._deadline_s = settings.progress_deadline_s
        started_s = time.monotonic()
        log = client_log()
        options = connection_options(settings) | {"bootstrap_timeout_ms": int(self._deadline_s * 1000)}

        def connect() -> Any:
            with translating(f"connecting to {settings.bootstrap}"):
                return create_client(KafkaAdminClient, options)

        try:
            self._client: Any = call_within(
                self._deadline_s + 1.0,
                connect,
                f"connecting to {settings.bootstrap}",
                give_back=lambda client: client.close(),
            )
        except DeadlineError as error:
            cause = log.since(started_s)
            raise RetryLaterError(f"no broker at {settings.bootstrap}: {cause or error}") from error

    def describe(self, topic: str) -> TopicInfo:
        """Return the topic's present state. Raises RejectedError (no_such_topic), RetryLaterError without a broker."""
        cluster_id = str(
            self._call("describing the cluster", lambda: self._client.describe_cluster())["cluster_id"]
        )
        for found in self._call(f"describing {topic}", lambda: self._client.describe_topics([topic])):
            if found["name"] != topic:
                continue
            if found["error_code"] == _UNKNOWN_TOPIC:
                break
            if found["error_code"] != _NO_ERROR:
                raise translated(client_errors.for_code(found["error_code"])(), f"describing {topic}")
            if not found["topic_id"]:
                raise RejectedError(f"the broker gives no topic id for {topic!r}", reason="no_topic_id")
            numbers = tuple(sorted(int(part["partition_index"]) for part in found["partitions"]))
            return TopicInfo(cluster_id, topic, str(found["topic_id"]), numbers)
        raise RejectedError(f"there is no topic {topic!r}", reason="no_such_topic")

    def list_topics(self) -> list[str]:
        """Return the names of all topics, sorted."""
        return sorted(self._call("listing the topics", lambda: self._client.list_topics()))

    def create(self, topic: Topic, replicas: int = -1) -> bool:
        """Create a topic; False if it exists already. `replicas` -1 takes the broker's default."""
        wanted = {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": replicas,
                "configs": settings_for(topic),
            }
        }
        answer = self._call(
            f"creating {topic.name}", lambda: self._client.create_topics(wanted, raise_errors=False)
        )
        (made,) = answer["topics"]
        if made["error_code"] == _EXISTS:
            return False
        if made["error_code"] != _NO_ERROR:
            error = client_errors.for_code(made["error_code"])(made["error_message"])
            raise translated(error, f"creating {topic.name}")
        self._call(f"waiting for {topic.name}", lambda: self._client.wait_for_topics([topic.name]))
        return True

    def differences(self, topic: str) -> list[Difference]:
        """Return the settings of the topic that differ from what the product needs (`topic_settings`).

        Raises MisconfiguredError if this client may not read them.
        """
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic)]
        answer = self._call(
            f"asking for the settings of {topic}",
            lambda: self._client.describe_configs(wanted, config_filter="all"),
        )
        found = answer.get("topic", {}).get(topic, {})
        return differences(topic, {name: str(entry["value"]) for name, entry in found.items()})

    def delete(self, topic: str) -> None:
        """Delete a topic and its records."""
        self._call(f"deleting {topic}", lambda: self._client.delete_topics([topic]))

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Delete the records below `before_offset`, as retention does."""
        from kafka import TopicPartition

        place = {TopicPartition(topic, partition): before_offset}
        self._call(f"deleting records of {topic}/{partition}", lambda: self._client.delete_records(place))

    def ask(self, doing: str, call: Callable[[Any], Any]) -> Any:
        """Run any other call of kafka-python's admin client, within the deadline and with translated errors."""
        return self._call(doing, lambda: call(self._client))

    def close(self) -> None:
        """Close the connection; never hangs."""
        with contextlib.suppress(RetryLaterError):
            call_within(5.0, self._client.close, "closing the connection")

    def _call(self, doing: str, call: Any) -> Any:
        def translated_call() -> Any:
            with translating(doing):
                return call()

        return call_within(self._deadline_s, translated_call, doing)


@contextlib.contextmanager
def administration(settings: KafkaSettings) -> Iterator[KafkaAdmin]:
    """Yield an administration connection, closed at the end."""
    admin = KafkaAdmin(settings)
    try:
        yield admin
    finally:
        admin.close()


def ensure_topics(
    bootstrap: str | KafkaSettings,
    topics: Sequence[Topic] = TOPIC_TABLE,
    *,
    replicas: int = -1,
    clock: Clock | None = None,
) -> list[TopicState]:
    """Create the topics that are missing and describe all, waiting until a broker that just started knows them.

    Raises:
        RetryLaterError: no broker.
        RejectedError: a topic exists with fewer partitions than the table says (reason too_few_partitions).
    """
    settings = bootstrap if isinstance(bootstrap, KafkaSettings) else KafkaSettings(bootstrap=bootstrap)
    states = []
    with administration(settings) as admin:
        for topic in topics:
            is_new = admin.create(topic, replicas)
            info = _described(admin, topic.name, clock or SystemClock())
            if len(info.partitions) < topic.partitions:
                raise RejectedError(
                    f"topic {topic.name} has {len(info.partitions)} partitions; it needs {topic.partitions}",
                    reason="too_few_partitions",
                )
            states.append(TopicState(info, is_new))
    return states


def _described(admin: KafkaAdmin, topic: str, clock: Clock) -> TopicInfo:
    """Describe a topic, waiting while its metadata spreads: a broker accepts a topic before all nodes know its name."""
    deadline_ns = clock.monotonic_ns() + _KNOWN_WITHIN_NS
    while True:
        try:
            return admin.describe(topic)
        except RejectedError as error:
            if error.reason != "no_such_topic" or clock.monotonic_ns() >= deadline_ns:
                raise
        clock.sleep(_LOOK_AGAIN_S)

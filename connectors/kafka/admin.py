"""Topics are made as the one table says, and described with the ids that tell a new topic from an old one."""

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
from connectors.kafka.clients import made
from connectors.kafka.errors import translated, translating, trouble_log
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
    """One topic after `ensure_topics`: whether this call made it."""

    info: TopicInfo
    is_new: bool


class KafkaAdmin:
    """One connection for administration. Every call ends within the settings' progress deadline."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._deadline_s = settings.progress_deadline_s
        started_s = time.monotonic()
        trouble = trouble_log()
        options = connection_options(settings) | {"bootstrap_timeout_ms": int(self._deadline_s * 1000)}

        def connect() -> Any:
            with translating(f"connecting to {settings.bootstrap}"):
                return made(KafkaAdminClient, options)

        try:
            self._client: Any = call_within(
                self._deadline_s + 1.0,
                connect,
                f"connecting to {settings.bootstrap}",
                give_back=lambda client: client.close(),
            )
        except DeadlineError as error:
            cause = trouble.since(started_s)
            raise RetryLaterError(f"no broker at {settings.bootstrap}: {cause or error}") from error

    def describe(self, topic: str) -> TopicInfo:
        """What the topic is now. Raises RejectedError (reason no_such_topic), RetryLaterError without a broker."""
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
                raise RejectedError(f"the broker tells no id of {topic!r}", reason="no_topic_id")
            numbers = tuple(sorted(int(part["partition_index"]) for part in found["partitions"]))
            return TopicInfo(cluster_id, topic, str(found["topic_id"]), numbers)
        raise RejectedError(f"there is no topic {topic!r}", reason="no_such_topic")

    def list_topics(self) -> list[str]:
        """The names of all topics, sorted."""
        return sorted(self._call("listing the topics", lambda: self._client.list_topics()))

    def create(self, topic: Topic, replicas: int = -1) -> bool:
        """Make one topic; False when it exists. `replicas` -1 takes the broker's default."""
        wanted = {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": replicas,
                "configs": settings_for(topic),
            }
        }
        answer = self._call(
            f"making {topic.name}", lambda: self._client.create_topics(wanted, raise_errors=False)
        )
        (made,) = answer["topics"]
        if made["error_code"] == _EXISTS:
            return False
        if made["error_code"] != _NO_ERROR:
            error = client_errors.for_code(made["error_code"])(made["error_message"])
            raise translated(error, f"making {topic.name}")
        self._call(f"waiting for {topic.name}", lambda: self._client.wait_for_topics([topic.name]))
        return True

    def differences(self, topic: str) -> list[Difference]:
        """The settings of the topic that are not as the product needs them (`topic_settings`).

        Raises MisconfiguredError when this client may not see them.
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
        """Take the records below `before_offset` away, as retention does."""
        from kafka import TopicPartition

        place = {TopicPartition(topic, partition): before_offset}
        self._call(f"deleting records of {topic}/{partition}", lambda: self._client.delete_records(place))

    def ask(self, doing: str, call: Callable[[Any], Any]) -> Any:
        """Anything else that the client's administration can do, in time and with errors of ours."""
        return self._call(doing, lambda: call(self._client))

    def close(self) -> None:
        """Give the connection back; never hangs."""
        with contextlib.suppress(RetryLaterError):
            call_within(5.0, self._client.close, "closing the connection")

    def _call(self, doing: str, call: Any) -> Any:
        def translated_call() -> Any:
            with translating(doing):
                return call()

        return call_within(self._deadline_s, translated_call, doing)


@contextlib.contextmanager
def administration(settings: KafkaSettings) -> Iterator[KafkaAdmin]:
    """A connection that is given back at the end."""
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
    """Make the topics that are missing and describe all of them, waiting for a broker that just started to know them.

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
    """A topic that was just made, or was there. Why wait? A broker accepts a topic before all of it knows the name."""
    deadline_ns = clock.monotonic_ns() + _KNOWN_WITHIN_NS
    while True:
        try:
            return admin.describe(topic)
        except RejectedError as error:
            if error.reason != "no_such_topic" or clock.monotonic_ns() >= deadline_ns:
                raise
        clock.sleep(_LOOK_AGAIN_S)

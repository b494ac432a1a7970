"""What only an administrator sees: who leads, and a topic made anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _admin(bootstrap: str) -> Iterator[Any]:
    from kafka import KafkaAdminClient

    client = KafkaAdminClient(bootstrap_servers=bootstrap.split(","), client_id="fleetloop-torture")
    try:
        yield client
    finally:
        client.close()


def leader_of_the_flow(bootstrap: str, topic: str) -> int | None:
    """The node that leads the fullest partition of the topic; None while it has no leader."""
    from connectors.kafka.settings import KafkaSettings
    from connectors.kafka.source import KafkaSource

    source = KafkaSource(KafkaSettings(bootstrap=bootstrap))
    try:
        partitions = source.describe(topic).partitions
        fullest = max(partitions, key=lambda each: source.bounds(topic, each)[1])
    finally:
        source.close()
    with _admin(bootstrap) as admin:
        (described,) = admin.describe_topics([topic])
    leader = next(each["leader_id"] for each in described["partitions"] if each["partition_index"] == fullest)
    return int(leader) if int(leader) > 0 else None


def replicas_in_sync(bootstrap: str, topic: str) -> int:
    """The fewest in-sync replicas of any partition."""
    with _admin(bootstrap) as admin:
        (described,) = admin.describe_topics([topic])
    return min(len(each["isr_nodes"]) for each in described["partitions"])


def make_anew(bootstrap: str, topic: str) -> str:
    """Delete the topic with all that it holds, make it again, and return the id of the new one."""
    from connectors.kafka.admin import administration, ensure_topics
    from connectors.kafka.settings import KafkaSettings
    from tests.waiting import until

    settings = KafkaSettings(bootstrap=bootstrap)
    with administration(settings) as admin:
        admin.delete(topic)
        until(lambda: topic not in admin.list_topics(), "the topic is gone")
    return next(state.info.topic_id for state in ensure_topics(settings) if state.info.topic == topic)


def topics_in_time(bootstrap: str, patience_s: float = 90.0) -> None:
    """Make the topics once every node takes part: the last one may still be on its way into the cluster."""
    import time

    from connectors.kafka.admin import ensure_topics
    from foundation.errors import FleetLoopError

    end_s = time.monotonic() + patience_s
    while True:
        try:
            ensure_topics(bootstrap)
            return
        except FleetLoopError:
            if time.monotonic() > end_s:
                raise
            time.sleep(1.0)

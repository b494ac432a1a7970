"""List a broker's topics, create missing ones of FleetLoop, and find settings under which records get lost."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.kafka.admin import administration, ensure_topics
from connectors.kafka.cluster_names import EMBEDDED_CLUSTER
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.topic_settings import Difference
from schemas.topics import TOPIC_TABLE


@dataclass(frozen=True, slots=True)
class TopicRow:
    """One topic; `made` if it was created just now."""

    topic: str
    topic_id: str
    partitions: int
    made: bool


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a cluster (None: unknown, for want of a topic), and settings of ours that lose records."""

    bootstrap: str
    cluster_id: str | None
    topics: tuple[TopicRow, ...]
    differences: tuple[Difference, ...]

    @property
    def is_embedded(self) -> bool:
        """Whether this is the embedded broker, whose topics have no settings."""
        return (self.cluster_id or "").startswith(EMBEDDED_CLUSTER)


def list_topics(settings: KafkaSettings, *, creates: bool = False, replicas: int = -1) -> Topics:
    """List the topics of a broker; `creates` first creates those of FleetLoop that are missing.

    Args:
        replicas: copies of a new topic; -1 is the broker's default.

    Raises:
        RetryLaterError: no broker answers. RejectedError: it denies access.
    """
    made = [s.info.topic for s in ensure_topics(settings, replicas=replicas) if s.is_new] if creates else []
    with administration(settings) as admin:
        found = [admin.describe(name) for name in admin.list_topics() if not name.startswith("__")]
        ours = {topic.name for topic in TOPIC_TABLE}
        differences = [
            each
            for info in found
            if info.topic in ours and not info.cluster_id.startswith(EMBEDDED_CLUSTER)
            for each in admin.differences(info.topic)
        ]
    rows = (TopicRow(i.topic, i.topic_id, len(i.partitions), i.topic in made) for i in found)
    cluster_id = found[0].cluster_id if found else None
    return Topics(settings.bootstrap, cluster_id, tuple(rows), tuple(differences))

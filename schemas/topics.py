"""The table of Kafka topics, with their partitions and retention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_RECORD_BYTES: Final = 1_000_000
"""The largest value of a record; a larger payload goes to the blob store and its URI into the record."""

_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Topic:
    """The required properties of a topic. `retention_s` is how long ingest may be down without losing offsets."""

    name: str
    partitions: int
    retention_s: int
    max_record_bytes: int = MAX_RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of the topics."""

    samples: str
    telemetry: str
    notices: str


TOPICS: Final = Topics("fleetloop.samples", "fleetloop.telemetry", "fleetloop.notices")

TOPIC_TABLE: Final = (
    Topic(TOPICS.samples, partitions=4, retention_s=7 * _DAY_S),
    Topic(TOPICS.telemetry, partitions=2, retention_s=30 * _DAY_S),
    Topic(TOPICS.notices, partitions=1, retention_s=7 * _DAY_S),
)

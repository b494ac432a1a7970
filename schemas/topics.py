"""The topics, their partitions and their retention, in the one place that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_RECORD_BYTES: Final = 1_000_000
"""The largest value of a record; a larger payload goes to the blob store, its uri in the record."""

_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic must be like. `retention_s` bounds how long ingest may be away without losing offsets."""

    name: str
    partitions: int
    retention_s: int
    max_record_bytes: int = MAX_RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Topics:
    """The names only."""

    samples: str
    telemetry: str
    notices: str


TOPICS: Final = Topics("fleetloop.samples", "fleetloop.telemetry", "fleetloop.notices")

TOPIC_TABLE: Final = (
    Topic(TOPICS.samples, partitions=4, retention_s=7 * _DAY_S),
    Topic(TOPICS.telemetry, partitions=2, retention_s=30 * _DAY_S),
    Topic(TOPICS.notices, partitions=1, retention_s=7 * _DAY_S),
)

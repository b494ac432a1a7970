"""The settings of ingest: how it cuts its work, with bounds and units."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.errors import MisconfiguredError
from schemas.wire import TOPICS

_BOUNDS = {
    "range_offsets": (1, 10_000_000),
    "batch_records": (1, 1_000_000),
    "batch_bytes": (1_000, 1_000_000_000),
    "run_offsets": (1, 1_000_000_000),
    "identity_shards": (1, 4096),
    "commit_wait_s": (0, 3600),
    "replans": (0, 100),
    "vehicle_records_per_day": (0, 10**9),
    "vehicle_bytes_per_day": (0, 10**15),
}


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """Settings for the ingest of one topic.

    `range_offsets`: offsets that a worker reads at a time. `batch_records`, `batch_bytes`: the most that becomes one file
    (a worker holds about four times `batch_bytes` in memory). `run_offsets`: the most offsets of one partition per commit.
    `identity_shards`: groups in which identities are deduplicated in parallel. `commit_wait_s`: how long to wait for
    another committer. `replans`: how often to plan again if another committer was first. `blobs`: address of the blob store
    for payloads outside of records; without one a record with a `payload_uri` becomes a dead letter, to be replayed later.
    `vehicle_records_per_day`, `vehicle_bytes_per_day`: the most that one vehicle lands within a day (`pipelines.ingest.quota`),
    in records and bytes of payloads; 0 bounds nothing.
    """

    topic: str = TOPICS.samples
    range_offsets: int = 20_000
    batch_records: int = 20_000
    batch_bytes: int = 32_000_000
    run_offsets: int = 1_000_000
    identity_shards: int = 4
    commit_wait_s: float = 60.0
    replans: int = 5
    blobs: str = ""
    vehicle_records_per_day: int = 0
    vehicle_bytes_per_day: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise MisconfiguredError(f"ingest.{name} is {value}; it must be in [{least}, {most}]")

"""Decide when to ingest what is at the broker: once it fills a file, or once it has waited for long enough.

A run makes a file for each partition with new records, so a run at every look would fill the lake with tiny files.
"""

from __future__ import annotations

from dataclasses import dataclass

from connectors.kafka.ports import RecordSource
from connectors.lake.table import Snapshot
from foundation.errors import MisconfiguredError
from pipelines.ingest.holes import position_name


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """How `ingest --follow` works.

    `poll_s`: seconds between two looks at the broker. `fresh_s`: a record is read at the latest so many seconds after the
    look that found it (0: at every look). `enough_offsets`: so many offsets are read at once. `is_compacting`: whether
    small files are merged after a run.
    """

    poll_s: float = 5.0
    fresh_s: float = 0.0
    enough_offsets: int = 20_000
    is_compacting: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.fresh_s <= 86_400:
            raise MisconfiguredError(f"fresh_s is {self.fresh_s}; it must be in [0, 86400] s")
        if self.enough_offsets < 1:
            raise MisconfiguredError(f"enough_offsets is {self.enough_offsets}; it must be at least 1")


class Backlog:
    """The offsets that the lake does not have yet, and since when."""

    def __init__(self, settings: FollowSettings) -> None:
        self._settings = settings
        self._since_ns: int | None = None
        self._is_first = True

    @property
    def is_due_anyway(self) -> bool:
        """Whether to run without a look: until the first run succeeded, and where nothing may wait."""
        return self._is_first or self._settings.fresh_s == 0

    def is_due(self, snapshot: Snapshot, source: RecordSource, topic: str, monotonic_ns: int) -> bool:
        """Return whether to run now: if enough offsets wait, or if the first of them has waited `fresh_s`.

        A log that ends before the lake does, and a topic that was made anew, are for a run to tell.
        """
        waiting = count_waiting(snapshot, source, topic)
        if waiting == 0:
            self._since_ns = None
            return False
        if waiting is None or waiting >= self._settings.enough_offsets:
            return True
        if self._since_ns is None:
            self._since_ns = monotonic_ns
        return monotonic_ns - self._since_ns >= self._settings.fresh_s * 1e9

    def ran(self) -> None:
        """Note that a run has succeeded."""
        self._is_first, self._since_ns = False, None


def count_waiting(snapshot: Snapshot, source: RecordSource, topic: str) -> int | None:
    """Return how many offsets of the topic the lake does not have; None if the lake ends behind the log's end."""
    info = source.describe(topic)
    count = 0
    for partition in info.partitions:
        end = source.log_end(topic, partition)
        start = snapshot.app_transaction(position_name(info, partition)) or 0
        if end < start:
            return None
        count += end - start
    return count

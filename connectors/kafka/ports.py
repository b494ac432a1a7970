"""The broker ports: where wire records go, and how a log is read.

Each port has a real implementation beside it and a fake in `tests/fakes`; the same contract tests run on
both. This module does no I/O and imports no client library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from foundation.errors import FleetLoopError
from schemas.wire import StoredRecord, WireRecord


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The broker's confirmation that a record is in its log. `offset` is -1 if the broker recognised a resend."""

    topic: str
    partition: int
    offset: int


OnDone = Callable[[Acknowledgement | FleetLoopError], None]
"""Called exactly once per record, from any thread, with its acknowledgement or with the error that ended it."""


class RecordSink(Protocol):
    """Where wire records go: Kafka, or a fake of it."""

    def send(self, record: WireRecord, on_done: OnDone) -> None:
        """Queue one record and return at once.

        Raises:
            BackPressureError: the bytes in flight would exceed the cap; nothing was queued, try again later.
            RejectedError: the record is larger than the broker's limit and can never be sent.
        """

    @property
    def in_flight_bytes(self) -> int:
        """Bytes (key, value, headers) sent and neither acknowledged nor failed."""

    @property
    def last_progress_ns(self) -> int:
        """Monotonic time (ns) of the last acknowledgement, or of creation before the first: for a watchdog."""

    @property
    def last_error(self) -> str:
        """The last error as a message (refused certificate, no broker, ...), or an empty string."""

    @property
    def is_refused(self) -> bool:
        """Whether `last_error` is refused access (certificate, password or ACL)."""

    def close(self, deadline_s: float) -> None:
        """Stop within `deadline_s`; records still in flight end with an error, never with a false acknowledgement."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """The state of a topic at one moment. A recreated topic has another `topic_id`."""

    cluster_id: str
    topic: str
    topic_id: str
    partitions: tuple[int, ...]


class RecordSource(Protocol):
    """Bounded reads of a topic's log by exact offsets, without a consumer group and without silent offset resets."""

    def describe(self, topic: str) -> TopicInfo:
        """Return the topic's present state. Raises RetryLaterError without a broker, RejectedError for no such topic."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first retained offset and one past the last readable one: [begin, end)."""

    def log_end(self, topic: str, partition: int) -> int:
        """Return the high watermark: one past the last offset. While a transaction is open, `bounds` ends before it."""

    def warnings(self, topic: str) -> list[str]:
        """Return one message per setting of the topic under which accepted records can be lost."""

    def retained_offsets(self, topic: str, partition: int, start: int, end: int) -> set[int]:
        """Return the offsets in [start, end) that the log still holds.

        They include what `read` never returns: transaction markers and records of aborted transactions. A missing offset
        was a record that log compaction removed. Raises as `read`.
        """

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[StoredRecord]]:
        """Yield batches of the records in [start, end), in order of offset.

        Raises:
            OffsetsLostError: `start` is below the first retained offset; it names the lost interval.
            RetryLaterError: no progress within the deadline.
        """

    def close(self) -> None:
        """Close the connections; never hangs."""


class RecordTail(Protocol):
    """The records that a topic gets from now on, best effort.

    For hints only: it may miss records or repeat the last earlier one without notice. No consumer group, no offsets.
    """

    @property
    def is_connected(self) -> bool:
        """Whether it is connected. False until the first `poll` has connected."""

    def poll(self, wait_s: float) -> list[StoredRecord]:
        """Return new records, waiting up to `wait_s` for the first; the first call connects and returns none.

        Raises:
            RetryLaterError: no broker or no such topic; the next call connects again.
            MisconfiguredError: the broker refuses this client.
        """

    def close(self) -> None:
        """Close the connection; never hangs."""

"""The ports of the broker: where wire records go, and how a log is read.

A port says what is promised, never how. Each has a real part beside it and a fake in `tests/fakes`;
the same contract tests run on both. This module does no I/O and imports no client library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from foundation.errors import FleetLoopError
from schemas.wire import StoredRecord, WireRecord


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The broker's word that one record is in its log. `offset` is -1 when it knows it only as a resend."""

    topic: str
    partition: int
    offset: int


OnDone = Callable[[Acknowledgement | FleetLoopError], None]
"""Called exactly once a record, from any thread: with its acknowledgement, or with why there will be none."""


class RecordSink(Protocol):
    """Where wire records go: Kafka, or a fake of it."""

    def send(self, record: WireRecord, on_done: OnDone) -> None:
        """Queue one record and return at once.

        Raises:
            BackPressureError: the bytes in flight would pass the cap; nothing was queued, try again later.
            RejectedError: the record is larger than the broker's limit and can never be sent.
        """

    @property
    def in_flight_bytes(self) -> int:
        """Bytes sent and neither acknowledged nor failed."""

    @property
    def last_progress_ns(self) -> int:
        """Monotonic time (ns) of the last acknowledgement, of creation before the first: for a watchdog."""

    @property
    def last_error(self) -> str:
        """The last cause of trouble in words (refused certificate, no broker, ...), or an empty string."""

    @property
    def is_refused(self) -> bool:
        """Whether that trouble is that this client is not let in (its certificate, password or rights)."""

    def close(self, deadline_s: float) -> None:
        """Stop within `deadline_s`; what is still in flight gets an error, never a false acknowledgement."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """What a topic is at this moment. A topic created anew has another `topic_id`."""

    cluster_id: str
    topic: str
    topic_id: str
    partitions: tuple[int, ...]


class RecordSource(Protocol):
    """Bounded reads of a topic's log by exact offsets. Never joins a group, never jumps silently."""

    def describe(self, topic: str) -> TopicInfo:
        """Raises RetryLaterError without a broker, RejectedError when there is no such topic."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First retained offset and one past the last: [begin, end)."""

    def log_end(self, topic: str, partition: int) -> int:
        """One past the last offset of the log. While a transaction is open, `bounds` ends before it."""

    def warnings(self, topic: str) -> list[str]:
        """Settings of the topic under which accepted records get lost, one line each."""

    def kept(self, topic: str, partition: int, start: int, end: int) -> set[int]:
        """The offsets in [start, end) that the log still holds, also what `read` never gives (transaction markers,
        records of aborted transactions). What is missing was a record that compaction destroyed.

        Raises as `read`.
        """

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[StoredRecord]]:
        """Batches of the records in [start, end), in order of offset.

        Raises:
            OffsetsLostError: `start` is below the first retained offset (it names the interval that is lost).
            RetryLaterError: no progress within the deadline.
        """

    def close(self) -> None:
        """Give the connections back; never hangs."""


class RecordTail(Protocol):
    """What a topic gets from now on.

    For hints: it may miss records, or begin with the last one before, and never says so; no group, no
    offsets.
    """

    @property
    def is_connected(self) -> bool:
        """Whether records are being listened for. False until the first `poll` has connected."""

    def poll(self, wait_s: float) -> list[StoredRecord]:
        """Records that came, waiting for the first up to `wait_s`; the first call connects and returns none.

        Raises:
            RetryLaterError: no broker or no such topic; the next call connects again.
            MisconfiguredError: the broker refuses this client.
        """

    def close(self) -> None:
        """Give the connection back; never hangs."""

"""The queue of records between `append` and their commit: in order, in batches, bounded in bytes.

One thread puts in, any thread commits. A record counts as pending until its commit is over, so that the bound
holds for all of the memory that waits for the disk. Refuses to know what a record is.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from edge_agent.spool.steps import Step
from schemas.reasons import ValueClass
from schemas.wire import WireRecord


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """One signed record that is not accepted yet."""

    seq: int
    value_class: ValueClass
    wire: WireRecord
    size_bytes: int
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one commit takes: records in order, and the step that was made after them, if any."""

    records: list[PendingRecord]
    last_step: Step | None

    def steps(self) -> list[Step]:
        """Return the steps of the records and the last one, in order."""
        made = [one.step for one in self.records if one.step is not None]
        return made if self.last_step is None else [*made, self.last_step]


class CommitQueue:
    """The queue between append and commit, bounded to `bound_bytes`. Safe to share between threads."""

    def __init__(self, bound_bytes: int) -> None:
        self._bound_bytes = bound_bytes
        self._changed = threading.Condition(threading.Lock())
        self._buffer: list[PendingRecord] = []
        self._batches: deque[Batch] = deque()
        self._is_turn_due = False
        self._is_closed = False
        self.pending_bytes = 0
        """Bytes of all records that were put in and whose commit is not over."""

    def put(self, record: PendingRecord) -> bool:
        """Add one record; return whether the bound is reached."""
        with self._changed:
            self._buffer.append(record)
            self.pending_bytes += record.size_bytes
            return self.pending_bytes >= self._bound_bytes

    def cut(self, last_step: Step | None = None) -> None:
        """Close the current batch; the committer is woken even when nothing waits."""
        with self._changed:
            if self._buffer or last_step is not None:
                self._batches.append(Batch(self._buffer, last_step))
                self._buffer = []
            self._is_turn_due = True
            self._changed.notify_all()

    def take(self) -> Batch | None:
        """Remove and return the oldest batch, which the caller commits and then reports as `done`; None without one."""
        with self._changed:
            self._is_turn_due = False
            return self._batches.popleft() if self._batches else None

    def done(self, batch: Batch) -> None:
        """Report that the commit of `batch` is over, accepted or not."""
        with self._changed:
            self.pending_bytes -= sum(record.size_bytes for record in batch.records)
            self._changed.notify_all()

    def wait_for_turn(self) -> bool:
        """Wait until there is a batch, or until `cut` or `close`; return False once closed and empty."""
        with self._changed:
            while not (self._is_turn_due or self._batches or self._is_closed):
                self._changed.wait()
            return bool(self._is_turn_due or self._batches)

    def wait_for_room(self, seconds: float) -> bool:
        """Wait up to `seconds` until the pending bytes are below the bound; return whether they are."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self.pending_bytes < self._bound_bytes or self._is_closed, seconds
            )

    def close(self) -> None:
        """Close the queue and wake every thread that waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Records that are in no batch yet."""
        return len(self._buffer)

    @property
    def has_batches(self) -> bool:
        """Whether a batch waits for its commit."""
        return bool(self._batches)

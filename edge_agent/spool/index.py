"""Index the records of one segment, in 24 bytes per record, by reading frame heads only.

Built when delivery comes to the segment and grown as commits extend it. Refuses to look beyond what the
ledger counts, and to hide what it does not find: `missing` names every counted number that no frame holds.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from pathlib import Path

from edge_agent.spool.ledger import LiveSegment
from edge_agent.spool.ranges import RangeSet
from edge_agent.spool.segment import RecordEntry, read_record, scan_segment
from foundation.errors import CorruptError
from schemas.identity import Identity
from schemas.reasons import ValueClass
from schemas.wire import WireRecord


@dataclass(frozen=True, slots=True)
class SpooledRecord:
    """One leased record: exactly the bytes that were spooled."""

    identity: Identity
    value_class: ValueClass
    wire: WireRecord


@dataclass(frozen=True, slots=True)
class Leased:
    """Where a leased record lies: segment, position, bytes of its value."""

    segment: int
    at: int
    value_bytes: int


class SegmentIndex:
    """The records of one live segment, in the order in which they were written."""

    def __init__(self, path: Path, segment: LiveSegment) -> None:
        self._path = path
        self.segment = segment
        self.cursor = 0
        """The position of the first record that was not leased yet."""
        self._seqs = array("Q")
        self._offsets = array("Q")
        self._ends = array("Q")
        self._indexed = RangeSet()
        self.scanned_bytes = 0

    def __len__(self) -> int:
        return len(self._seqs)

    def extend(self) -> RangeSet:
        """Index what the ledger counts by now; return the missing numbers. Raises CorruptError."""
        end_bytes = self.segment.end_bytes
        if self.scanned_bytes >= end_bytes:
            return RangeSet()
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CorruptError(f"cannot be opened: {error.strerror}", path=self._path) from error
        try:
            for item in scan_segment(fd, self.scanned_bytes, end_bytes):
                if isinstance(item, RecordEntry) and self._is_ours(item):
                    self._indexed.add(item.seq)
                    self._seqs.append(item.seq)
                    self._offsets.append(item.offset)
                    self._ends.append(item.end)
        finally:
            os.close(fd)
        self.scanned_bytes = end_bytes
        return self.segment.seqs.difference(self._indexed)

    def _is_ours(self, entry: RecordEntry) -> bool:
        return (
            entry.epoch == self.segment.epoch
            and entry.value_class == self.segment.value_class
            and entry.seq in self.segment.seqs
            and entry.seq not in self._indexed
        )

    def seq(self, at: int) -> int:
        """Return the number of the record at position `at`."""
        return self._seqs[at]

    def size_bytes(self, at: int) -> int:
        """Return the size of the frame of the record at position `at`, in bytes."""
        return self._ends[at] - self._offsets[at]

    def read(self, at: int, fd: int) -> WireRecord | None:
        """Return the record at position `at`, checked; None when it is damaged."""
        found = read_record(fd, self._offsets[at], self._ends[at])
        if found is None or found[0].seq != self._seqs[at] or found[0].epoch != self.segment.epoch:
            return None
        return found[1]

    def open(self) -> int:
        """Open a descriptor for `read`; the caller closes it. Raises OSError."""
        return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

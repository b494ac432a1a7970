"""Print one line per record, after its fsync and never before: RECEIPT <epoch> <seq> <sha256 of the value>."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from foundation.events import EventLog
from schemas import wire


@dataclass(frozen=True, slots=True)
class Receipt:
    """One commit: `count` records with numbers in [first_seq, last_seq] are durable. `bytes` are their values'."""

    epoch: str
    first_seq: int
    last_seq: int
    count: int
    bytes: int

    def and_then(self, later: Receipt | None) -> Receipt:
        """Return the receipt of this commit and a later one of the same epoch together."""
        if later is None:
            return self
        return Receipt(
            self.epoch, self.first_seq, later.last_seq, self.count + later.count, self.bytes + later.bytes
        )


class ReceiptPrinter:
    """Prints to a file or pipe ('-' is standard output). A reader that went away ends the receipts, not the agent."""

    def __init__(self, target: str, events: EventLog) -> None:
        self._target = target
        self._events = events
        self._fd = -1
        if target == "-":
            self._fd = os.dup(sys.stdout.fileno())
        elif target:
            try:
                self._fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
            except OSError as error:
                events.emit("receipts_lost", level="error", target=target, error=error.strerror)

    def print(self, epoch: str, records: Sequence[tuple[int, wire.WireRecord]]) -> None:
        """Print the receipts of one commit in one write."""
        if self._fd < 0 or not records:
            return
        lines = [
            b"RECEIPT %s %d %s\n" % (epoch.encode(), seq, dict(record.headers)[wire.FL_SHA256])
            for seq, record in records
        ]
        data = b"".join(lines)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self._events.emit("receipts_lost", level="error", target=self._target, error=error.strerror)
            self.close()

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

"""How many frames were seen and not taken, by reason: counted at once, in the ledger with the next commit.

Cumulative over restarts. Counted by the frame loop's thread and journalled by whichever commits, so every look is under
one lock. Refuses to count what the disk refused: of those the ledger knows the numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from edge_agent.spool.ledger import LedgerKind, LedgerState
from edge_agent.spool.statelog import StateLog
from foundation.clock import Clock
from schemas.reasons import NotAcceptedReason


class RefusedCounts:
    """The counts of one spool, as `account` has them at first; `log` is where they are written."""

    def __init__(self, account: LedgerState, log: StateLog, clock: Clock, interval_s: float) -> None:
        self._log = log
        self._clock = clock
        self._interval_ns = interval_s * 1e9
        self._lock = threading.Lock()
        self._counts = dict(account.not_accepted)
        self._bytes = account.not_accepted_bytes
        self.has_changed = False
        """Since they were last taken to be written."""
        self._written_ns = clock.monotonic_ns()

    def add(self, reason: NotAcceptedReason, count: int, size_bytes: int) -> None:
        """Count `count` frames of `size_bytes` together."""
        with self._lock:
            self._counts[str(reason)] = self._counts.get(str(reason), 0) + count
            self._bytes += size_bytes
            self.has_changed = True

    def now(self) -> tuple[dict[str, int], int]:
        """Frames by reason, and their bytes."""
        with self._lock:
            return dict(self._counts), self._bytes

    def set(self, counts: Mapping[str, int], size_bytes: int) -> None:
        """Count from there; a drive without a frame is no frame and stays counted."""
        empty = str(NotAcceptedReason.EMPTY_DRIVE)
        with self._lock:
            kept = {empty: self._counts[empty]} if empty in self._counts else {}
            self._counts = {**counts, **kept}
            self._bytes = size_bytes
            self.has_changed = True

    def take(self) -> dict[str, object]:
        """The counts as the object of a frame that is written now."""
        with self._lock:
            self.has_changed = False
            return {"not_accepted": dict(self._counts), "bytes": self._bytes}

    @property
    def is_due(self) -> bool:
        """Whether they were not written by `journal` for the interval."""
        return self._clock.monotonic_ns() - self._written_ns >= self._interval_ns

    def journal(self, *, is_forced: bool) -> None:
        """Write them in a frame of their own, when they changed and it is time (or `is_forced`)."""
        if self.has_changed and (is_forced or self.is_due):
            now_ns = self._clock.monotonic_ns()
            self._log.record(LedgerKind.COUNTS, self.take())
            self._written_ns = now_ns

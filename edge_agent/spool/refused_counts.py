"""Count the frames that were not accepted, by reason: at once in memory, in the ledger with the next step.

Cumulative over restarts. Used by the frame loop's thread only; what is written is a copy. Does not count records that
the disk refused: the ledger has their numbers.
"""

from __future__ import annotations

from edge_agent.spool.ledger import LedgerState, refused_to_json
from schemas.reasons import NotAcceptedReason


class RefusedCounts:
    """The counts of one spool, initially those of `account`."""

    def __init__(self, account: LedgerState) -> None:
        self._counts = dict(account.not_accepted)
        self._bytes = account.not_accepted_bytes
        self.has_changed = False
        """Whether the counts changed since the last step."""

    def add(self, reason: NotAcceptedReason, count: int, size_bytes: int) -> None:
        """Count `count` frames of `size_bytes` together."""
        self._counts[str(reason)] = self._counts.get(str(reason), 0) + count
        self._bytes += size_bytes
        self.has_changed = True

    def take(self) -> dict[str, object] | None:
        """Return the counts as the object of a ledger frame; None when they are those of the previous step."""
        if not self.has_changed:
            return None
        self.has_changed = False
        return refused_to_json(self._counts, self._bytes)

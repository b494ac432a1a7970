"""The bounds of the spool, each with its unit. Nothing here is read from disk: see `foundation.settings`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from foundation.settings import setting
from schemas.topics import MAX_RECORD_BYTES

RECEIPT_ENVIRONMENT: Final = "FLEETLOOP_RECEIPT_PATH"

_KB: Final = 1_000
_MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """The bounds of one vehicle's spool.

    A commit happens after `commit_count` records or `commit_interval_s`, whichever is first. `quota_bytes`
    bounds the segments together and is overshot by one segment at most; `segment_bytes` bounds one segment,
    which is passed by the last commit into it at most. `max_record_bytes` bounds the value of one record.
    `reserve_bytes` are set aside twice, so that the journals can be written on a full disk.
    """

    quota_bytes: int = setting(
        default=500 * _MB, min=100 * _KB, max=10**13, help="bytes of all segments together"
    )
    segment_bytes: int = setting(default=8 * _MB, min=10 * _KB, max=1_000 * _MB, help="bytes of one segment")
    commit_count: int = setting(default=20, min=1, max=10_000, help="records per commit")
    commit_interval_s: float = setting(
        default=0.2, min=0.001, max=60.0, help="longest wait of a record for its commit"
    )
    max_record_bytes: int = setting(
        default=MAX_RECORD_BYTES, min=1 * _KB, max=100 * _MB, help="bytes of one value"
    )
    buffer_bytes: int = setting(
        default=16 * _MB,
        min=1 * _KB,
        max=1_000 * _MB,
        help="bytes that wait for a commit; beyond it append commits itself",
    )
    reserve_bytes: int = setting(default=256 * _KB, min=0, max=100 * _MB, help="set aside for each journal")
    disk_error_hold_s: float = setting(
        default=1.0, min=0.0, max=60.0, help="after a disk error nothing is accepted for so long"
    )
    counts_sync_s: float = setting(
        default=5.0, min=0.1, max=3600.0, help="how often counts of refused frames are made durable"
    )
    receipt_path: str = setting(
        default="", help="where a receipt a record is printed after its fsync; '-' is stdout"
    )

    @property
    def receipt_target(self) -> str:
        """`receipt_path`, or the environment's FLEETLOOP_RECEIPT_PATH; empty for no receipts."""
        return self.receipt_path or os.environ.get(RECEIPT_ENVIRONMENT, "")

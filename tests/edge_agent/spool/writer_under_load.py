"""Writes a spool as fast as it can until it is killed: python -m ... FOLDER RECEIPTS QUOTA_BYTES."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from edge_agent.key_file import load_key
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.writer import SpoolWriter
from foundation.clock import SystemClock
from foundation.errors import RejectedError
from foundation.events import EventLog
from schemas.reasons import NotAcceptedReason, ValueClass
from tests.edge_agent.spool.spool_rig import VEHICLE, sample


def main() -> None:
    folder, receipts, quota_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    settings = SpoolSettings(
        quota_bytes=quota_bytes,
        segment_bytes=200_000,
        commit_count=7,
        commit_interval_s=0.05,
        receipt_path=receipts,
        reserve_bytes=10_000,
    )
    clock = SystemClock()
    key = load_key(folder.parent / "key.pem")
    writer = SpoolWriter.open(folder, settings, VEHICLE, key, clock, EventLog(None, clock))
    rng = random.Random()
    ready = folder.parent / "ready"
    ready.write_text(writer.epoch)
    while True:
        try:
            writer.append(
                sample(rng.choice([50, 4_000, 20_000]), rng.choice(list(ValueClass)), rng.randrange(10**9))
            )
        except RejectedError as error:
            writer.not_accepted(NotAcceptedReason(error.reason))
        if writer.is_commit_due:
            writer.commit()


if __name__ == "__main__":
    main()

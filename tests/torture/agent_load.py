"""A vehicle with a backlog, a recording that is played round and round, and an uplink whose answers come late."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from tests.checker.frames_played import Recording
from tests.e2e.field import Vehicle, picture

PICTURES, BROKEN = 270, 30
"""One lap of the recording: frames that are pictures, and frames that are none."""
RECORD_BYTES = 50_000
COMMIT_COUNT = 20
QUOTA_BYTES = 4_000_000_000


class LoadedVehicle(Vehicle):
    """Frames on the disk, some of them no pictures; `lay_in` fills the spool before the first start."""

    def _offer(self, frames: int) -> None:
        drive = self.root / "recording" / "drive-1"
        drive.mkdir(parents=True)
        every = frames // BROKEN
        digests = []
        for number in range(frames):
            is_broken = number % every == every - 1
            data = b"no picture %d" % number if is_broken else picture(number)
            (drive / f"{number:05d}.png").write_bytes(data)
            if not is_broken:
                digests.append(hashlib.sha256(data).hexdigest())
        self.recording = Recording(frozenset(digests), BROKEN)
        self._note_offers(digests)

    def _note_offers(self, digests: list[str]) -> None:
        with self.offered_path.open("a") as offered:
            offered.writelines(json.dumps({"payload_sha256": digest}) + "\n" for digest in digests)

    def lay_in(self, size_bytes: int, seed: int) -> int:
        """Accept records of 50 kB until the spool has `size_bytes`, by the product's own writer; how many."""
        from edge_agent.spool.settings import SpoolSettings
        from edge_agent.spool.writer import SpoolWriter
        from foundation.clock import SystemClock
        from foundation.events import EventLog

        self.state.make()
        settings = SpoolSettings(
            quota_bytes=QUOTA_BYTES, commit_count=COMMIT_COUNT, receipt_path=str(self.receipts_path)
        )
        digests: list[str] = []
        with SpoolWriter.open(
            self.state.spool, settings, self.vehicle_id, self.key, SystemClock(), EventLog(None)
        ) as writer:
            for number in range(size_bytes // RECORD_BYTES):
                payload = random.Random(f"{seed}/{number}").randbytes(RECORD_BYTES)
                digests.append(hashlib.sha256(payload).hexdigest())
                writer.append(_sample(number, payload, digests[-1]))
                if writer.is_commit_due:
                    writer.commit()
        self._note_offers(digests)
        return len(digests)

    def spool_bytes(self) -> int:
        """Bytes of the segment files now."""
        return sum(_size(path) for path in (self.state.spool / "segments").iterdir())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # delivered and taken away meanwhile
        return 0


def _sample(number: int, payload: bytes, digest: str):  # type: ignore[no-untyped-def]
    from tests.samples import sample_of

    return sample_of(
        payload,
        vehicle_id="",
        drive_id="backlog",
        capture_time_ns=1_790_000_000_000_000_000 + number,
        frame_id=f"backlog-{number}",
        payload_sha256=digest,
    )

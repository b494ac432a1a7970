"""Cycles of a full disk, on a real file system of 4 MB in memory that only this process sees.

Run as `unshare --mount python -m tests.torture.disk_full SEED FIRST TRIES SECONDS FOLDER`; prints one JSON document.
Cycle n leaves n pages (4 kB) free, so that the disk is full at one write after the other.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.checker.spool_books import Excuses, judge_books, judge_frames
from tests.torture.disk_spool import DiskSpool, told_by_rows
from tests.torture.fault import Tally

SIZE = "4m"
PAGE_BYTES = 4_096
PAGES = 100
COMMITS = 40
NOTHING_IS_EXCUSED = Excuses(in_doubt=False)


class FullDisk:
    """The small disk with one spool on it, over many cycles."""

    def __init__(self, place: Path, receipts: Path, seed: str) -> None:
        self.place = place
        self.rows: list[tuple[object, ...]] = []
        self.rng = random.Random(seed)
        self.spool = DiskSpool(place / "spool", receipts, lambda *row: self.rows.append(row), self.rng)

    def cycle(self, number: int, tally: Tally) -> None:
        """Fill, be refused, deliver from a full disk, get room again, deliver all, accept again."""
        spool = self.spool
        free = self._leave(number % PAGES)
        refused, failed, said = spool.refused, 0, ""
        for step in range(COMMITS):
            spool.offer(self.rng.randint(1, 4))
            failed += spool.commit() is None
            said = spool.writer.last_error or said
            if step % 3 == 2:
                spool.deliver(30_000, keep=0.8)
            spool.clock.advance(0.4)
            if failed + (spool.refused - refused) > 12:
                break
        if number % 5 == 4:
            spool.restart()
        (self.place / "ballast").unlink()
        spool.clock.advance(2.0)
        before = told_by_rows(self.rows)
        after = spool.deliver(1_000_000, leases=50)
        spool.offer(3)
        last = spool.commit()
        spool.tell_receipts()
        after += spool.deliver(1_000_000, leases=50)
        told = told_by_rows(self.rows)
        told.received, told.durable = before.received, before.durable
        spool.clock.advance(6.0)
        spool.writer.commit()
        ledger = spool.reader.ledger().to_json()
        broken = judge_books(told, after, ledger, NOTHING_IS_EXCUSED)
        broken += judge_frames(
            spool.offered, len(told.receipts), ledger, spool.events_told(), said or "earlier"
        )
        if last is None or last.count != 3:
            broken.append(f"not_alive: with room again, {last} of 3 frames were accepted")
        tally.judge(broken, f"cycle {number}: {free} pages left")
        tally.count("commits_refused_by_the_disk", failed)
        tally.count("frames_refused_at_once", spool.refused - refused)
        tally.count("cycles_in_which_the_disk_was_full", failed > 0)
        tally.count("records_delivered", len(after))

    def _leave(self, pages: int) -> int:
        """Take everything but so many pages."""
        at = os.statvfs(self.place)
        take = at.f_bavail * at.f_frsize - pages * PAGE_BYTES
        with (self.place / "ballast").open("wb") as file:
            for _ in range(max(0, take) // PAGE_BYTES):
                file.write(bytes(PAGE_BYTES))
        at = os.statvfs(self.place)
        return at.f_bavail * at.f_frsize // PAGE_BYTES


def main(arguments: list[str]) -> int:
    """See the module."""
    seed, first, tries, seconds, folder = arguments
    place = Path(folder) / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], check=True)
    until = time.monotonic() + float(seconds)
    tally = Tally()
    disk = FullDisk(place, Path(folder) / "receipts", f"{seed}/full/{first}")
    for number in range(int(first), int(first) + int(tries)):
        if time.monotonic() > until and tally.tries:
            break
        disk.cycle(number, tally)
    disk.spool.close()
    print(json.dumps(dataclasses.asdict(tally)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

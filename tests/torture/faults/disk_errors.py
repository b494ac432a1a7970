"""A full disk and failing calls: nothing is accepted that is not on the disk, and the agent goes on and says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally
from tests.torture.faults.power_loss import memory_folder, needs_strace

ROOT = Path(__file__).resolve().parents[3]


@cache
def needs_mount() -> str | None:
    """Why no small file system can be mounted here, or None."""
    if shutil.which("unshare") is None:
        return "needs unshare"
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, check=False)
    return None if done.returncode == 0 else "needs the right to mount (root)"


def full_disk(batch: Batch) -> Tally:
    """Each try is a cycle of one spool on one small disk; see `tests.torture.disk_full`."""
    import time

    left_s = min(500.0, max(5.0, batch.until_s - time.monotonic()))
    words = [str(batch.seed), str(batch.first), str(batch.tries), str(left_s), str(batch.folder)]
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-B", "-m", "tests.torture.disk_full", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        tally = Tally()
        tally.fail(f"cycles from {batch.first}: status {done.returncode}: {done.stderr[-1_000:]}")
        return tally
    return Tally(**json.loads(done.stdout))


def failing_calls(batch: Batch) -> Tally:
    """Try n fails the (n // 4 + 1)-th fsync, write, fsync with all that should clean up after it, or rename in turn."""

    from tests.torture.disk_injected import KINDS, MOST, inject

    tally = Tally()
    kinds = list(KINDS)
    with tempfile.TemporaryDirectory(dir=memory_folder(), prefix="torture-errors-") as name:
        for number in batch.in_time():
            kind, when = kinds[number % len(kinds)], number // len(kinds) % MOST + 1
            work = Path(name) / str(number)
            work.mkdir()
            attempt = inject(work, kind, when, batch.rng(number))
            broken = attempt.broken or ([] if attempt.hit else ["no_failure: the child made too few calls"])
            tally.judge(broken, f"try {number}: {kind} number {when}")
            tally.count(f"failed_calls_of_{kind.replace(', ', '_').replace(' ', '_')}", attempt.hit)
            tally.count("tries_in_which_frames_were_refused", attempt.refused > 0)
            tally.count("receipts_checked", attempt.receipts)
            tally.count("states_opened_after", attempt.states)
            shutil.rmtree(work)
    return tally


FAULTS = (
    Fault(
        name="disk-full",
        group=5,
        guarantees=("G1", "G2"),
        what=(
            "The disk is full at one write after the other: what does not reach it has no receipt and is counted as"
            " disk_error, what is accepted is delivered from the full disk, and with room again frames are accepted."
        ),
        one_try="one cycle of full and free again",
        full=100,
        turn=20,
        full_turn=50,
        run=full_disk,
        needs=needs_mount,
        real=(
            "a real file system of 4 MB (tmpfs) that is really full; the real spool of one vehicle with its default"
            " settings, both sides in one process; time is moved by hand"
        ),
        broken=(
            BrokenBuild(
                "frames of a commit that the disk refused are not counted",
                "edge_agent/spool/ledger.py",
                "        self.never_written += len(gaps.difference(row.gaps))\n",
                "",
            ),
            BrokenBuild(
                "a write that the disk took only in part is called whole",
                "edge_agent/spool/segment_file.py",
                "        syscalls.write_all(self._fd, data)\n",
                "        syscalls.write(self._fd, data)\n",
            ),
        ),
    ),
    Fault(
        name="io-errors",
        group=5,
        guarantees=("G1", "G2"),
        what=(
            "The n-th fsync, write or rename of the spool fails (n up to 200; also an fsync with every truncate and"
            " unlink), and power is lost afterwards: what"
            " the failed call should have covered was not accepted and is not taken for synced later, the agent goes"
            " on, counts what it refused and says why."
        ),
        one_try="one failed call of a real process, the spool opened as it is and in states after a power loss",
        full=800,
        turn=8,
        full_turn=60,
        run=failing_calls,
        needs=needs_strace,
        real=(
            "a real process with the real spool; the failure is injected by strace into the system call; the power"
            " loss is simulated from the calls that strace recorded, a failed fsync taken as losing its pages"
        ),
        broken=(
            BrokenBuild(
                "a refused record that was not cut off is accepted at the next start",
                "edge_agent/spool/recovery.py",
                "    if entry.epoch in refused and entry.seq in refused[entry.epoch]:\n        return\n",
                "",
                tries=60,
            ),
            BrokenBuild(
                "a failed fsync of a segment is tried again",
                "edge_agent/spool/segment_file.py",
                "        syscalls.fsync(self._fd)\n",
                "        try:\n            syscalls.fsync(self._fd)\n        except OSError:\n"
                "            syscalls.fsync(self._fd)\n",
                tries=45,
            ),
            BrokenBuild(
                "a failed fsync of a journal is tried again",
                "edge_agent/spool/statelog.py",
                "            syscalls.fsync(self._fd)\n",
                "            try:\n                syscalls.fsync(self._fd)\n            except OSError:\n"
                "                syscalls.fsync(self._fd)\n",
                tries=60,
            ),
        ),
    ),
)

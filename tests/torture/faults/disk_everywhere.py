"""A disk that is full at any moment of the agent and of the cloud's commands: all goes on, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.conditions import embedded_broker_is_missing
from tests.torture.fault import Batch, BrokenBuild, Fault, Tally
from tests.torture.faults.disk_errors import needs_mount

ROOT = Path(__file__).resolve().parents[3]


def full_everywhere(batch: Batch) -> Tally:
    """See `tests.torture.disk_everywhere`."""
    left_s = min(800.0, max(5.0, batch.until_s - time.monotonic()))
    words = [str(batch.seed), str(batch.first), str(batch.tries), str(left_s), str(batch.folder)]
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-B", "-m", "tests.torture.disk_everywhere", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not done.stdout:
        tally = Tally()
        tally.fail(f"tries from {batch.first}: status {done.returncode}: {done.stderr[-1_000:]}")
        return tally
    return Tally(**json.loads(done.stdout.splitlines()[-1]))


FAULTS = (
    Fault(
        name="disk-full-everywhere",
        group=5,
        guarantees=("G1", "G2", "G3", "G4", "G6", "G9"),
        what=(
            "The disk is full (of bytes or of names, ENOSPC or EDQUOT) from one call on, or one call fails (EIO, ENOSPC),"
            " at each call in turn of a day of the agent: start, frames kept, segments, acknowledgements, a model fetched,"
            " tried and swapped in, telemetry, status; and ingest, curate, label, release, rollout start and halt run with"
            " each number of pages left in turn. No release is refused for it, no process ends but once by one failed call,"
            " all that was accepted is delivered from the full disk; a command says that it was the disk and leaves the old"
            " state or the new one; with room again all completes."
        ),
        one_try="one call that fails, or one number of pages left, and all that follows",
        full=3_800,
        turn=12,
        full_turn=200,
        turn_limit_s=1_200.0,
        run=full_everywhere,
        needs=lambda: needs_mount() or embedded_broker_is_missing(),
        real=(
            "the cloud's commands on a real file system of 64 MB (tmpfs) that is really full, native code included, the"
            " broker the embedded one; of the agent the real supervisor, perceive and deliver, one after the other in one"
            " process, its disk a gate over every call that changes a file; broker, inference and the trial's process are"
            " fakes there"
        ),
        broken=(
            BrokenBuild(
                "a lock is none unless there is room for the pid of its holder",
                "foundation/files.py",
                "        with suppress(OSError):\n            os.ftruncate(fd, 0)",
                "        if True:\n            os.ftruncate(fd, 0)",
                tries=1,
                first=138,
            ),
            BrokenBuild(
                "a prediction log without room keeps perceive from starting",
                "edge_agent/prediction_log.py",
                "            if is_disk_trouble(error):\n                return\n",
                "",
                tries=1,
                first=4,
            ),
            BrokenBuild(
                "a write that the disk refused is called done",
                "foundation/files.py",
                "            syscalls.unlink(temporary)\n        raise\n",
                "            syscalls.unlink(temporary)\n        return\n",
                tries=1,
                first=7,
            ),
        ),
    ),
)

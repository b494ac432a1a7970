"""Each call of each command of the cloud that changes a file fails in turn, also those of native code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.native_disk import NativeDisk, compiler_is_missing
from tests.torture.fault import Batch, BrokenBuild, Fault, Tally
from tests.torture.faults.power_loss import memory_folder

ROOT = Path(__file__).resolve().parents[3]


def each_call(batch: Batch) -> Tally:
    """See `tests.torture.disk_calls`."""
    left_s = min(800.0, max(5.0, batch.until_s - time.monotonic()))
    with TemporaryDirectory(dir=memory_folder()) as folder:
        (Path(folder) / "disk").mkdir()
        environment = NativeDisk(Path(folder) / "disk", Path(folder)).build()
        words = ["--tries", str(batch.first), str(batch.tries), str(left_s)]
        done = subprocess.run(
            [sys.executable, "-B", "-m", "tests.torture.disk_calls", folder, *words],
            cwd=ROOT,
            env={**os.environ, **environment},
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
        name="disk-full-each-call",
        group=5,
        guarantees=("G3", "G4", "G6"),
        what=(
            "The disk is full (ENOSPC or EDQUOT) from one call on, or one call alone fails (EIO), at each call in turn that"
            " ingest, replay of dead letters, compaction, curate, label, dataset commit, release, and start, advance and"
            " halt of a rollout make below their folder. The command says that it was the disk, with the file or the folder,"
            " and leaves the old state or the new one; with room again the same process completes."
        ),
        one_try="one call of one command that fails, and all that follows (of curate, every place and 500 of its 1,900 calls)",
        full=5_000,
        turn=10,
        full_turn=200,
        turn_limit_s=1_200.0,
        run=each_call,
        needs=compiler_is_missing,
        real=(
            "the commands, Delta, Arrow, Polars, git and DVC, on files in memory; a library that is loaded before libc counts"
            " and fails their calls, so that the disk is never really full; ingest reads from a fake broker"
        ),
        broken=(
            BrokenBuild(
                "an error of a native library on a full disk passes as it is",
                "foundation/full_disk.py",
                "        if told := _told(error, folder):\n",
                "        if told := '':\n",
                tries=1,
                first=203,  # of curate: a file that polars writes
            ),
        ),
    ),
)

"""Runs one turn of a fault in a process of its own, with a limit, so that no fault can take the campaign down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from tests.torture.fault import Batch, Fault, Tally, find_faults

ROOT = Path(__file__).resolve().parents[2]
MAX_OUTPUT_CHARACTERS = 2_000


def take_turn(
    fault: Fault, *, seed: int, first: int, tries: int, tree: Path = ROOT, seconds: float | None = None
) -> Tally:
    """One turn in a child process of `tree`; a child that fails, hangs or says nothing counts as not survived."""
    limit_s = fault.turn_limit_s if seconds is None else min(fault.turn_limit_s, seconds)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        told = Path(folder) / "tally.json"
        command = [sys.executable, "-B", "-m", "tests.torture.turns", fault.name]
        command += [str(seed), str(first), str(tries), str(limit_s), folder]
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        with (Path(folder) / "output").open("wb") as output:
            child = subprocess.Popen(
                command, cwd=tree, env=environment, stdout=output, stderr=output, start_new_session=True
            )
            try:
                child.wait(limit_s * 1.25 + 30.0)
                why = f"the turn ended with status {child.returncode} and no tally"
            except subprocess.TimeoutExpired:
                why = f"the turn was not over after {limit_s:.0f} s"
            except BaseException:
                _end_group(child)
                raise
            _end_group(child)
        if told.exists():
            return Tally(**json.loads(told.read_text()))
        said = (Path(folder) / "output").read_text(errors="replace")[-MAX_OUTPUT_CHARACTERS:]
        tally = Tally()
        for number in range(first, first + tries):
            tally.fail(f"try {number}: {why}: {said}")
        return tally


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Nothing that the turn started outlives it."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def main(arguments: list[str]) -> int:
    """The child: FAULT SEED FIRST TRIES SECONDS FOLDER."""
    name, seed, first, tries, seconds, folder = arguments
    fault = find_faults()[name]
    work = Path(folder) / "work"
    work.mkdir()
    batch = Batch(int(seed), int(first), int(tries), work, time.monotonic() + float(seconds))
    try:
        tally = fault.run(batch)
        if not tally.tries:
            tally.fail("the turn made no try")
    except Exception:
        tally = Tally()
        for _ in batch.numbers():
            tally.fail(traceback.format_exc()[-MAX_OUTPUT_CHARACTERS:])
    told = Path(folder) / "tally.partial"
    told.write_text(json.dumps(asdict(tally)))
    told.rename(Path(folder) / "tally.json")
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

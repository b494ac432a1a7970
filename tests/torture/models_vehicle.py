"""The two processes of a vehicle that concern models, as real processes that may be killed at a labelled step.

    python -m tests.torture.models_vehicle serve STATE ANSWERS KILL_AT [after-crash]
    python -m tests.torture.models_vehicle fetch STATE BASE_URL KILL_AT

`serve` answers pictures for ever (two of three are dark) and writes a line for each; after a restart it goes on with the
frame that has no line. `fetch` steps the fetcher for ever. KILL_AT is a label of a swap, or `operation N` for the N-th
file operation of the process, and ends it by SIGKILL; `never` kills nothing. Real: all of it but the frame source.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.turns import ROOT

FRAME_S = 0.01
LIGHT = (90, 0, 0)
RARE_LIGHT, RARE_EVERY = 250, 97
"""So seldom that a model may have served its probation before it sees one."""
CRASHES = (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killer(kill_at: str) -> Callable[[str], None]:
    """What to do at a labelled step; arms the file operations when it is one of them that kills."""
    word, _, number = kill_at.partition(" ")
    if word != "operation":
        return lambda step: _die() if step == kill_at else None
    from foundation import syscalls

    left = [int(number)]
    for name in ("rename", "fsync", "unlink", "write_all"):
        real = getattr(syscalls, name)

        def call(*arguments: object, _real: Callable[..., object] = real) -> object:
            if left[0] == 0:
                _die()
            left[0] -= 1
            return _real(*arguments)

        setattr(syscalls, name, call)
    return lambda _step: None


def light_of(frame: int) -> int:
    """The grey level of a frame."""
    return RARE_LIGHT if frame % RARE_EVERY == RARE_EVERY - 1 else LIGHT[frame % len(LIGHT)]


def serve(state: Path, answers: Path, kill_at: str, has_crashed: bool) -> None:
    """Perceive's part: a model answers each picture."""
    import numpy as np

    from edge_agent.models.role_model import RoleModel
    from edge_agent.models.settings import HealthSettings, ServingSettings
    from foundation.clock import SystemClock
    from foundation.errors import RejectedError
    from foundation.events import EventLog
    from modelkit.runtimes import open_runtime
    from tests.checker.model_books import read_answers

    clock = SystemClock()
    health = HealthSettings(window_frames=10, min_frames=5, max_error_ratio=0.25, max_latency_p50_s=0.1)
    settings = ServingSettings(
        poll_interval_s=0.05, refused_wait_s=0.2, probation_frames=40, trial_frames=0, health=health
    )
    log = EventLog(answers.with_suffix(".events"), clock, "perceive")
    done = read_answers(answers)
    frame = done[-1].frame + 1 if done else 0
    serving = RoleModel(
        "serving", state, open_runtime(), settings, clock, log, _killer(kill_at), has_crashed=has_crashed
    )
    pictures = {light: np.full((32, 32, 3), light, dtype=np.uint8) for light in (*LIGHT, RARE_LIGHT)}
    with answers.open("ab", buffering=0) as lines:
        if lines.tell() and not answers.read_bytes().endswith(b"\n"):
            lines.truncate(answers.read_bytes().rfind(b"\n") + 1)
        while True:
            serving.poll()
            row: dict[str, object] = {"frame": frame, "model": "", "finite": False}
            try:
                served = serving.predict([pictures[light_of(frame)]])
                (prediction,) = served.predictions
                row |= {"model": served.model_digest, "finite": bool(prediction.is_finite)}
            except RejectedError as error:
                row["error"] = str(error)[:200]
            row["time_s"] = time.monotonic()
            lines.write(json.dumps(row).encode() + b"\n")
            frame += 1
            time.sleep(FRAME_S)


def fetch(state: Path, base_url: str, kill_at: str) -> None:
    """Deliver's part: the fetcher, with the real trial."""
    from edge_agent.models.fetch import ModelFetcher
    from foundation.clock import SystemClock
    from foundation.events import EventLog

    _killer(kill_at)
    clock = SystemClock()
    log = EventLog(state.parent / "deliver.events", clock, "deliver")
    fetcher = ModelFetcher(fetch_settings(base_url), state, clock, log)
    while True:
        time.sleep(min(fetcher.step().wait_s, 0.05))


def fetch_settings(base_url: str) -> object:
    """Short waits and a short trial: what is tried is not how long it waits."""
    from edge_agent.models.settings import DownloadSettings, FetchSettings, TrialLimits

    return FetchSettings(
        base_url=base_url,
        poll_interval_s=0.02,
        backoff_first_s=0.01,
        backoff_max_s=0.02,
        download=DownloadSettings(read_timeout_s=2.0),
        trial=TrialLimits(
            min_runs=3,
            wall_s=20,
            cpu_s=6,
            max_latency_p50_ns=100_000_000,
            max_growth_bytes=64 * 1024 * 1024,
        ),
    )


@dataclass(slots=True)
class Child:
    """One of the two as a child, started again whenever it died: a supervisor without patience."""

    role: str
    state: Path
    other: str
    """The file of answers, or the address of the repository."""
    kill_at: str = "never"
    deaths: int = 0
    ends: list[int] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    def keep_up(self) -> None:
        """Start it when it does not run; from the second start on nothing kills it."""
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            self.deaths += 1
            self.ends.append(status)
            self.kill_at = "never"
        command = [sys.executable, "-B", "-m", "tests.torture.models_vehicle", self.role, str(self.state)]
        command += [self.other, self.kill_at]
        if self.ends and -self.ends[-1] in CRASHES:
            command.append("after-crash")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.state.parent / f"{self.role}.err").open("ab") as errors:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=errors, stderr=errors)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stopped for the time of the block."""
        for signal_number in (signal.SIGSTOP, signal.SIGCONT):
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal_number)
            if signal_number == signal.SIGSTOP:
                yield

    def end(self) -> None:
        """Kill it for good."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


if __name__ == "__main__":
    role, folder, other, when, *crash = sys.argv[1:]
    if role == "serve":
        serve(Path(folder), Path(other), when, bool(crash))
    else:
        fetch(Path(folder), other, when)

"""Start a trial and poll for its end, so that deliver keeps delivering meanwhile. Every end is a result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import edge_agent
from edge_agent.models.settings import TrialLimits
from edge_agent.models.trial import TrialResult
from foundation.clock import Clock
from foundation.documents import decode
from foundation.errors import CorruptError
from schemas.bundle import MAX_BUNDLE_BYTES
from schemas.reasons import RefuseReason

_MAX_ANSWER_BYTES = 65_536
_GRACE_S = 5.0
_SLOWEST_BYTES_PER_S = 8 * 1024 * 1024
"""A disk and processor of a vehicle that read and hash more slowly are too slow for the model."""
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
_TIME_SIGNALS = (signal.SIGALRM, signal.SIGXCPU)


def with_time_to_read(limits: TrialLimits, model_bytes: int) -> TrialLimits:
    """Return the limits with time added for a model's size: the trial hashes all of it before the model runs.

    The size is bounded by that of a release (`schemas.bundle.MAX_BUNDLE_BYTES`), and so is the time.
    """
    more_s = min(model_bytes, MAX_BUNDLE_BYTES) // _SLOWEST_BYTES_PER_S
    return replace(limits, cpu_s=limits.cpu_s + more_s, wall_s=limits.wall_s + more_s)


def _bytes_of(slot_path: Path) -> int:
    paths = slot_path.rglob("*") if slot_path.is_dir() else [slot_path]
    return sum(path.lstat().st_size for path in paths if not path.is_dir())


class TrialRun:
    """One trial process. `poll` until it gives a result, or `cancel`."""

    def __init__(
        self,
        slot_path: Path,
        digest: str,
        frames: Path,
        limits: TrialLimits,
        clock: Clock,
        providers: tuple[str, ...] = (),
        cpu_fallback: str = "flag",
        htp_arch: int = 0,
    ) -> None:
        self.digest = digest
        self._clock = clock
        is_bundle = slot_path.is_dir()
        limits = self._limits = with_time_to_read(limits, _bytes_of(slot_path))
        specification = {
            "digest": digest,
            "bundle": str(slot_path.absolute()) if is_bundle else "",
            "frames": str(frames),
            "limits": asdict(limits),
            "providers": providers,
            "cpu_fallback": cpu_fallback,
            "htp_arch": htp_arch,
        }
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        environment |= {
            "PYTHONPATH": str(Path(edge_agent.__file__).resolve().parent.parent),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": str(limits.threads),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with Path(os.devnull if is_bundle else slot_path).open("rb") as model:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edge_agent.models.trial", json.dumps(specification)],
                stdin=model,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
                close_fds=True,
            )
        self._deadline_ns = clock.monotonic_ns() + round((limits.wall_s + _GRACE_S) * 1e9)

    def poll(self) -> TrialResult | None:
        """Return the result, or None while it runs. Past its time it is killed: that is a result too."""
        if self._process.poll() is None:
            if self._clock.monotonic_ns() < self._deadline_ns:
                return None
            self._kill()
            return TrialResult(False, RefuseReason.TOO_SLOW, f"no answer within {self._limits.wall_s} s")
        return self._result()

    def wait(self, timeout_s: float) -> TrialResult:
        """Block until the result is there (a command line has nothing else to do)."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._kill()
            return TrialResult(False, RefuseReason.TOO_SLOW, f"no answer within {timeout_s} s")
        return self._result()

    def cancel(self) -> None:
        """End the trial without a result."""
        if self._process.poll() is None:
            self._kill()
        elif self._process.stdout is not None:
            self._process.stdout.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _result(self) -> TrialResult:
        code = self._process.returncode
        data = b""
        if self._process.stdout is not None and not self._process.stdout.closed:
            with self._process.stdout as stream:
                data = stream.read(_MAX_ANSWER_BYTES)
        if code < 0 and -code in _TIME_SIGNALS:
            return TrialResult(False, RefuseReason.TOO_SLOW, f"ended by {signal.Signals(-code).name}")
        if code != 0:
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return TrialResult(False, RefuseReason.CRASHED, f"the trial process ended with {how}")
        try:
            return decode(TrialResult, data, "answer")
        except CorruptError as error:
            return TrialResult(False, RefuseReason.CRASHED, f"the trial gave no readable answer: {error}")

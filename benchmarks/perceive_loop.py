"""The whole frame loop beside pre-processing and `session.run` alone, while a real deliver process uploads.

    python -m benchmarks.perceive_loop [--rounds 7] [--seconds 3] [--keep 0.1] [--threads 1]

Both sides run in this process on the same encoded frames, one after the other, as fast as they can, with the same
threads of the runtime: the bare side decodes, pre-processes and runs the session; the product side is Perceive's own
ObservationLoop (selection with every rule scored, ring, progress journal, spool with its thread, model watch), made from
settings as the process makes it. A share of the frames is kept. Beside both, the deliver process of another vehicle
uploads 50 kB records to an embedded broker at a steady rate, fed by a third process. Never a timed test.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import bench_vehicle
from benchmarks.port import Measure, Step, paired_ratio
from connectors.sensors.ports import Observation
from edge_agent.heartbeat import Heartbeat
from edge_agent.perceive import Perceive
from edge_agent.process import ProcessContext, StopSignal
from edge_agent.state_folder import StateFolder
from foundation.clock import SystemClock
from foundation.events import EventLog
from modelkit.images import decode_image
from modelkit.prepare import preprocess
from modelkit.runtime import RuntimeOptions
from modelkit.runtimes import open_runtime
from modelkit.verify import verify_model

AIM_RATIO = 0.90
AIM_ADDED_P99_MS = 1.0


class Turn:
    """One side's frames, for ever in a circle, and the milliseconds that each took."""

    def __init__(self, call: Callable[[Observation, int], object], frames: Sequence[Observation]) -> None:
        self._call = call
        self._frames = frames
        self._at = 0
        self.ms: list[float] = []
        self.rates: list[float] = []

    def play(self, seconds: float, *, counts: bool) -> None:
        """Frames for `seconds`; a turn that does not count only warms up."""
        spent: list[float] = []
        begun = time.perf_counter()
        now = begun
        while now - begun < seconds:
            self._call(self._frames[self._at % len(self._frames)], self._at // len(self._frames))
            self._at += 1
            before, now = now, time.perf_counter()
            spent.append((now - before) * 1e3)
        if counts:
            self.ms += spent
            self.rates.append(len(spent) / (now - begun))


def bare_call(model: bytes, threads: int) -> Callable[[Observation, int], object]:
    """Decode, pre-process, run: what any program must do with a frame."""
    loaded = open_runtime().load(verify_model(model, None), RuntimeOptions(threads=threads))
    session, contract = loaded._session, loaded.contract
    names = list(contract.outputs.values())

    def call(frame: Observation, _lap: int) -> object:
        return session.run(names, {contract.input.name: preprocess([decode_image(frame.payload)], contract)})

    return call


def measure(
    name: str,
    model: bytes,
    frames: Sequence[Observation],
    *,
    rounds: int,
    seconds: float,
    keep: float,
    threads: int,
) -> list[Measure]:
    """Two rows: the frame rate, and what the 99th percentile of a frame grows by."""
    switch_s = sys.getswitchinterval()
    with tempfile.TemporaryDirectory() as folder, bench_vehicle.busy_uplink(Path(folder)) as bootstrap:
        root = Path(folder) / "vehicle"
        state = bench_vehicle.enrol(root, model)
        perceive = _perceive(state, bench_vehicle.settings(root, bootstrap, threads, keep))
        (source,) = perceive.feeds
        ours = Turn(lambda one, lap: perceive.loop.process(one, lap, source), frames)
        bare = Turn(bare_call(model, threads), frames)
        sent = bench_vehicle.uploaded_bytes(StateFolder(Path(folder) / "uplink" / "state"))
        begun = time.monotonic()
        for number in range(rounds + 1):
            ours.play(seconds, counts=number > 0)
            bare.play(seconds, counts=number > 0)
        sent = bench_vehicle.uploaded_bytes(StateFolder(Path(folder) / "uplink" / "state")) - sent
        mb_per_s = sent / 1e6 / (time.monotonic() - begun)
        perceive.loop.pause()
        counts = perceive.writer.ledger().counts
        perceive._close()
    sys.setswitchinterval(switch_s)
    ratio, spread = paired_ratio(ours.rates, bare.rates)
    ours_p99, bare_p99 = (float(np.percentile(turn.ms, 99)) for turn in (ours, bare))
    kept = counts.accepted / (counts.accepted + sum(counts.not_accepted.values()))
    figures = {
        "product_frames_per_s": statistics.median(ours.rates),
        "bare_frames_per_s": statistics.median(bare.rates),
        "product_p50_ms": statistics.median(ours.ms),
        "bare_p50_ms": statistics.median(bare.ms),
        "threads": threads,
        "share_of_frames_kept": kept,
        "frame_kb": statistics.mean(len(frame.payload) for frame in frames) / 1e3,
        "deliver_uploads_mb_per_s": mb_per_s,
    }
    beside = "session.run and pre-processing alone, deliver busy beside both"
    added_ms = ours_p99 - bare_p99
    return [
        Measure(
            f"perceive loop, {name}",
            beside,
            ratio,
            f">= {AIM_RATIO:.2f}",
            ratio >= AIM_RATIO,
            spread,
            figures,
        ),
        Measure(
            f"perceive loop, {name}: added p99 per frame",
            beside,
            None,
            f"<= {AIM_ADDED_P99_MS:g} ms",
            added_ms <= AIM_ADDED_P99_MS,
            None,
            {"added_p99_ms": added_ms, "product_p99_ms": ours_p99, "bare_p99_ms": bare_p99},
        ),
    ]


def _perceive(state: StateFolder, settings: object) -> Perceive:
    clock = SystemClock()
    events = EventLog(state.events / "bench.jsonl", clock, "bench")
    return Perceive(
        ProcessContext(
            settings,
            state,
            clock,
            events,
            StopSignal(None),
            False,
            Heartbeat(state.beat_path("perceive"), clock),
        )
    )  # type: ignore[arg-type]


def run_lite0(seed: int, quick: bool) -> Sequence[Measure]:
    """efficientnet_lite0 on camera-like JPEG frames."""
    rounds, seconds = (1, 1.0) if quick else (7, 4.0)
    shown = bench_vehicle.frames(seed, 40, 640, 480, "JPEG")
    model = bench_vehicle.lite0_bytes()
    return measure("efficientnet_lite0", model, shown, rounds=rounds, seconds=seconds, keep=0.1, threads=1)


def run_demo(seed: int, quick: bool) -> Sequence[Measure]:
    """The demo's own model on the demo's own kind of frame."""
    rounds, seconds = (1, 1.0) if quick else (9, 2.0)
    shown = bench_vehicle.frames(seed, 200, 32, 32, "PNG")
    model = bench_vehicle.demo_bytes(seed)
    return measure("the demo's own model", model, shown, rounds=rounds, seconds=seconds, keep=0.1, threads=1)


def _lite0_missing() -> str | None:
    return None if bench_vehicle.LITE0.is_file() else f"there is no {bench_vehicle.LITE0.name}"


STEPS = (
    Step("perceive-loop-lite0", run_lite0, _lite0_missing),
    Step("perceive-loop-demo", run_demo),
)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=("lite0", "demo"))
    asked = parser.parse_args()
    for name, run in (("lite0", run_lite0), ("demo", run_demo)):
        if asked.only in (None, name):
            for row in run(asked.seed, asked.quick):
                print(row)


if __name__ == "__main__":
    main()

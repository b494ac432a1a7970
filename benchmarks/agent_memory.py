"""Memory of the agent's two processes beside one loop without FleetLoop: the same model, runtime and frames.

    python -m benchmarks.agent_memory [--frames 300] [--imports]

Each side is measured in processes of its own, by PSS of /proc/PID/smaps_rollup (pages that are shared with another
process count in part; RSS, where they count in full, stands beside). The bare process imports Pillow, numpy and
onnxruntime, loads the model and runs every frame through it. The agent is perceive (source, model, selection, spool)
and deliver (uploading to an embedded broker), started as its supervisor starts them, and the supervisor itself. All
are read while they work, in their last seconds. `--imports` prints which imports weigh most. Never a timed test.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bench_vehicle
from benchmarks.port import Measure, Step
from connectors.kafka.admin import ensure_topics
from devservers.embedded_broker import EmbeddedBroker
from edge_agent.state_folder import read_status

AIM_MB = 150.0
BARE = """
import io, sys, time
from pathlib import Path
import numpy as np, onnxruntime
from PIL import Image
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
spec = session.get_inputs()[0]
side = spec.shape[3] if isinstance(spec.shape[3], int) else 224
payloads = [path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())]
print("ready", flush=True)
while True:
    for payload in payloads:
        pixels = np.asarray(Image.open(io.BytesIO(payload)).convert("RGB").resize((side, side)))
        data = ((pixels.astype(np.float32) / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None]
        session.run(None, {spec.name: np.ascontiguousarray(data)})
        time.sleep(0.03)
"""


def memory_mb(pid: int) -> tuple[float, float]:
    """PSS and RSS of one process."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024 / 1e6
    return found["Pss"], found["Rss"]


def bare_memory(model: Path, pictures: Path, seconds: float) -> tuple[float, float]:
    """PSS and RSS of the loop without FleetLoop."""
    child = subprocess.Popen([sys.executable, "-c", BARE, model, pictures], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        if child.stdout.readline() != b"ready\n":
            raise RuntimeError("the bare loop did not start")
        time.sleep(seconds)
        return memory_mb(child.pid)
    finally:
        child.kill()
        child.wait(30)


def agent_memory(root: Path, seconds: float) -> dict[str, tuple[float, float]]:
    """PSS and RSS of each process of a working agent."""
    state = bench_vehicle.StateFolder(root / "state")
    command = [sys.executable, "-m", "fleetloop", "agent", "run", "--config", str(root / "agent.toml")]
    child = subprocess.Popen(command, cwd=bench_vehicle.ROOT, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 90
        while bench_vehicle.uploaded_bytes(state) == 0:
            if time.monotonic() > until or child.poll() is not None:
                raise RuntimeError("the agent did not upload within 90 s")
            time.sleep(0.1)
        time.sleep(seconds)
        pids = {name: read_status(state.status_path(name))["pid"] for name in ("perceive", "deliver")}
        return {name: memory_mb(int(str(pid))) for name, pid in {**pids, "supervisor": child.pid}.items()}
    finally:
        child.terminate()
        child.wait(60)


def measure(name: str, model: bytes, size: tuple[int, int], kind: str, seed: int, quick: bool) -> Measure:
    """One row."""
    seconds = 2.0 if quick else 15.0
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker() as broker:
        ensure_topics(broker.bootstrap)
        root = Path(folder) / "vehicle"
        bench_vehicle.enrol(root, model)
        bench_vehicle.settings(root, broker.bootstrap, 1, 0.5)
        drive = root / "recording" / "drive-1"
        suffix = {"PNG": "png", "JPEG": "jpg"}[kind]
        for frame in bench_vehicle.frames(seed, 40, *size, kind):
            (drive / f"{frame.frame_id}.{suffix}").write_bytes(frame.payload)
        toml = (root / "agent.toml").read_text().replace("loop = true", "loop = true\nrate_hz = 30.0")
        (root / "agent.toml").write_text(toml)
        (root / "model.onnx").write_bytes(model)
        bare = bare_memory(root / "model.onnx", drive, seconds)
        agent = agent_memory(root, seconds)
    added = [sum(parts[at] for parts in agent.values()) - bare[at] for at in (0, 1)]
    figures = {"added_pss_mb": added[0], "added_rss_mb": added[1]}
    figures |= {"bare_loop_pss_mb": bare[0], "bare_loop_rss_mb": bare[1]}
    for process, (pss, rss) in agent.items():
        figures |= {f"{process}_pss_mb": pss, f"{process}_rss_mb": rss}
    return Measure(
        step=f"memory of the agent, {name}",
        beside="the same loop without FleetLoop",
        ratio=None,
        aim=f"<= {AIM_MB:g} MB beside runtime and model",
        met=added[0] <= AIM_MB,
        spread=None,
        figures=figures,
        note="perceive, deliver and supervisor together less the bare loop, by PSS",
    )


def run(seed: int, quick: bool) -> Sequence[Measure]:
    """With the demo's model, and with efficientnet_lite0 where it is."""
    rows = [measure("the demo's own model", bench_vehicle.demo_bytes(seed), (32, 32), "PNG", seed, quick)]
    if bench_vehicle.LITE0.is_file():
        rows.append(
            measure("efficientnet_lite0", bench_vehicle.lite0_bytes(), (640, 480), "JPEG", seed, quick)
        )
    return rows


STEPS = (Step("agent-memory", run),)

_IMPORTS = """
import importlib, sys
def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
start = rss()
for name in sys.argv[1].split(","):
    before = rss()
    importlib.import_module(name)
    print(f"{rss() - before:7.1f} MB  {name}")
print(f"{rss():7.1f} MB  the whole process ({start:.1f} MB of it Python)")
"""
PERCEIVE_IMPORTS = "numpy,PIL.Image,cryptography.hazmat.primitives.serialization,fastavro,onnx,edge_agent.perceive,onnxruntime"
DELIVER_IMPORTS = (
    "cryptography.hazmat.primitives.serialization,fastavro,kafka,tuf.api.metadata,edge_agent.deliver,"
    "numpy,onnx,onnxruntime"
)


def main() -> None:
    """Print the rows, or what imports weigh."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    if asked.imports:
        for name, imports in (("perceive", PERCEIVE_IMPORTS), ("deliver", DELIVER_IMPORTS)):
            print(f"{name}, in this order:", flush=True)
            subprocess.run([sys.executable, "-c", _IMPORTS, imports], check=True, env={**os.environ})
        return
    for row in run(asked.seed, asked.quick):
        print(row)


if __name__ == "__main__":
    main()

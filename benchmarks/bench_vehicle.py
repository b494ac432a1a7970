"""A vehicle for the benchmarks: models, frames, a state folder as enrolment leaves it, its settings, a busy uplink."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from connectors.kafka.admin import ensure_topics
from connectors.sensors.ports import Observation
from devservers.embedded_broker import EmbeddedBroker
from edge_agent.config import AgentSettings, load_agent_settings
from edge_agent.key_file import load_key, save_key
from edge_agent.models.slots import install_initial
from edge_agent.models.vehicle import Vehicle, write_vehicle
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.writer import SpoolWriter
from edge_agent.state_folder import StateFolder, read_status
from foundation.clock import SystemClock
from foundation.errors import RejectedError
from foundation.events import EventLog
from modelkit.contract import ModelContract
from modelkit.embed import embed_contract
from modelkit.specs import InputSpec
from schemas.reasons import NotAcceptedReason, Provenance
from schemas.signing import VehicleKey

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("FLEETLOOP_DATA", ROOT.parent / "shared" / "data"))
LITE0 = DATA / "models" / "efficientnet_lite0" / "efficientnet_lite0_embed_logits.onnx"
DEMO_CLASSES = tuple(f"class-{number:02d}" for number in range(43))
UPLINK_RECORDS_PER_S = 100
UPLINK_RECORD_BYTES = 50_000
READY_S = 60.0


def lite0_bytes() -> bytes:
    """efficientnet_lite0 (ImageNet, 224 x 224, a 1280-number embedding) with a contract."""
    classes = tuple(f"imagenet-{number:04d}" for number in range(1000))
    contract = ModelContract(
        "lite0",
        classes,
        classes,
        input=InputSpec("input", 3, 224, 224),
        embedding_size=1280,
    )
    return embed_contract(LITE0.read_bytes(), contract)


def demo_fp32_bytes(seed: int) -> bytes:
    """The demo's network with weights drawn from `seed`: as fast as a trained one."""
    from training.export import export_onnx
    from training.network import Architecture, build

    contract = ModelContract("demo", DEMO_CLASSES, DEMO_CLASSES)
    return export_onnx(build(Architecture(classes=len(DEMO_CLASSES)), None, seed), contract)


def demo_bytes(seed: int) -> bytes:
    """The artefact that the demo ships of that network: int8 for the CPU."""
    from modelkit.verify import verify_model
    from training.quantise import quantise

    pixels = np.stack([pixels_of(seed + number, 32, 32) for number in range(64)])
    return quantise(verify_model(demo_fp32_bytes(seed), None), pixels, "cpu").data


def pixels_of(seed: int, width: int, height: int) -> np.ndarray:
    """A picture with some structure and some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(coarse.filter(ImageFilter.GaussianBlur(2)), dtype=np.float32)
    noisy += rng.normal(0, 12, noisy.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def frames(seed: int, count: int, width: int, height: int, kind: str) -> list[Observation]:
    """`count` encoded frames, in memory."""
    made = []
    for number in range(count):
        stream = io.BytesIO()
        picture = Image.fromarray(pixels_of(seed * 1000 + number, width, height))
        picture.save(stream, kind, **({"quality": 85} if kind == "JPEG" else {}))
        made.append(
            Observation(
                frame_id=f"frame-{number:05d}",
                drive_id="drive-1",
                sensor_id="front",
                track_id=None,
                capture_time_ns=time.time_ns(),
                capture_time_uncertainty_ns=1000,
                content_type=f"image/{kind.lower()}",
                payload=stream.getvalue(),
                provenance=Provenance.REPLAYED,
            )
        )
    return made


def enrol(root: Path, model: bytes) -> StateFolder:
    """What `fleetloop enroll` leaves in `root/state`."""
    state = StateFolder(root / "state")
    state.root.mkdir(parents=True)
    key = VehicleKey.generate()
    save_key(key, state.key_path)
    clock = SystemClock()
    write_vehicle(state.root, Vehicle("bench-1", key.key_id, clock.now_ns()))
    install_initial(state.root, model, clock)
    state.make()
    return state


def settings(root: Path, bootstrap: str, threads: int, keep: float) -> AgentSettings:
    """Settings of a vehicle that scores every frame by every rule and keeps a share `keep` of them at random."""
    drive = root / "recording" / "drive-1"
    drive.mkdir(parents=True, exist_ok=True)
    for frame in frames(1, 2, 32, 32, "PNG"):
        (drive / f"{frame.frame_id}.png").write_bytes(frame.payload)
    path = root / "agent.toml"
    path.write_text(f"""
vehicle_id = "bench-1"
state_folder = "state"
[source]
kind = "image_folder"
path = "recording"
loop = true
[serving.model]
threads = {threads}
[selection.uncertainty]
threshold = 1.0
[selection.novelty]
enabled = true
threshold = 1.0
[selection.random]
probability = {keep}
[upload.kafka]
bootstrap = "{bootstrap}"
[spool]
quota_bytes = 2000000000
""")
    return load_agent_settings(path)


@contextmanager
def busy_uplink(folder: Path) -> Iterator[str]:
    """The bootstrap address of an embedded broker that a real deliver process keeps uploading to, from the spool of a
    vehicle of its own, which a third process feeds at a steady rate.
    """
    root = folder / "uplink"
    children: list[subprocess.Popen[bytes]] = []
    with EmbeddedBroker() as broker:
        ensure_topics(broker.bootstrap)
        state = enrol(root, tiny_model_bytes())
        settings(root, broker.bootstrap, 1, 0.0)
        quiet = {"cwd": ROOT, "stderr": subprocess.DEVNULL}
        try:
            deliver = [sys.executable, "-m", "edge_agent.deliver", "--config", str(root / "agent.toml")]
            children.append(subprocess.Popen(deliver, **quiet))
            feed = [sys.executable, "-m", "benchmarks.bench_vehicle", str(root), str(os.getpid())]
            children.append(subprocess.Popen(feed, **quiet))
            until = time.monotonic() + READY_S
            while uploaded_bytes(state) < 5 * UPLINK_RECORD_BYTES:
                if time.monotonic() > until or any(child.poll() is not None for child in children):
                    raise RuntimeError(f"the uplink did not start within {READY_S} s")
                time.sleep(0.1)
            yield broker.bootstrap
        finally:
            for child in reversed(children):
                child.terminate()
            for child in children:
                child.wait(30)


def tiny_model_bytes() -> bytes:
    from tests.fakes.models import tiny_model

    return tiny_model()


def uploaded_bytes(state: StateFolder) -> int:
    """What deliver says that the broker has acknowledged."""
    uploader = read_status(state.status_path("deliver")).get("uploader")
    return int(uploader["bytes_uploaded"]) if isinstance(uploader, dict) else 0


def feed(root: Path, parent_pid: int) -> None:
    """Put records into the vehicle's spool at a steady rate until the parent is gone or says so."""
    from benchmarks.spool_append import make_sample

    state, clock = StateFolder(root / "state"), SystemClock()
    spool = SpoolSettings(quota_bytes=500_000_000)
    key = load_key(state.key_path)
    sample = make_sample(UPLINK_RECORD_BYTES)
    with SpoolWriter.open(state.spool, spool, "bench-1", key, clock, EventLog(None)) as writer:
        due = time.monotonic()
        stop = threading.Event()
        while os.getppid() == parent_pid and not stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / UPLINK_RECORDS_PER_S, time.monotonic() - 0.5)
            try:
                writer.append(sample)
            except RejectedError as error:
                writer.not_accepted(NotAcceptedReason(error.reason))
            if writer.is_commit_due:
                writer.commit()


if __name__ == "__main__":
    feed(Path(sys.argv[1]), int(sys.argv[2]))

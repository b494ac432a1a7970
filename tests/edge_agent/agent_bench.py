"""A vehicle on a bench: a state folder as enrolment makes it, and the real parts of the frame loop."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from connectors.sensors.ports import Observation
from edge_agent.config import AgentSettings, SourceKind, SourceSettings
from edge_agent.crash_mark import CrashMark
from edge_agent.durable_progress import DurableProgress
from edge_agent.heartbeat import MODEL_AT_WORK, Activity
from edge_agent.key_file import load_key, save_key
from edge_agent.look import Viewer
from edge_agent.models.model_set import ModelSet
from edge_agent.models.slots import install_initial
from edge_agent.models.vehicle import Vehicle, write_vehicle
from edge_agent.observation_loop import ObservationLoop
from edge_agent.perceive import build_policy, picture_limits, progress_limits
from edge_agent.place_keeper import PlaceKeeper
from edge_agent.prediction_log import PredictionLog
from edge_agent.progress import Place, Progress
from edge_agent.spool.writer import SpoolWriter
from edge_agent.state_folder import StateFolder
from foundation.clock import ManualClock
from foundation.events import EventLog
from modelkit.runtime import Backend
from schemas.reasons import Provenance
from schemas.signing import VehicleKey
from tests.fakes.models import FakeBackend, tiny_model

WALL_NS = 1_790_000_000_000_000_000  # September 2026
VEHICLE = "car-1"
SOURCE = "the recording"


def png(number: int, size: int = 32) -> bytes:
    """A picture of noise, another for each number, the same for the same."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def make_frame(
    number: int, *, drive: str = "drive-1", track: str | None = None, payload: bytes | None = None
) -> Observation:
    return Observation(
        frame_id=f"frame-{number:05d}",
        drive_id=drive,
        sensor_id="front",
        track_id=track,
        capture_time_ns=WALL_NS + number * 1_000_000,
        capture_time_uncertainty_ns=1000,
        content_type="image/png",
        payload=png(number) if payload is None else payload,
        provenance=Provenance.REPLAYED,
    )


def enrol(root: Path, vehicle_id: str = VEHICLE, model: bytes | None = None) -> VehicleKey:
    """What `fleetloop enroll` leaves in a state folder."""
    root.mkdir(parents=True, exist_ok=True)
    key = VehicleKey.generate()
    save_key(key, root / "key.pem")
    write_vehicle(root, Vehicle(vehicle_id, key.key_id, WALL_NS))
    install_initial(root, model or tiny_model(), ManualClock(WALL_NS))
    return key


def settings_for(root: Path, **changes: object) -> AgentSettings:
    source = SourceSettings(kind=SourceKind.IMAGE_FOLDER, path=root / "recording")
    base = AgentSettings(vehicle_id=VEHICLE, state_folder=root / "state", source=source)
    return replace(base, **changes)


@dataclass
class Vehicle1:
    """The perceive side with real spool, progress and model slots; the runtime and the clock are fakes."""

    settings: AgentSettings
    backend: Backend = field(default_factory=FakeBackend)
    clock: ManualClock = field(default_factory=lambda: ManualClock(WALL_NS))
    crashed_in: Activity | None = None
    """In what the life before the next `start` was ended by a fault signal."""

    def __post_init__(self):
        self.state = StateFolder(self.settings.state_folder)
        if not self.state.key_path.exists():
            enrol(self.state.root)
        self.state.make()
        self.start()

    def start(self) -> None:
        events = EventLog(self.state.events / "bench.jsonl", self.clock, "bench")
        settings, state, clock = self.settings, self.state, self.clock
        has_crashed = self.crashed_in in MODEL_AT_WORK
        self.models = ModelSet(
            state.root, self.backend, settings.serving.model, clock, events, has_crashed=has_crashed
        )
        self.serving = self.models.serving
        key = load_key(state.key_path)
        limits = progress_limits(settings)
        self.durable = DurableProgress(limits, [SOURCE], clock, state.released_progress_path)
        self.writer = SpoolWriter.open(
            state.spool, settings.spool, VEHICLE, key, clock, events, carried=self.durable
        )
        self.running = self.progress.copy_limits(limits)
        log = PredictionLog(settings.serving.prediction_log)
        self.loop = ObservationLoop(
            vehicle_id=VEHICLE,
            viewer=Viewer(self.models, self.running.memory, log, clock, events, picture_limits(settings)),
            policy=build_policy(settings, self.running.tracks),
            capture=settings.capture,
            writer=self.writer,
            keeper=PlaceKeeper(self.progress),
            mark=CrashMark(
                state.crash_mark_path,
                crashed_in=self.crashed_in,
                is_model_suspect=self.models.is_suspect,
            ),
            running=self.running,
            tail=self.progress.tail,
            prediction_log=log,
            clock=clock,
            events=events,
        )

    def play(self, *observations: Observation) -> None:
        for observation in observations:
            self.loop.process(observation, 0, SOURCE)

    def end_source(self) -> None:
        self.loop.end_source(SOURCE)

    @property
    def progress(self) -> Progress:
        """As the spool has it: the last commit's."""
        return self.durable.progress

    @property
    def trouble(self) -> str:
        return self.durable.trouble

    @property
    def place(self) -> Place:
        return self.progress.place(SOURCE)

    @property
    def frame_id(self) -> str | None:
        """The last observation that left the window, as of the last commit."""
        return self.place.frame_id

    def kill(self) -> None:
        """Let go of everything as SIGKILL does: no commit, no close, no flush."""
        self.writer._lock.__exit__(None, None, None)
        self.writer._receipts.close()

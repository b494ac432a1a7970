"""Every setting of the agent, read once from one TOML file; anything invalid is an error that names value and bound.

Relative paths are relative to the folder of the file. Nothing here opens a socket or reads the state folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from connectors.kafka.settings import KafkaSettings
from edge_agent.heartbeat import Activity
from edge_agent.models.settings import FetchSettings, ServingSettings
from edge_agent.selection.budget import BudgetLimits
from edge_agent.selection.uncertainty import UncertaintyMeasure
from edge_agent.spool.settings import SpoolSettings
from edge_agent.uploader import UploaderSettings
from foundation.errors import MisconfiguredError
from foundation.settings import load_settings, setting
from schemas.identity import VEHICLE_ID_PATTERN, is_vehicle_id
from schemas.reasons import ValueClass

MAX_BYTES = 10**15
MAX_SOURCES = 64
OLD_FRAMES_PER_S = 10
"""Divisor of `pre_frames` and `post_frames` of an old file; windows are set in seconds since."""


class SourceKind(StrEnum):
    """Where frames come from."""

    IMAGE_FOLDER = "image_folder"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """A recording that is played back. `rate_hz` 0 plays as fast as the model runs.

    `replay_id` names one playing of the same recording: a restart with the same id goes on where it was,
    another id plays it from the beginning. What a folder or file gained since it ended is played at the next start,
    and with `follow` while the agent runs.
    """

    kind: SourceKind = setting(help="image_folder or parquet")
    path: Path = setting(help="the folder, or the Parquet file")
    rate_hz: float = setting(0.0, min=0.0, max=1000.0, help="frames per second; 0 = as fast as possible")
    loop: bool = setting(False, help="begin again at the end, for ever")
    replay_id: str = setting("", max=200, help="another id plays the recording again")
    stream: str = setting("", max=256, help="sensor_id of what it gives; empty = as the recording says")
    drive: str = setting(
        "", max=256, help="drive_id of what it gives, the same for sources of one drive; empty = as recorded"
    )
    follow: bool = setting(False, help="look for new files after the end, for a recorder that still writes")
    may_block: bool = setting(
        False, help="read in a thread of its own, for a network share or a device that may not answer"
    )
    frame_interval_s: float = setting(
        0.0,
        min=0.0,
        max=86_400.0,
        help="image_folder: time between two pictures; 0 = each one's EXIF time, else its file's time",
    )
    utc_offset_minutes: int | None = setting(
        None, min=-840, max=840, help="image_folder: the camera's zone where EXIF names none"
    )


@dataclass(frozen=True, slots=True)
class UncertaintySettings:
    """The uncertainty selector."""

    enabled: bool = setting(True)
    measure: UncertaintyMeasure = setting(
        UncertaintyMeasure.ENTROPY, help="entropy, margin or least_confidence"
    )
    threshold: float = setting(0.5, min=0.0, max=1.0, help="0 keeps all, 1 only the wholly unsure")
    value_class: ValueClass = setting(ValueClass.NORMAL, help="low, normal, high or critical")


@dataclass(frozen=True, slots=True)
class NoveltySettings:
    """The novelty selector: against what this vehicle already kept."""

    enabled: bool = setting(False)
    threshold: float = setting(
        0.3, min=0.0, max=1.0, help="half the cosine distance to the nearest kept frame"
    )
    memory_frames: int = setting(512, min=1, max=100_000, help="kept frames that are remembered")
    value_class: ValueClass = setting(ValueClass.HIGH, help="low, normal, high or critical")


@dataclass(frozen=True, slots=True)
class RandomSettings:
    """The random arm. 0 switches it off (and then no unbiased estimate is possible)."""

    probability: float = setting(0.02, min=0.0, max=1.0, help="chance of each frame to be kept")
    seed: int = setting(0, min=0, max=2**63 - 1)
    value_class: ValueClass = setting(ValueClass.NORMAL, help="low, normal, high or critical")


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """Payload bytes that may be kept; a missing key is no limit of that kind."""

    per_drive_bytes: int | None = setting(None, min=0, max=MAX_BYTES, help="bytes of one drive")
    per_hour_bytes: int | None = setting(None, min=0, max=MAX_BYTES, help="bytes in any 3,600 s")
    total_bytes: int | None = setting(None, min=0, max=MAX_BYTES, help="bytes since enrolment")

    def limits(self) -> BudgetLimits:
        """Return the plain limits."""
        return BudgetLimits(self.per_drive_bytes, self.per_hour_bytes, self.total_bytes)


@dataclass(frozen=True, slots=True)
class SelectionSettings:
    """Which frames are kept. `max_per_track` limits what rules keep; the random arm is not limited by it."""

    uncertainty: UncertaintySettings = field(default_factory=UncertaintySettings)
    novelty: NoveltySettings = field(default_factory=NoveltySettings)
    random: RandomSettings = field(default_factory=RandomSettings)
    limits_tracks: bool = setting(True, help="false keeps any number a track")
    max_per_track: int = setting(3, min=1, max=1_000_000, help="frames per track, by rule")
    budget: BudgetSettings = field(default_factory=BudgetSettings)

    @property
    def track_limit(self) -> int | None:
        """Frames per track, None for no limit."""
        return self.max_per_track if self.limits_tracks else None


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """The window around a trigger, by capture time over all streams of its drive, and the memory that it may take."""

    pre_s: float = setting(0.0, min=0.0, max=60.0, help="seconds kept before a trigger")
    post_s: float = setting(0.0, min=0.0, max=60.0, help="seconds kept after a trigger")
    pre_frames: int = setting(0, min=0, max=300, help="of old files: as pre_s, 10 frames per second")
    post_frames: int = setting(0, min=0, max=300, help="of old files: as post_s, 10 frames per second")
    hold_s: float = setting(
        120.0, min=0.1, max=3600.0, help="longest stay in memory, whatever the streams do"
    )
    ring_bytes: int = setting(64_000_000, min=1_000_000, max=10**10, help="payload bytes held in memory")

    @property
    def pre_ns(self) -> int:
        """Length of the window before a trigger."""
        return round(max(self.pre_s, self.pre_frames / OLD_FRAMES_PER_S) * 1e9)

    @property
    def post_ns(self) -> int:
        """Length of the window after a trigger."""
        return round(max(self.post_s, self.post_frames / OLD_FRAMES_PER_S) * 1e9)


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """The broker, and how records are moved to it."""

    kafka: KafkaSettings = field(default_factory=KafkaSettings)
    pace: UploaderSettings = field(default_factory=UploaderSettings)
    drain_s: float = setting(60.0, min=0.0, max=86_400.0, help="longest wait for an empty spool at the end")


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """How often the vehicle sends telemetry."""

    interval_s: float = setting(10.0, min=0.1, max=86_400.0)


@dataclass(frozen=True, slots=True)
class PerceiveServing:
    """The model runner, and the log of its predictions."""

    model: ServingSettings = field(default_factory=ServingSettings)
    prediction_log: Path | None = setting(None, help="JSON lines, one per predicted frame; none by default")


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """The health page, for this machine only."""

    enabled: bool = setting(True)
    port: int | None = setting(
        None,
        min=0,
        max=65_535,
        help="a port of loopback, 0 = any free one; without it a socket for its owner, run/health.sock",
    )
    stale_after_s: float = setting(15.0, min=0.5, max=3600.0, help="a silent process is unhealthy")


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """Bounds of one encoded picture, read from its header before a decoder sees it: those of the largest sensor."""

    max_bytes: int = setting(20_000_000, min=1, max=20_000_000, help="bytes of an encoded picture")
    max_side_pixels: int = setting(10_000, min=1, max=10_000, help="pixels of the longer side")
    max_pixels: int = setting(
        25_000_000, min=1, max=25_000_000, help="pixels in all; decoding takes time and memory by them"
    )


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """How processes are restarted and stopped."""

    stop_s: float = setting(20.0, min=0.1, max=600.0, help="SIGKILL so long after SIGTERM")
    backoff_first_s: float = setting(0.5, min=0.001, max=600.0)
    backoff_max_s: float = setting(30.0, min=0.001, max=3600.0)
    give_up_after: int = setting(
        20, min=1, max=10_000, help="deaths in a row; only with --until-source-ends, else never"
    )
    steady_after_s: float = setting(60.0, min=0.1, max=86_400.0, help="a run this long forgives the past")
    perceive_hung_after_s: float = setting(
        20.0, min=1.0, max=3600.0, help="a silent perceive is ended and started again"
    )
    deliver_hung_after_s: float = setting(
        60.0, min=1.0, max=3600.0, help="a silent deliver is ended and started again"
    )
    start_within_s: float = setting(
        180.0, min=1.0, max=3600.0, help="the same while it starts, loads a model or waits for the disk"
    )


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The whole agent of one vehicle. An empty `updates.base_url` never looks for a release."""

    vehicle_id: str
    state_folder: Path
    source: SourceSettings | None = None
    """The one source of an old file."""
    sources: tuple[SourceSettings, ...] = setting((), max=MAX_SOURCES)
    upload: UploadSettings = field(default_factory=UploadSettings)
    serving: PerceiveServing = field(default_factory=PerceiveServing)
    pictures: PictureSettings = field(default_factory=PictureSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    spool: SpoolSettings = field(default_factory=SpoolSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    updates: FetchSettings = field(default_factory=FetchSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    supervisor: SupervisorSettings = field(default_factory=SupervisorSettings)

    def silence_limit_s(self, process: str, activity: Activity) -> float:
        """Return how long a process may go without a heartbeat, in seconds."""
        limits = self.supervisor
        if activity in (Activity.STARTING, Activity.LOADING, Activity.DISK):
            return limits.start_within_s
        if process == "perceive":
            return limits.perceive_hung_after_s
        return max(
            limits.deliver_hung_after_s, 2 * self.upload.pace.close_s
        )  # a sink may take so long to close

    @property
    def all_sources(self) -> tuple[SourceSettings, ...]:
        """Every source, the one of an old file first."""
        return (*((self.source,) if self.source is not None else ()), *self.sources)

    def __post_init__(self) -> None:
        names = [source_id(source) for source in self.all_sources]
        if not names:
            raise MisconfiguredError("there is no [[sources]] table; there must be at least one source")
        if len(set(names)) < len(names):
            raise MisconfiguredError(
                "two sources have the same kind, path and replay_id; give them another replay_id"
            )
        if not is_vehicle_id(self.vehicle_id):
            raise MisconfiguredError(
                f"vehicle_id is {self.vehicle_id[:100]!r}; it must match {VEHICLE_ID_PATTERN}"
            )


def source_id(settings: SourceSettings) -> str:
    """Return the id of one playback of one recording; a position in it has no meaning in another."""
    return json.dumps([settings.kind.value, str(settings.path), settings.replay_id])


def load_agent_settings(path: Path) -> AgentSettings:
    """Read the settings of an agent.

    Raises:
        MisconfiguredError: names the file, the key, the value and the bound.
    """
    settings = load_settings(AgentSettings, path)
    base = path.resolve().parent
    log = settings.serving.prediction_log
    kafka = settings.upload.kafka
    tls = {
        name: base / path
        for name in ("tls_ca_path", "tls_certificate_path", "tls_key_path")
        if (path := getattr(kafka, name)) is not None
    }
    updates = settings.updates
    if updates.base_url and "://" not in updates.base_url:
        updates = replace(updates, base_url=str(base / updates.base_url))
    return replace(
        settings,
        updates=updates,
        upload=replace(settings.upload, kafka=replace(kafka, **tls)),
        state_folder=base / settings.state_folder,
        source=settings.source and replace(settings.source, path=base / settings.source.path),
        sources=tuple(replace(source, path=base / source.path) for source in settings.sources),
        serving=replace(settings.serving, prediction_log=None if log is None else base / log),
    )

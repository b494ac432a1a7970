"""Every bound of the model slots, with its unit. Imports no library."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from foundation.errors import MisconfiguredError
from foundation.settings import setting
from schemas.bundle import MAX_BUNDLE_BYTES
from schemas.roles import MAX_ROLES, ROLE_PATTERN, SERVING, SHADOW, is_role

_PROVIDER: Final = re.compile(
    r"[A-Z][A-Za-z0-9]{1,60}ExecutionProvider|(openvino|litert|executorch)-[a-z0-9-]{1,40}"
)


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """When a model is unhealthy. One output that is not finite is always enough."""

    window_frames: int = setting(200, min=10, max=100_000, help="frames that ratio and latency look back on")
    min_frames: int = setting(20, min=1, max=10_000, help="no verdict on ratio or latency from fewer frames")
    max_error_ratio: float = setting(0.05, min=0.0, max=1.0, help="failed inferences per frame in the window")
    max_latency_p50_s: float = setting(0.5, min=0.0001, max=60.0, help="median inference time in the window")


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """How a model serves, and how long a new one is watched most closely."""

    poll_interval_s: float = setting(
        1.0, min=0.0, max=3600.0, help="between two looks for a candidate or a halt"
    )
    refused_wait_s: float = setting(
        30.0, min=0.0, max=86_400.0, help="after a candidate that could not be taken"
    )
    probation_frames: int = setting(100, min=1, max=1_000_000, help="frames until a new model is confirmed")
    max_unconfirmed_starts: int = setting(
        3, min=1, max=100, help="starts of the process on probation or after crashes, then rollback"
    )
    threads: int = setting(1, min=1, max=64, help="threads of one inference")
    providers: tuple[str, ...] = setting(
        (), help="best first, such as QNNExecutionProvider or openvino-npu; empty: the contract's"
    )
    htp_arch: int = setting(
        0,
        min=0,
        max=999,
        help="of this vehicle's Hexagon NPU, such as 75; on x86-64 its emulator runs it; 0: none",
    )
    cpu_fallback: str = setting(
        "flag", help="of a model that falls back to the CPU, although its contract allows it: flag or refuse"
    )
    trial_frames: int = setting(32, min=0, max=1000, help="recent frames kept for trials; 0 keeps none")
    trial_frame_every: int = setting(25, min=1, max=1_000_000, help="keep one frame of so many")
    other_roles: tuple[str, ...] = setting(
        (SHADOW,), help="roles beside serving that this vehicle runs; each is absent until a plan fills it"
    )
    other_roles_every: int = setting(1, min=1, max=1_000_000, help="they see one frame of so many")
    health: HealthSettings = field(default_factory=HealthSettings)

    def __post_init__(self) -> None:
        wrong = [name for name in self.other_roles if not is_role(name) or name == SERVING]
        if wrong or len(set(self.other_roles)) != len(self.other_roles) or len(self.other_roles) >= MAX_ROLES:
            raise MisconfiguredError(
                f"other_roles is {list(self.other_roles)}; at most {MAX_ROLES - 1} different names of the form "
                f"{ROLE_PATTERN}, without {SERVING}"
            )
        if self.cpu_fallback not in ("flag", "refuse"):
            raise MisconfiguredError(f"cpu_fallback is {self.cpu_fallback!r}; it is flag or refuse")
        for name in self.providers:
            if not _PROVIDER.fullmatch(name):
                raise MisconfiguredError(
                    f"providers holds {name[:100]!r}; an execution provider is named like CPUExecutionProvider"
                )
        if len(set(self.providers)) != len(self.providers):
            raise MisconfiguredError(f"providers {list(self.providers)} names one twice")


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """Bounds of one download."""

    connect_timeout_s: float = setting(5.0, min=0.1, max=300.0, help="until a connection stands")
    read_timeout_s: float = setting(10.0, min=0.1, max=300.0, help="longest gap between two reads")
    metadata_deadline_s: float = setting(
        20.0, min=0.1, max=3600.0, help="for one metadata file, first to last byte"
    )
    min_bytes_per_s: int = setting(
        512, min=0, max=10**9, help="slower than this over a whole step is a slow retrieval"
    )
    chunk_bytes: int = setting(65_536, min=1024, max=4_194_304, help="read at a time")


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """What the trial process may use, and what the model must keep to."""

    address_space_bytes: int = setting(4_294_967_296, min=268_435_456, max=2**45, help="of the trial process")
    cpu_s: int = setting(60, min=1, max=3600, help="CPU time of the trial process")
    wall_s: int = setting(60, min=1, max=3600, help="wall time of the trial process")
    open_files: int = setting(256, min=32, max=65_536, help="open files of the trial process")
    max_growth_bytes: int = setting(
        268_435_456, min=1_048_576, max=2**45, help="resident growth after the first run"
    )
    max_latency_p50_ns: int = setting(500_000_000, min=1, max=10**12, help="median time of one inference")
    min_runs: int = setting(20, min=1, max=100_000, help="inferences, going round the frames")
    max_frames: int = setting(64, min=1, max=10_000, help="recorded frames that are tried")
    threads: int = setting(1, min=1, max=64, help="threads of one inference")


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """Where releases come from, and how deliver fetches them."""

    base_url: str = setting("", max=2000, help="folder or http(s) address that holds metadata/ and targets/")
    poll_interval_s: float = setting(60.0, min=0.0, max=86_400.0, help="between two looks at the repository")
    listen_for_notices: bool = setting(
        True, help="look at once when the fleet says on the broker that there is news"
    )
    slice_s: float = setting(2.0, min=0.01, max=600.0, help="longest download work of one step")
    backoff_first_s: float = setting(
        2.0, min=0.001, max=3600.0, help="ceiling of the first pause after a failure"
    )
    backoff_max_s: float = setting(
        300.0, min=0.001, max=86_400.0, help="ceiling of any pause after a failure"
    )
    max_model_bytes: int = setting(
        MAX_BUNDLE_BYTES,
        min=1,
        max=MAX_BUNDLE_BYTES,
        help="a release with more bytes in all its files is refused before download",
    )
    min_free_bytes: int = setting(
        67_108_864, min=0, max=2**50, help="left free on the disk, else a download does not go on"
    )
    download: DownloadSettings = field(default_factory=DownloadSettings)
    trial: TrialLimits = field(default_factory=TrialLimits)

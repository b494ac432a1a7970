"""Try a candidate on this vehicle, in a confined process of its own that may crash without harm.

    python -m edge_agent.models.trial '{"digest": ..., "frames": FOLDER, "limits": {...}, "providers": [...]}' < model.onnx

The model comes in by an inherited file descriptor and is verified again from those bytes; no path of it is
ever opened. A bundle is named by the folder of its slot, "bundle", and all of its files are verified again. Limits
(address space, CPU time, open files, file size, wall time) are set before any library is loaded; Python's sockets and
subprocesses are closed off. The frames are those that this vehicle recorded lately. The answer is one JSON object on
standard output; no answer is a refusal too.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.models.settings import TrialLimits
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from modelkit.images import Pixels
    from modelkit.predictor import Predictor

_FORBIDDEN_EVENTS = (
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.system",
    "os.exec",
)
_GREY_PIXELS = 64
SLOT_DAMAGED = RefuseReason.WRONG_HASH
"""The reason of a trial whose slot does not hold, or does not give, the bytes that were put into it: no word on the model."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The result of a trial. `reason` is empty when it passed; `detail` has the values."""

    passed: bool
    reason: str
    detail: str = ""
    frames: int = 0
    latency_p50_ns: int = 0
    latency_p99_ns: int = 0
    growth_bytes: int = 0
    nodes: Mapping[str, int] = field(default_factory=dict)
    """Nodes of the optimised graph by the execution provider that runs them."""


def confine(limits: TrialLimits) -> None:
    """Restrict this process for good to what a model's trial needs."""
    _lower(resource.RLIMIT_AS, limits.address_space_bytes)
    _lower(resource.RLIMIT_CPU, limits.cpu_s, slack=5)  # SIGXCPU first, which says what it was
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    _lower(resource.RLIMIT_FSIZE, 1_048_576)
    _lower(resource.RLIMIT_CORE, 0)
    signal.alarm(limits.wall_s)  # kills this process even when its parent has died
    os.nice(10)
    sys.addaudithook(_refuse)


def run_trial(
    model: bytes | Path,
    digest: str,
    frames_folder: Path,
    limits: TrialLimits,
    providers: tuple[str, ...] = (),
    cpu_fallback: str = "flag",
    htp_arch: int = 0,
) -> TrialResult:
    """Verify, load and run the model (its bytes, or the folder of a bundle) on the recorded frames, or on a grey one.

    `providers`, `cpu_fallback` and `htp_arch` are those of `serving.model`, so that the trial runs where the model would serve.
    """
    from edge_agent.models.loading import npu_options, predictor_of, wanted_providers
    from edge_agent.models.slots import verified_bundle
    from foundation.errors import CorruptError, FleetLoopError, MisconfiguredError, RejectedError
    from modelkit.runtime import RuntimeOptions
    from modelkit.runtimes import open_runtime
    from modelkit.verify import verify_model

    try:
        verified = verified_bundle(model, digest) if isinstance(model, Path) else verify_model(model, digest)
    except CorruptError as error:
        return TrialResult(False, SLOT_DAMAGED, str(error))
    except RejectedError as error:
        return TrialResult(False, error.reason, str(error))
    try:
        wanted = wanted_providers(providers, verified.contract)
        options = RuntimeOptions(
            threads=limits.threads, providers=wanted, provider_options=npu_options(htp_arch)
        )
        loaded = open_runtime().load(verified, options)
        predictor = predictor_of(loaded, providers, cpu_fallback)
        nodes = dict(predictor.placement.nodes)
        return replace(_measure(predictor, frames_folder, limits), nodes=nodes)
    except RejectedError as error:
        return TrialResult(False, error.reason, str(error))
    except MemoryError:
        return TrialResult(
            False,
            RefuseReason.OUT_OF_MEMORY,
            f"more than {limits.address_space_bytes} bytes of address space",
        )
    except MisconfiguredError as error:
        return TrialResult(False, RefuseReason.NO_RUNTIME, str(error))
    except FleetLoopError as error:
        return TrialResult(False, RefuseReason.MODEL_ERROR, str(error))


def _measure(predictor: Predictor, frames_folder: Path, limits: TrialLimits) -> TrialResult:
    images = _images(frames_folder, limits)
    latencies: list[int] = []
    before_bytes = 0
    for run in range(max(limits.min_runs, len(images)) + 1):
        image = images[run % len(images)]
        began_ns = time.monotonic_ns()
        (prediction,) = predictor.predict([image])
        if run:  # the first run allocates and is not typical
            latencies.append(time.monotonic_ns() - began_ns)
        else:
            before_bytes = _resident_bytes()
        if not prediction.is_finite:
            return TrialResult(
                False, RefuseReason.NOT_FINITE, f"output on frame {run % len(images)} is not finite", run + 1
            )
    latencies.sort()
    p50 = latencies[len(latencies) // 2]
    p99 = latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)]
    growth = max(0, _resident_bytes() - before_bytes)
    found: dict[str, Any] = {
        "frames": len(images),
        "latency_p50_ns": p50,
        "latency_p99_ns": p99,
        "growth_bytes": growth,
    }
    if p50 > limits.max_latency_p50_ns:
        return TrialResult(
            False,
            RefuseReason.TOO_SLOW,
            f"p50 {p50} ns, the limit is {limits.max_latency_p50_ns} ns",
            **found,
        )
    if growth > limits.max_growth_bytes:
        return TrialResult(
            False,
            RefuseReason.LEAKS_MEMORY,
            f"grew {growth} bytes, the limit is {limits.max_growth_bytes}",
            **found,
        )
    return TrialResult(True, "", "", **found)


def _images(folder: Path, limits: TrialLimits) -> list[Pixels]:
    import numpy as np

    from foundation.errors import RejectedError
    from modelkit.images import decode_image

    images: list[Pixels] = []
    for path in sorted(folder.glob("*.frame"))[-limits.max_frames :]:
        try:
            images.append(decode_image(path.read_bytes()))
        except RejectedError:
            continue  # a recorded frame that cannot be read says nothing about the model
    return images or [np.full((_GREY_PIXELS, _GREY_PIXELS, 3), 128, dtype=np.uint8)]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


def _lower(what: int, limit: int, slack: int = 0) -> None:
    _soft, hard = resource.getrlimit(what)
    bound = limit + slack if hard == resource.RLIM_INFINITY else min(limit + slack, hard)
    resource.setrlimit(what, (min(limit, bound), bound))


def _refuse(event: str, _arguments: object) -> None:
    if event in _FORBIDDEN_EVENTS:
        raise PermissionError(f"{event} in a model trial")


def main(arguments: list[str]) -> int:
    """Run one trial: the specification is the argument, the model's bytes are standard input."""
    specification = json.loads(arguments[0])
    known = {field.name for field in fields(TrialLimits)}
    limits = TrialLimits(
        **{key: int(value) for key, value in specification["limits"].items() if key in known}
    )
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is not the answer
    confine(limits)
    try:
        folder = specification["bundle"]
        try:
            model = Path(folder) if folder else sys.stdin.buffer.read()
        except OSError as error:
            return _answer(answer, TrialResult(False, SLOT_DAMAGED, f"cannot be read: {error.strerror}"))
        result = run_trial(
            model,
            specification["digest"],
            Path(specification["frames"]),
            limits,
            tuple(map(str, specification["providers"])),
            str(specification["cpu_fallback"]),
            int(specification["htp_arch"]),
        )
    except MemoryError:
        result = TrialResult(
            False,
            RefuseReason.OUT_OF_MEMORY,
            f"more than {limits.address_space_bytes} bytes of address space",
        )
    return _answer(answer, result)


def _answer(fd: int, result: TrialResult) -> int:
    os.write(fd, json.dumps(asdict(result)).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The serving process killed at a labelled step of a swap or of giving way: the named slot holds the old or the new model."""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_fork import Hook, Kill, file_operations, in_fork, must
from tests.torture.pipeline_release import stepping

SWAP, GIVE_WAY = "swap", "give-way"
STEPS = (
    *((SWAP, step) for step in ("candidate-read", "verified", "loaded", "plan-read", "persisted", "swapped")),
    (GIVE_WAY, "gave-way"),
)


def warm() -> None:
    """Import what the forks need, and start nothing."""
    import onnxruntime

    import modelkit.onnx_backend
    import tests.checker.model_slots
    import tests.edge_agent.models.model_bench

    _ = (onnxruntime, modelkit, tests)


def prepare(folder: Path) -> dict[str, str]:
    """A vehicle that serves its factory model and was offered another; sha256 of both. In a fork."""
    from modelkit.digest import sha256_hex
    from tests.edge_agent.models.model_bench import Bench

    folder.mkdir()
    bench = Bench(folder)
    new = bench.release("r2", 2)
    bench.plan("r2")
    bench.run(bench.fetcher())
    if bench.slots.read_candidate() is None:
        raise RuntimeError("there is no candidate")
    return {"old": sha256_hex(bench.factory_bytes), "new": sha256_hex(new)}


def serving(folder: Path, on_step: Hook | None = None, **settings: Any) -> Any:
    """The serving model as a new process sees it, on ONNX Runtime."""
    from edge_agent.models.role_model import RoleModel
    from edge_agent.models.settings import HealthSettings, ServingSettings
    from foundation.clock import ManualClock
    from foundation.events import EventLog
    from modelkit.runtimes import open_runtime

    clock = ManualClock()
    chosen = ServingSettings(
        poll_interval_s=0.0, refused_wait_s=0.0, probation_frames=1000, max_unconfirmed_starts=10,
        health=HealthSettings(window_frames=20, min_frames=4, max_error_ratio=0.25, max_latency_p50_s=0.5),
        **settings,
    )  # fmt: skip
    return RoleModel(
        "serving",
        folder / "vehicle",
        open_runtime(),
        chosen,
        clock,
        EventLog(folder / "log", clock, "perceive"),
        on_step,
    )


def act(folder: Path, command: str, on_step: Hook | None = None) -> str:
    """Serve a frame, let the command happen, serve a frame; the digest that served it at the end."""
    import numpy as np

    model = serving(folder, on_step)
    frame = np.full((32, 32, 3), 90, dtype=np.uint8)
    _finite(model.predict([frame]))
    model.poll()
    if command == GIVE_WAY and model.name == "r2":
        answers = model.predict([frame]).predictions
        for _ in range(50):  # as if each of its answers had taken ten seconds
            if model.observe(answers, 10_000_000_000) is not None:
                break
    served = model.predict([frame])
    _finite(served)
    return str(served.model_digest)


def _finite(served: Any) -> None:
    if not served.predictions[0].is_finite:
        raise RuntimeError(f"{served.model_name} did not answer")


class Scene:
    """Vehicles before a swap and after it, to be copied for each try."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bases = {SWAP: folder / "offered", GIVE_WAY: folder / "swapped"}
        self.models: dict[str, str] = must(lambda: prepare(self.bases[SWAP])).value
        shutil.copytree(self.bases[SWAP], self.bases[GIVE_WAY])
        if must(lambda: act(self.bases[GIVE_WAY], SWAP)).value != self.models["new"]:
            raise RuntimeError("the swap did not happen")

    def attack(self, number: int, rng: random.Random) -> list[str]:
        """Kill at the step of this number, every other time again at any file operation of the next start."""
        from tests.checker.model_slots import serving_bytes

        command, step = STEPS[number % len(STEPS)]
        repetition = number // len(STEPS)
        place = self.folder / f"vehicle-{number}"
        shutil.copytree(self.bases[command], place)
        goal = self.models["new" if command == SWAP else "old"]
        found: list[str] = []
        with stepping() as (watch, on_step):
            ended = in_fork(partial(act, place, command, on_step), kill=Kill(step), watch=watch)
        if not ended.was_killed:
            found.append(f"was not killed: {ended.error or ended.value}")
        found += self._wrong(place, step)
        if repetition % 2:
            kill = Kill("operation", rng.randint(1, 6))
            in_fork(lambda: act(place, command), kill=kill, watch=file_operations)
            found += self._wrong(place, f"{step}, then {kill}")
        ended = in_fork(lambda: act(place, command))
        if not ended.has_worked:
            return [*found, f"nothing serves after the kill: {ended.error}"]
        if not (ended.value == serving_bytes(place / "vehicle") == goal):
            found.append(f"at the end {ended.value} serves, must be {goal}")
        shutil.rmtree(place)
        return found

    def _wrong(self, place: Path, when: str) -> list[str]:
        from tests.checker.model_slots import serving_bytes

        try:
            held = serving_bytes(place / "vehicle")
        except (OSError, ValueError, KeyError) as error:
            return [f"after the kill at {when} no model is named: {error!r}"]
        return [] if held in self.models.values() else [f"after the kill at {when} the slot holds {held}"]


def run(batch: Batch) -> Tally:
    """See `Fault.run`."""
    tally = Tally()
    warm()
    scene = Scene(batch.folder)
    for number in batch.numbers():
        tally.judge(scene.attack(number, batch.rng(number)), f"try {number} {STEPS[number % len(STEPS)]}")
    return tally

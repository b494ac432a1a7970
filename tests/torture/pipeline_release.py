"""The signed repository's writer killed at a labelled step, and run again: a foreign TUF client reads old or new, whole."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_fork import Ended, Hook, Kill, file_operations, in_fork, must

RELEASE, START, HALT, REFRESH, ROTATE, ROTATE_MODELS = (
    "release", "start", "halt", "refresh", "rotate-timestamp", "rotate-models"
)  # fmt: skip
_TRANSACTION = ("targets", "role", "snapshot", "timestamp")
STEPS = (
    *((RELEASE, step) for step in _TRANSACTION),
    *((START, step) for step in _TRANSACTION),
    *((HALT, step) for step in _TRANSACTION),
    (REFRESH, "timestamp"),
    *((ROTATE, step) for step in ("root-both", "snapshot", "timestamp", "republished")),
    *((ROTATE_MODELS, step) for step in ("snapshot", "timestamp")),
)
BEFORE = {RELEASE: "one-release", START: "one-release", HALT: "running", REFRESH: "running",
          ROTATE: "running", ROTATE_MODELS: "running"}  # fmt: skip
FLEET = [f"car-{number}" for number in range(6)]


def warm() -> None:
    """Import what the forks need, and start nothing."""
    import tuf.ngclient

    import rollout.service
    import tests.checker.tuf_client
    import tests.rollout.rollout_lab

    _ = (tuf, rollout, tests)


def repository(folder: Path, on_step: Hook | None = None) -> Any:
    """The writer's view of the repository in `folder`."""
    from rollout.repository import Repository

    return Repository(folder / "tuf", folder / "keys", on_step=on_step)


def service(folder: Path, on_step: Hook | None = None) -> Any:
    from foundation.clock import SystemClock
    from rollout.service import RolloutService

    return RolloutService(repository(folder, on_step), folder / "rollouts", SystemClock())


def release(folder: Path, release_id: str, on_step: Hook | None = None) -> str:
    """Publish a release of a tiny model, in this process."""
    from foundation.clock import SystemClock
    from rollout.release import GateReport, publish_release
    from tests.fakes.models import tiny_contract, tiny_model

    seed = sum(release_id.encode())
    data = tiny_model(tiny_contract(name=release_id), seed=seed)
    done = publish_release(
        repository(folder, on_step), data, GateReport(True, ""), SystemClock(), release_id=release_id
    )
    return str(done.release_id)


def work(folder: Path, command: str, on_step: Hook | None = None) -> Any:
    """One writer's command, as often as it takes; a command that finds its work done says so and ends."""
    from foundation.errors import RejectedError

    if command == RELEASE:
        return release(folder, "r2", on_step)
    if command == START:
        try:
            return service(folder, on_step).start("r1", "1,2,rest", FLEET).plan_id
        except RejectedError as error:
            if error.reason == "rollout_running":  # the run that was killed had published it
                return service(folder).current().plan_id
            raise
    if command == HALT:
        return service(folder, on_step).halt("because").plan_id
    if command == REFRESH:
        return repository(folder, on_step).refresh()
    return repository(folder, on_step).rotate_key("models" if command == ROTATE_MODELS else "timestamp")


class Scene:
    """Repositories in the states that commands begin with, and what a client reads of each before and after."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bases = {name: folder / name for name in ("one-release", "running")}
        must(lambda: self._prepare(self.bases["one-release"]))
        shutil.copytree(self.bases["one-release"], self.bases["running"])
        must(lambda: work(self.bases["running"], START))
        self.read = {name: self.seen(base) for name, base in self.bases.items()}
        self.times: dict[str, dict[str, int]] = {}

    def _prepare(self, base: Path) -> None:
        from rollout.repository import init_repository

        base.mkdir()
        init_repository(base / "tuf", base / "keys")
        release(base, "r1")
        (base / "first.root.json").write_bytes(repository(base).root_bytes(1))

    def seen(self, place: Path, client: str = "") -> Any:
        """Target names and hashes, as a client with its own folder sees them; raises what it raises."""
        from tests.checker.tuf_client import read_targets

        root = (place / "first.root.json").read_bytes()
        folder = place / "clients" / (client or "new")
        if not client:
            shutil.rmtree(folder, ignore_errors=True)
        return must(lambda: read_targets(place / "tuf", folder, root)).value

    def attack(self, number: int, rng: random.Random) -> list[str]:
        """Kill at the step of this number, every other time again at any file operation of the second run."""
        command, step = STEPS[number % len(STEPS)]
        repetition = number // len(STEPS)
        place = self.folder / f"try-{number}"
        shutil.copytree(self.bases[BEFORE[command]], place)
        old = self.read[BEFORE[command]]
        self.seen(place, "old")  # a client that was there before
        found: list[str] = []
        kills: list[tuple[Kill, Any]] = [(Kill(step), partial(_steps, place, command))]
        if repetition % 2:
            kills.append((Kill("operation", rng.randint(1, 12)), None))
        if repetition == 4:
            kills.insert(0, (Kill("operation", rng.randint(1, 12)), None))
        states = [old]
        for position, (kill, stepped) in enumerate(kills):
            if stepped is not None:
                ended = stepped(kill)
                is_needed = repetition != 4 or position == 0
                if not ended.was_killed and is_needed:
                    found.append(f"was not killed at {kill}: {ended.error or ended.value}")
            else:
                in_fork(lambda: work(place, command), kill=kill, watch=file_operations)
            states.append(self._readable(place, f"after the kill at {kill}", found))
        ended = in_fork(lambda: work(place, command))
        if not ended.has_worked:
            return [*found, f"{command} after the kill failed: {ended.error}"]
        new = self._readable(place, "at the end", found)
        for state in states:
            if state not in (old, new):
                found.append(f"a client read neither the old nor the new state: {state}")
        if command in (RELEASE, START, HALT) and new == old:
            found.append("at the end nothing new is published")
        if command == RELEASE and "models/r2.onnx" not in new:
            found.append("at the end the release is not there")
        if command in (START, HALT) and not found:
            found += self._state_wrong(place, "halted" if command == HALT else "running")
        shutil.rmtree(place)
        return found

    def _readable(self, place: Path, when: str, found: list[str]) -> Any:
        """Both clients read the same, the one that was there before and the one that begins now."""
        try:
            one, other = self.seen(place, "old"), self.seen(place)
        except RuntimeError as error:
            found.append(f"{when} a client cannot read the repository: {error}")
            return {}
        if one != other:
            found.append(f"{when} two clients read different things")
        return one

    def _state_wrong(self, place: Path, state: str) -> list[str]:
        """The newest plan is in this state, there is one only, and the service still knows its waves."""
        from tests.checker.tuf_client import read_index

        root = (place / "first.root.json").read_bytes()
        plans = must(
            lambda: read_index(place / "tuf", place / "clients" / "old", root, "rollouts/index.json")
        ).value
        found = [] if [plan["state"] for plan in plans] == [state] else [f"plans are {plans}"]
        known = must(lambda: service(place).state_of(service(place).current()) is not None).value
        return found + ([] if known else ["the service does not know the waves of its plan"])


@contextmanager
def stepping() -> Iterator[tuple[Any, Hook]]:
    """A watch for a fork, and the `on_step` to give to what tells its steps there."""
    told: list[Hook] = []

    @contextmanager
    def watch(hook: Hook) -> Iterator[None]:
        told.append(hook)
        yield

    yield watch, lambda label: told[0](label)


def _steps(place: Path, command: str, kill: Kill) -> Ended:
    """The command in a fork whose repository tells its steps to the kill."""
    with stepping() as (watch, on_step):
        return in_fork(lambda: work(place, command, on_step), kill=kill, watch=watch)


def run(batch: Batch) -> Tally:
    """See `Fault.run`."""
    tally = Tally()
    warm()
    scene = Scene(batch.folder)
    for number in batch.numbers():
        tally.judge(scene.attack(number, batch.rng(number)), f"try {number} {STEPS[number % len(STEPS)]}")
    return tally

"""A vehicle that takes in a model (or gives one back, or is enrolled) on a tape, and its start after a power loss."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.models.slots import SlotFolder, install_initial
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import write_vehicle
from modelkit.runtime import Backend
from tests.checker.power_states import judge_slots, timestamp_version
from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.models.test_slots_serving import DARK, FRAME, PickyBackend, nan_when_dark
from tests.fakes.models import FakeBackend
from tests.torture.power_disk import PowerLossDisk
from tests.torture.power_strace import read_log, traced_child
from tests.torture.power_tape import Tape

STORIES = ("swap", "rollback", "enrolment")
PROBATION_FRAMES = 6


@dataclass(frozen=True, slots=True)
class Story:
    """What a vehicle went through: the tape, the disk before it, and the model that must serve in the end."""

    name: str
    tape: Tape
    disk: PowerLossDisk
    bench: Bench
    final: str


def record_story(name: str, folder: Path) -> Story:
    """Prepare a vehicle, then let a traced child of this process live through the story."""
    bench = Bench(folder)
    told = folder / "told"
    told.touch()
    if name == "enrolment":
        bench.state = folder / "enrolled"
        bench.slots = SlotFolder(bench.state)
        bench.state.mkdir()
    else:
        bench.release("r2", 2)
        bench.plan("r2")
        if name == "rollback":
            bench.run(bench.fetcher())
            serve(bench, backend(name), PROBATION_FRAMES, poll=True)
            bench.release("r3", 3)
            bench.plan("r3")
    disk = PowerLossDisk(bench.state)
    log = folder / "strace"
    status = traced_child(lambda: _live(name, bench, told), log)
    if status:
        raise RuntimeError(f"{name}: status {status}: {log.with_suffix('.error').read_text()[-800:]}")
    tape = Tape(bench.state)
    tape.steps = list(read_log(log, disk, told))
    final = {"swap": "r2", "rollback": "r2", "enrolment": "v1"}[name]
    return Story(name, tape, disk, bench, final)


def backend(name: str) -> Backend:
    """In the story of the rollback, the third model gives no finite answer in the dark."""
    return PickyBackend(r3=nan_when_dark) if name == "rollback" else FakeBackend()


def _live(name: str, bench: Bench, told: Path) -> None:
    tell = _Teller(told)
    if name == "enrolment":
        enrol(bench)
        tell("serves", bench.serving(FakeBackend()).digest)
        return
    serving = bench.serving(backend(name))
    tell("serves", serving.digest)
    offered = {"swap": "r2", "rollback": "r3"}[name]
    digest = next(one.model_digest for one in bench.releases if one.release_id == offered)
    tell("may", digest)
    bench.run(bench.fetcher())
    tell("timestamp", str(timestamp_version(bench.state)))
    serving.poll()
    tell("serves", serving.digest)
    if name == "rollback":
        tell("may", next(one.model_digest for one in bench.releases if one.release_id == "r2"))
    for _ in range(PROBATION_FRAMES):
        serving.predict([DARK])
    tell("serves", serving.digest)
    bench.run(bench.fetcher())
    tell("timestamp", str(timestamp_version(bench.state)))


class _Teller:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND)

    def __call__(self, *words: str) -> None:
        os.write(self._fd, (" ".join(words) + "\n").encode())


def enrol(bench: Bench) -> None:
    """As `fleetloop agent enrol` does on the vehicle, in its order."""
    bench.state.mkdir(exist_ok=True)
    TrustFolder(bench.state).install(bench.repository.root_bytes())
    install_initial(bench.state, bench.factory_bytes, bench.clock)
    write_vehicle(bench.state, bench.vehicle)


def serve(bench: Bench, model_backend: Backend, frames: int, *, poll: bool) -> tuple[str, str, bool]:
    """Start perceive's model and ask it: digest at the start, name in the end, whether every answer was finite."""
    serving = bench.serving(model_backend)
    first = serving.digest
    if poll:
        serving.poll()
    answers = [serving.predict([DARK if number % 2 else FRAME]).predictions[0] for number in range(frames)]
    return first, serving.name, all(answer.is_finite for answer in answers)


@dataclass(slots=True)
class Allowed:
    """Which models may serve after these marks, and which timestamp was taken in."""

    digests: set[str]
    timestamp: int = 0


def allowed_by(marks: Sequence[tuple[Any, ...]]) -> Allowed:
    """From the marks of a story."""
    allowed = Allowed(set())
    for (line,) in marks:
        word, _, rest = line.partition(" ")
        if word == "serves":
            allowed.digests = {rest}
        elif word == "may":
            allowed.digests.add(rest)
        elif word == "timestamp":
            allowed.timestamp = max(allowed.timestamp, int(rest))
    return allowed


def start_and_judge(story: Story, state: Path, allowed: Allowed) -> list[str]:
    """Start the vehicle on `state`, then let it finish what it was at."""
    bench = copy.copy(story.bench)
    bench.state, bench.slots = state, SlotFolder(state)
    if story.name == "enrolment" and not allowed.digests:
        return _guarded("cannot_be_enrolled_again", lambda: _enrol_again(bench))
    return _guarded("not_up", lambda: _go_on(story, bench, allowed))


def _guarded(rule: str, work: Callable[[], list[str]]) -> list[str]:
    try:
        return work()
    except Exception as error:
        return [f"{rule}: {type(error).__name__}: {error}"]


def _enrol_again(bench: Bench) -> list[str]:
    enrol(bench)
    digest, _, is_finite = serve(bench, FakeBackend(), 2, poll=False)
    factory = bench.slots.read_factory().digest
    return judge_slots(bench.state, serving=digest, allowed={factory}, timestamp=0, is_finite=is_finite)


def _go_on(story: Story, bench: Bench, allowed: Allowed) -> list[str]:
    digest, _, is_finite = serve(bench, backend(story.name), 2, poll=False)
    broken = judge_slots(
        bench.state,
        serving=digest,
        allowed=allowed.digests,
        timestamp=allowed.timestamp,
        is_finite=is_finite,
    )
    if story.name == "enrolment":
        return broken
    said = ""
    for _ in range(3):
        for step in bench.run(bench.fetcher()):
            if step.outcome == "failed":
                said = step.detail
            bench.clock.advance(step.wait_s)
        _, name, is_finite = serve(bench, backend(story.name), PROBATION_FRAMES, poll=True)
        broken += [] if is_finite else ["no_answer: after the next fetch"]
    if name != story.final:
        broken.append(f"did_not_go_on: {name} serves in the end, not {story.final}; last failure {said!r}")
    return broken

"""Two writers at once on the signed repository: both are in it, or one is refused by name; a foreign client reads it whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_fork import must
from tests.torture.pipeline_release import Scene, release, repository, service, warm, work
from tests.torture.writers_pair import at_once

PAIRS: tuple[tuple[str, str], ...] = (
    ("release r2", "release r3"),
    ("release r2", "release r2"),
    ("start", "start"),
    ("release r2", "start"),
    ("halt", "halt"),
    ("halt", "hold-out"),
    ("refresh", "release r2"),
    ("rotate-models", "release r2"),
    ("rotate-timestamp", "refresh"),
    ("rotate-timestamp", "start"),
)
NEEDS_RUNNING = ("halt", "hold-out")


def act(place: Path, command: str) -> Callable[[Callable[[], object]], Any]:
    """The command for `at_once`."""

    def do(ready: Callable[[], object]) -> Any:
        repository(place)
        ready()
        if command.startswith("release "):
            return release(place, command.split()[1])
        if command == "start":
            return service(place).start("r1", "1,2,rest", ["car-0", "car-1", "car-2", "car-3"]).plan_id
        if command == "hold-out":
            return service(place).hold_out("car-late")
        return work(place, command)

    return do


def attack(scene: Scene, number: int, tally: Tally) -> list[str]:
    """One pair at once, on a fresh copy; then what a foreign client reads."""
    pair = PAIRS[number % len(PAIRS)]
    place = scene.folder / f"pair-{number}"
    base = "running" if any(each in NEEDS_RUNNING for each in pair) else "one-release"
    shutil.copytree(scene.bases[base], place)
    scene.seen(place, "old")
    ended = at_once(*(act(place, each) for each in pair))
    tally.count("refused_by_name", ended.refused)
    found = ended.wrong()
    if pair == ("start", "start") and ended.refused != 1:
        found.append(f"{2 - ended.refused} rollouts were started at once")
    if pair != ("start", "start") and ended.refused:
        found.append(f"refused: {[each.error for each in ended.ends]}")
    try:
        old, new = scene.seen(place, "old"), scene.seen(place)
    except RuntimeError as error:
        return [*found, f"a client cannot read the repository: {error}"]
    if old != new:
        found.append("two clients read different things")
    for each in pair:
        if each.startswith("release ") and f"models/{each.split()[1]}.onnx" not in new:
            found.append(f"{each} ended well and is not published")
    if "start" in pair or base == "running":
        try:
            found += _plans_wrong(scene, place, pair)
        except RuntimeError as error:
            found.append(f"the plans cannot be read: {error}")
    shutil.rmtree(place)
    return found


def _plans_wrong(scene: Scene, place: Path, pair: tuple[str, str]) -> list[str]:
    from tests.checker.tuf_client import read_index

    root = (place / "first.root.json").read_bytes()
    plans = must(
        lambda: read_index(place / "tuf", place / "clients" / "old", root, "rollouts/index.json")
    ).value
    found = []
    if len(plans) != 1:
        found.append(f"there are {len(plans)} plans")
    if "halt" in pair and plans[0]["state"] != "halted":
        found.append(f"the plan is {plans[0]['state']} after a halt")
    known = must(lambda: service(place).state_of(service(place).current()) is not None).value
    return found + ([] if known else ["the service does not know the waves of its plan"])


def run(batch: Batch) -> Tally:
    """See `Fault.run`."""
    tally = Tally()
    warm()
    scene = Scene(batch.folder)
    for number in batch.numbers():
        tally.judge(attack(scene, number, tally), f"try {number} {PAIRS[number % len(PAIRS)]}")
    return tally

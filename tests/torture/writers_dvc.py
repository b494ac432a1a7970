"""Two writers at once on a workspace's git and DVC: one waits or is refused by name; every version is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_commit import PLACE, Scene, relabel, remote_of, versions, wrong
from tests.torture.pipeline_fork import must
from tests.torture.topic_broker import warm
from tests.torture.writers_pair import at_once
from tests.waiting import until

COMMIT = "commit"
BESIDE = (COMMIT, "impatient commit", "curate", "lock and curate", "impatient curate", "curate at will")
"""What runs beside a commit. Each curate makes another dataset than the one that is committed: `curate` has built it and
puts it in its place, `lock and curate` begins, when the commit has reached a step; `curate at will` waits for nothing."""
STEPS = ("dataset.pin", "dataset.dvc", "dataset.record")
WAIT_S = 60.0


def act(folder: Path, command: str, step: str) -> Callable[[Callable[[], object]], Any]:
    """The command for `at_once`."""

    def do(ready: Callable[[], object]) -> Any:
        from workspace.layout import Workspace

        workspace = Workspace.open(folder / PLACE)
        if command.startswith("impatient"):
            workspace = Workspace(workspace.root, replace(workspace.settings, lock_wait_s=0.0))
        if command.endswith(COMMIT):
            return _commit(workspace, command, folder, ready)
        return _curate(workspace, command, folder / step, ready)

    return do


def _commit(workspace: Any, message: str, folder: Path, ready: Callable[[], object]) -> list[Any]:
    from pipelines.dataset.versions import commit_version
    from pipelines.steps import watched

    ready()
    with watched(lambda label: (folder / label).touch()):
        version, is_new = commit_version(workspace, message)
    return [version.id, is_new]


def _curate(workspace: Any, command: str, begun: Path, ready: Callable[[], object]) -> str:
    """Other answers for some frames, then a dataset of them."""
    from pipelines.dataset.lock import write_lock
    from pipelines.dataset.make import curate
    from pipelines.steps import watched

    def built(label: str) -> None:
        """`lake.lock` is put back, so that the commit finds the dataset that it was made for."""
        if label == "curate.built":
            workspace.lake_lock_path.write_bytes(old)
            ready()
            _await(begun)

    relabel(workspace)
    old = workspace.lake_lock_path.read_bytes()
    if command in ("lock and curate", "curate at will"):
        ready()
        if command == "lock and curate":
            _await(begun)
        write_lock(workspace)
        return str(curate(workspace).manifest["digest"])
    write_lock(workspace)
    with watched(built):
        return str(curate(workspace).manifest["digest"])


def _await(file: Path) -> None:
    until(file.exists, f"the commit reaches {file.name}", WAIT_S, poll_s=0.002)


def attack(scene: Scene, number: int, tally: Tally) -> list[str]:
    """One pair at once, on a fresh copy; then every version from git and the remote."""
    beside, step = BESIDE[number % len(BESIDE)], STEPS[number // len(BESIDE) % len(STEPS)]
    place = scene.folder / f"pair-{number}"
    shutil.copytree(scene.base, place, symlinks=True)
    ended = at_once(act(place, COMMIT, step), act(place, beside, step))
    tally.count("refused_by_name", ended.refused)
    tally.count("waited", 2 - ended.refused)
    found = ended.wrong()
    if beside.endswith(COMMIT):
        found += wrong(place, ["v1"], scene.digest)
    else:
        found += _beside_curate(scene, place, beside, bool(ended.ends[0].error))
    shutil.rmtree(place)
    return found


def _beside_curate(scene: Scene, place: Path, beside: str, was_refused: bool) -> list[str]:
    """The commit has the old dataset or the new one, whole; the new one is in its place; both can be committed."""
    from tests.checker.dataset_files import committed_version, rows_digest, torn

    found = []
    current = place / PLACE / "datasets" / "current"
    if was_refused and beside != "curate at will":
        found.append("the commit was refused, the curate came later")
    held = versions(place)
    expected = [] if was_refused else ["v1"]
    if held != {"records": expected, "tags": [f"dataset/{each}" for each in expected]}:
        found.append(f"records and tags are {held}, must be of {expected}")
    into = place / "before"
    for each in held["tags"]:
        name = each.removeprefix("dataset/")
        found += must(lambda n=name: committed_version(place / PLACE, n, remote_of(place), into)).value
    found += must(lambda: torn(current)).value
    if found:
        return found
    first = must(lambda: rows_digest(into)).value if expected else ""
    now = must(lambda: rows_digest(current)).value
    if first and beside != "curate at will" and first != scene.digest:
        found.append("the version has other rows than the dataset that was there when the commit began")
    if (now == scene.digest) != (beside == "impatient curate"):
        found.append(f"after {beside} the dataset is {now}, before it was {scene.digest}")
    new = must(lambda: _lock_curate_commit(place), limit_s=300.0).value
    return found + wrong(place, ["v1"] if first in ("", new) else ["v1", "v2"], new)


def _lock_curate_commit(place: Path) -> str:
    """All of it, undisturbed; the checker's digest of the dataset."""
    from pipelines.dataset.lock import write_lock
    from pipelines.dataset.make import curate
    from pipelines.dataset.versions import commit_version
    from tests.checker.dataset_files import rows_digest
    from workspace.layout import Workspace

    workspace = Workspace.open(place / PLACE)
    write_lock(workspace)
    curate(workspace)
    commit_version(workspace, "afterwards")
    return rows_digest(workspace.dataset_path)


def run(batch: Batch) -> Tally:
    """See `Fault.run`."""
    import pipelines.dataset.versions
    import services.init

    _ = (services, pipelines)
    tally = Tally()
    warm()
    scene = Scene(batch.folder)
    for number in batch.numbers():
        tally.judge(
            attack(scene, number, tally), f"try {number} commit beside {BESIDE[number % len(BESIDE)]}"
        )
    return tally

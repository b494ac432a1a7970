"""A dataset commit killed at a labelled step, and run again: one version, whole in git and in DVC's remote."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_fork import Kill, in_fork, must, pipeline_steps
from tests.torture.topic_broker import warm

STEPS = tuple(f"dataset.{word}" for word in ("pin", "dvc", "record", "tag", "push"))
PLACE = "fleet"


def prepare(folder: Path) -> None:
    """A workspace with git, DVC and a curated dataset that was never committed. In a fork."""
    import pyarrow as pa

    from connectors.lake.schema import ARRIVALS, LABELS
    from connectors.lake.table import LakeTable
    from pipelines.dataset.lock import write_lock
    from pipelines.dataset.make import curate
    from services.init import make_workspace
    from tests.pipelines.curate_lake import CLASSES, fleet_rows, label_rows

    workspace = make_workspace(folder / PLACE, classes=CLASSES, with_keys=False)
    rows = fleet_rows(6, 3)
    for name, schema, part in (("arrivals", ARRIVALS, rows), ("labels", LABELS, label_rows(rows))):
        LakeTable.create(workspace.lake_path / name, schema).append(pa.Table.from_pylist(part, schema))
    write_lock(workspace)
    curate(workspace)


def relabel(workspace: Any) -> None:
    """Other answers for some frames, but the same lock: the dataset changes only when the lock does. In a fork."""
    import pyarrow as pa

    from connectors.lake.schema import LABELS
    from connectors.lake.table import LakeTable
    from tests.pipelines.curate_lake import fleet_rows, label_rows

    rows = [row | {"class_name": "yellow", "labelled_time_ns": 99} for row in label_rows(fleet_rows(2, 3))]
    LakeTable.open(workspace.labels_uri).append(pa.Table.from_pylist(rows, LABELS))


def another_dataset(folder: Path) -> str:
    """Relabel, lock and curate, in a fork; the checker's digest of what is there now."""
    from pipelines.dataset.lock import write_lock
    from pipelines.dataset.make import curate
    from tests.checker.dataset_files import rows_digest
    from workspace.layout import Workspace

    workspace = Workspace.open(folder / PLACE)
    relabel(workspace)
    write_lock(workspace)
    curate(workspace)
    return rows_digest(workspace.dataset_path)


def commit(folder: Path, message: str = "first") -> str:
    """The product's commit, in this process; the version's id."""
    from pipelines.dataset.versions import commit_version
    from workspace.layout import Workspace

    version, is_new = commit_version(Workspace.open(folder / PLACE), message)
    return f"{version.id} {'new' if is_new else 'known'}"


def remote_of(folder: Path) -> Path:
    """Where DVC pushes."""
    return folder / f"{PLACE}.dvc-remote"


def versions(folder: Path) -> dict[str, list[str]]:
    """Ids of the records on disk, and of git's tags."""
    from tests.checker.dataset_files import git

    root = folder / PLACE
    records = sorted(path.stem for path in (root / "registry" / "datasets").glob("v*.json"))
    return {"records": records, "tags": git(root, "tag", "--list").split()}


def wrong(folder: Path, expected: list[str], digest: str) -> list[str]:
    """Every way in which the committed versions are not exactly `expected`, whole, the last with the rows `digest`."""
    from tests.checker.dataset_files import committed_version, git, rows_digest

    found = []
    held = versions(folder)
    if held != {"records": expected, "tags": [f"dataset/{each}" for each in expected]}:
        found.append(f"records and tags are {held}, must be of {expected}")
    for each in expected:
        into = folder / f"fetched-{each}"
        shutil.rmtree(into, ignore_errors=True)
        found += must(lambda e=each, i=into: committed_version(folder / PLACE, e, remote_of(folder), i)).value
    if not found and must(lambda: rows_digest(folder / f"fetched-{expected[-1]}")).value != digest:
        found.append(f"the files of {expected[-1]} have other rows than the dataset that was committed")
    dirty = git(folder / PLACE, "status", "--porcelain").strip()
    if dirty:
        found.append(f"git is not clean: {dirty[:300]}")
    pins = [path.stem for path in (folder / PLACE / "lake" / "pins").glob("*.json")]
    if pins and sorted(pins) != expected:
        found.append(f"pins are {pins}")
    return found


class Scene:
    """A prepared workspace, to be copied for each try."""

    def __init__(self, folder: Path) -> None:
        from tests.checker.dataset_files import rows_digest

        self.folder = folder
        self.base = folder / "base"
        must(lambda: prepare(self.base))
        self.digest = must(lambda: rows_digest(self.base / PLACE / "datasets" / "current")).value

    def attack(self, number: int) -> list[str]:
        """Kill at the step of this number; every other repetition also at a step of the second run.

        In each fifth, what was cut before its tag is never finished: another dataset takes its place.
        """
        label, repetition = STEPS[number % len(STEPS)], number // len(STEPS)
        place = self.folder / f"try-{number}"
        shutil.copytree(self.base, place, symlinks=True)
        found = []
        kills = [label]
        if repetition % 2:
            kills.append(STEPS[(number + repetition) % len(STEPS)])
        for kill in kills:
            ended = in_fork(lambda: commit(place), kill=Kill(kill), watch=pipeline_steps)
            if not ended.was_killed:
                found.append(f"was not killed at {kill}: {ended.error or ended.value}")
            tagged = versions(place)["tags"]
            if tagged and kill in STEPS[:3] and kills.index(kill) == 0:
                found.append(f"killed at {kill}, tags are {tagged}")
        digest = self.digest
        if repetition % 5 == 4 and label in STEPS[:3]:
            digest = must(lambda: another_dataset(place)).value
        ended = in_fork(lambda: commit(place))
        if not ended.has_worked:
            return [*found, f"the commit after the kill failed: {ended.error}"]
        found += wrong(place, ["v1"], digest)
        shutil.rmtree(place)
        return found


def record_of(folder: Path, version: str) -> dict[str, Any]:
    """The record of a version as git's tag holds it."""
    said = subprocess.run(
        ["git", "show", f"dataset/{version}:registry/datasets/{version}.json"],
        cwd=folder / PLACE, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(said.stdout))


def run(batch: Batch) -> Tally:
    """See `Fault.run`."""
    import pipelines.dataset.versions
    import services.init

    _ = (services, pipelines)
    tally = Tally()
    warm()
    scene = Scene(batch.folder)
    for number in batch.numbers():
        tally.judge(scene.attack(number), f"try {number} {STEPS[number % len(STEPS)]}")
    return tally

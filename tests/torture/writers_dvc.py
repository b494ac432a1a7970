"""Two writers at once on a workspace's git and DVC: one waits or is refused by name; every version is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_commit import PLACE, Scene, remote_of, versions
from tests.torture.pipeline_fork import must
from tests.torture.topic_broker import warm
from tests.torture.writers_pair import at_once

PAIRS = (("commit", "commit"), ("commit", "impatient commit"), ("commit", "curate"))


def act(folder: Path, command: str) -> Callable[[Callable[[], object]], Any]:
    """The command for `at_once`. `curate` makes another dataset: its lock names late rows."""

    def do(ready: Callable[[], object]) -> Any:
        from connectors.workspace import Workspace
        from pipelines.curate.run import curate
        from pipelines.dataset.versions import commit_version

        workspace = Workspace.open(folder / PLACE)
        if command.startswith("impatient"):
            workspace = Workspace(workspace.root, replace(workspace.settings, lock_wait_s=0.0))
        ready()
        if command == "curate":
            return str(curate(workspace).manifest["digest"])
        version, is_new = commit_version(workspace, command)
        return [version.id, is_new]

    return do


def relabel(folder: Path) -> None:
    """Other answers for some frames, but the same lock: the dataset changes only when the lock does. In a fork."""
    import pyarrow as pa

    from connectors.lake import LakeTable
    from connectors.lake_schema import LABELS
    from connectors.workspace import Workspace
    from tests.pipelines.curate_lake import fleet_rows, label_rows

    workspace = Workspace.open(folder / PLACE)
    rows = [row | {"class_name": "yellow", "labelled_time_ns": 99} for row in label_rows(fleet_rows(2, 3))]
    LakeTable.open(workspace.labels_uri).append(pa.Table.from_pylist(rows, LABELS))


def attack(scene: Scene, number: int, tally: Tally) -> list[str]:
    """One pair at once, on a fresh copy; then every version from git and the remote."""
    from tests.checker.dataset_files import committed_version

    pair = PAIRS[number % len(PAIRS)]
    place = scene.folder / f"pair-{number}"
    shutil.copytree(scene.base, place, symlinks=True)
    ended = at_once(*(act(place, each) for each in pair))
    tally.count("refused_by_name", ended.refused)
    tally.count("waited", 2 - ended.refused)
    found = ended.wrong()
    held = versions(place)
    if held != {"records": ["v1"], "tags": ["dataset/v1"]}:
        found.append(f"records and tags are {held}")
    for each in held["records"]:
        into = place / f"fetched-{each}"
        found += must(lambda e=each, i=into: committed_version(place / PLACE, e, remote_of(place), i)).value
    shutil.rmtree(place)
    return found


def run(batch: Batch) -> Tally:
    """See `Fault.run`."""
    import fleetloop.commands.init
    import pipelines.dataset.versions

    _ = (fleetloop, pipelines)
    tally = Tally()
    warm()
    scene = Scene(batch.folder)
    for number in batch.numbers():
        tally.judge(attack(scene, number, tally), f"try {number} {PAIRS[number % len(PAIRS)]}")
    return tally

"""Lock the lake, re-run stages whose inputs changed, and commit, list, compare and fetch dataset versions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.lake.lock import LockedTable
from foundation.errors import MisconfiguredError
from pipelines.dataset.diff import DatasetDiff
from pipelines.dataset.diff import diff as compare
from pipelines.dataset.dvc import DvcRepository
from pipelines.dataset.lock import write_lock
from pipelines.dataset.manifest import read_manifest, read_rows, task_of
from pipelines.dataset.record import stage_states
from pipelines.dataset.versions import (
    Version,
    checkout_version,
    commit_version,
    find_version,
    list_versions,
)
from workspace.layout import Workspace

__all__ = [
    "Committed",
    "Locked",
    "Version",
    "checkout_version",
    "commit",
    "diff",
    "find_version",
    "list_versions",
    "lock",
    "repro",
]

CURRENT = "current"
"""The name of datasets/current for `diff`."""


@dataclass(frozen=True, slots=True)
class Locked:
    """lake.lock: the version of every table, and whether the file changed."""

    tables: Mapping[str, LockedTable]
    is_changed: bool


@dataclass(frozen=True, slots=True)
class Committed:
    """A dataset version, new or found unchanged, and the state of each stage of dvc.yaml."""

    version: Version
    is_new: bool
    stages: Mapping[str, str]


def lock(place: Workspace) -> Locked:
    """Write lake.lock from the newest version of every table. Raises MisconfiguredError without a lake."""
    return Locked(*write_lock(place))


def repro(
    place: Workspace, stages: Sequence[str] = (), on_line: Callable[[str], object] | None = None
) -> None:
    """Re-run the stages whose inputs changed, and no others; `on_line` is called with each line of their output."""
    DvcRepository(place).repro(*stages, on_line=on_line)


def commit(place: Workspace, message: str, *, is_pushed: bool = True) -> Committed:
    """Commit datasets/current as the next version, with all outputs of the stages so far. See `commit_version`."""
    version, is_new = commit_version(place, message, push=is_pushed)
    return Committed(version, is_new, stage_states(DvcRepository(place)))


def diff(place: Workspace, before: str, after: str) -> DatasetDiff:
    """Compare two versions (vN, latest, or current for datasets/current) row by row."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [
            place.dataset_path if name == CURRENT else checkout_version(place, name, Path(folder) / str(i))
            for i, name in enumerate((before, after))
        ]
        tasks = [task_of(read_manifest(each)) for each in folders]
        if tasks[0] is not tasks[1]:
            raise MisconfiguredError(
                f"{before} is a dataset of {tasks[0].name}, {after} of {tasks[1].name}: their labels cannot be compared"
            )
        columns = ["payload_sha256", tasks[0].label_column, "split"]
        rows = [read_rows(each, columns) for each in folders]
    return compare(rows[0], rows[1], tasks[0])

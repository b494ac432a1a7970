"""Build the dataset of the locked lake versions and replace the previous one atomically.

The new dataset is built beside the old one and replaces it by a rename; a run that dies leaves the old one (or, between
two renames, none) and files that the next run removes. A second run waits for the lock, and so does a replacement while
the dataset is being committed. A dataset whose counts do not add up is refused.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from connectors.lake.lock import LakeLock, lock_json, read_lake_lock
from connectors.lake.table import Snapshot
from foundation.files import fsync_folder, write_json_atomic
from foundation.full_disk import naming_the_disk
from pipelines.curate.fragments import open_snapshots
from pipelines.curate.labels import label_text
from pipelines.curate.params import Params, load_params
from pipelines.curate.pipeline import WorkFolder
from pipelines.curate.row_states import KEPT, QUARANTINED, REMOVED
from pipelines.curate.run import remember, run_rows, working_folder
from pipelines.dataset.card import write_card
from pipelines.dataset.exclusive import dataset_lock
from pipelines.dataset.manifest import build_manifest, read_manifest
from pipelines.runner import RunnerSettings
from pipelines.steps import reached
from workspace.layout import Workspace

REMOVED_COLUMNS = (
    "payload_sha256",
    "identity",
    "reason",
    "reason_value",
    "match_sha256",
    "match_identity",
    "distance",
    "drive_id",
    "split",
    "source",
    "outcome",
)
"""What removed.parquet says of a row, before its label."""


@dataclass(frozen=True, slots=True)
class CurationResult:
    """The dataset's path and its manifest."""

    path: Path
    manifest: dict[str, object]


def curate(workspace: Workspace, runner: RunnerSettings | None = None) -> CurationResult:
    """Build `datasets/current` from the versions in lake.lock with the parameters in params.yaml.

    Raises:
        MisconfiguredError: no lake.lock, an unknown parameter, a recreated table, or no data.
        RetryLaterError: another run, or a commit, holds its lock for longer than lock_wait_s of fleetloop.toml.
        DiskError: the disk refuses; names the file or the workspace, and what is free. The old dataset is unchanged.
        PipelineFailedError: a step failed; the old dataset is unchanged.
    """
    params = load_params(workspace.params_path)
    lock = read_lake_lock(workspace.lake_lock_path)
    with naming_the_disk(workspace.root), working_folder(workspace, "curate") as work:
        snapshots = open_snapshots(workspace.lake_path, lock)
        run_rows(workspace, snapshots, params, work, runner or RunnerSettings(), with_shards=True)
        reached("curate.rows")
        staging = work.path / "dataset"
        manifest = _build(workspace, work, staging, params, lock, snapshots)
        reached("curate.built")
        remember(
            workspace, work, params
        )  # before the lock, so that a run that is refused there need not measure again
        with dataset_lock(workspace):
            _take_place(staging, workspace.dataset_path)
        reached("curate.placed")
    return CurationResult(workspace.dataset_path, manifest)


def _build(
    workspace: Workspace,
    work: WorkFolder,
    staging: Path,
    params: Params,
    lock: LakeLock,
    snapshots: dict[str, Snapshot],
) -> dict[str, object]:
    rows = pl.read_parquet(work.resolved)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    work.shards.rename(staging / "shards")
    removed = rows.filter(pl.col("state") == REMOVED).select(*REMOVED_COLUMNS, params.task.label_column)
    text = label_text(removed[params.task.label_column]).alias("text")
    removed = removed.sort([*REMOVED_COLUMNS, text]).rename({"source": "origin"})
    removed.write_parquet(staging / "removed.parquet", compression="zstd")
    quarantined = rows.filter(pl.col("state") == QUARANTINED).rename({"source": "origin"})
    hidden = [
        "fragment_id",
        "row",
        "embedding",
        "state",
        "shard",
        "reason",
        "reason_value",
        "match_sha256",
        "match_identity",
        "distance",
        "reference_origin",
        "unreadable",
        "label_identity",
        "ingest_time_ns",
    ]
    quarantined.drop(hidden, strict=False).sort("payload_sha256", "identity").write_parquet(
        staging / "quarantine.parquet", compression="zstd"
    )
    manifest = build_manifest(rows, staging, params, lock_json(lock), snapshots, workspace.settings)
    write_json_atomic(staging / "manifest.json", manifest)
    kept = rows.filter(pl.col("state") == KEPT)
    write_card(staging, manifest, kept, params.task)
    return read_manifest(staging)


def _take_place(staging: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    reached("curate.put_aside")
    try:
        staging.rename(place)
        fsync_folder(place.parent)
    except OSError:
        with suppress(OSError):  # the disk may refuse this, too: the next run finds what lies here
            if place.exists():
                place.rename(staging)
            if old.exists():
                old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)

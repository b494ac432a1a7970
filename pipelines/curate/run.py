"""Make the dataset of the locked lake, whole or not at all.

The new dataset is built beside the old one and takes its place by a rename; a run that dies in between leaves
the old one (or, for an instant, none) and work that the next run removes. Two runs at once: the second waits
for the lock; a dataset that is being committed is replaced after that. It refuses to write a dataset whose counts do not add up.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from connectors.lake.lock import LakeLock, lock_json, lock_of, read_lake_lock
from connectors.lake.schema import LABELS, TABLES
from connectors.lake.table import Snapshot
from foundation.errors import MisconfiguredError
from foundation.files import FileLock, fsync_folder, write_json_atomic
from pipelines.curate.fragments import open_snapshots, plan_fragments
from pipelines.curate.measure_cache import MeasureCache
from pipelines.curate.near_pairs import PAIR_SCHEMA
from pipelines.curate.params import Params, load_params
from pipelines.curate.pipeline import CurateRows, WorkFolder, WriteShards, fragments_of, write_plan
from pipelines.curate.quality import FEATURES
from pipelines.curate.resolve import KEPT, QUARANTINED, REMOVED
from pipelines.dataset.card import write_card
from pipelines.dataset.exclusive import dataset_lock
from pipelines.dataset.manifest import build_manifest
from pipelines.runner import RunnerSettings, run
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
    "class_name",
)


@dataclass(frozen=True, slots=True)
class CurationResult:
    """The dataset that was made, and the summary that its manifest holds."""

    path: Path
    manifest: dict[str, object]


def curate(workspace: Workspace, runner: RunnerSettings | None = None) -> CurationResult:
    """Make `datasets/current` from the versions in lake.lock, with the parameters in params.yaml.

    Raises:
        MisconfiguredError: no lake.lock, an unknown parameter, a table made anew, no table of frames.
        RetryLaterError: another run, or a commit, holds its lock for longer than fleetloop.toml's lock_wait_s.
        PipelineFailedError: a step failed; the old dataset is still there.
    """
    params = load_params(workspace.params_path)
    lock = read_lake_lock(workspace.lake_lock_path)
    with working_folder(workspace, "curate") as work:
        snapshots = open_snapshots(workspace.lake_path, lock)
        run_rows(workspace, snapshots, params, work, runner or RunnerSettings(), with_shards=True)
        reached("curate.rows")
        staging = work.path / "dataset"
        manifest = _build(workspace, work, staging, params, lock, snapshots)
        reached("curate.built")
        remember(
            workspace, work, params
        )  # before the lock: a run that is refused there need not measure again
        with dataset_lock(workspace):
            _take_place(staging, workspace.dataset_path)
        reached("curate.placed")
    return CurationResult(workspace.dataset_path, manifest)


def resolve_lake(workspace: Workspace, runner: RunnerSettings | None = None) -> tuple[pl.DataFrame, LakeLock]:
    """What would become of every row of the lake as it is now (not as locked): the rows of
    `resolve.resolve`."""
    from connectors.lake.table import LakeTable

    params = load_params(workspace.params_path)
    present = [name for name in TABLES if (workspace.lake_path / name / "_delta_log").is_dir()]
    lock = lock_of({name: LakeTable.open(workspace.lake_path / name) for name in present})
    with working_folder(workspace, "label") as work:
        snapshots = open_snapshots(workspace.lake_path, lock)
        run_rows(workspace, snapshots, params, work, runner or RunnerSettings(), with_shards=False)
        remember(workspace, work, params)
        return pl.read_parquet(work.resolved), lock


@contextmanager
def working_folder(workspace: Workspace, name: str) -> Iterator[WorkFolder]:
    """A fresh folder under .fleetloop/, removed at the end; what a dead run left is removed first."""
    workspace.private_path.mkdir(exist_ok=True)
    lock = FileLock(workspace.private_path / "curate.lock", wait_s=workspace.settings.lock_wait_s)
    with lock:
        work = WorkFolder(workspace.private_path / "work" / name)
        shutil.rmtree(work.path, ignore_errors=True)
        work.make()
        try:
            yield work
        finally:
            shutil.rmtree(work.path, ignore_errors=True)


def cache_of(workspace: Workspace) -> MeasureCache:
    """Where this workspace keeps what it measured."""
    return MeasureCache(workspace.private_path / "cache" / "curate")


def run_rows(
    workspace: Workspace,
    snapshots: dict[str, Snapshot],
    params: Params,
    work: WorkFolder,
    runner: RunnerSettings,
    *,
    with_shards: bool,
) -> None:
    """Run the pipeline over the snapshots. Afterwards the work folder holds resolved.parquet, and the
    shards."""
    fragments = plan_fragments(snapshots)
    if not fragments:
        raise MisconfiguredError(
            f"the lake {workspace.lake_path} has no frames at the locked versions: "
            "run `fleetloop ingest`, then `fleetloop dataset lock`"
        )
    labels = snapshots["labels"].read() if "labels" in snapshots else LABELS.empty_table()
    pl.DataFrame(pl.from_arrow(labels)).write_parquet(work.labels)
    write_plan(work, fragments)
    cache, blobs = cache_of(workspace), workspace.settings.blobs

    def build(pipeline: object) -> None:
        rows = fragments_of(pipeline, fragments) | "Curate" >> CurateRows(work, cache.folder, params, blobs)
        if with_shards:
            _ = rows | "WriteShards" >> WriteShards(work, params, blobs)

    run(build, runner)


def remember(workspace: Workspace, work: WorkFolder, params: Params) -> None:
    """Keep what this run measured, so that the next one measures only what is new."""
    cache = cache_of(workspace)
    frames = pl.read_ipc(work.path / "frames.arrow", columns=["payload_sha256"])
    bits = params.curate.near_duplicates.max_distance_bits
    _, compared = cache.read_pairs(bits)
    if not compared["payload_sha256"].sort().equals(frames["payload_sha256"].sort()):
        pairs = pl.read_parquet(work.path / "pairs.parquet").filter(pl.col("measure") == "hash")
        cache.write_pairs(bits, pairs.select(list(PAIR_SCHEMA)), frames)
    measured = pl.read_parquet(work.resolved, columns=["outcome", *FEATURES]).filter(
        (pl.col("outcome") == "landed") & pl.col("payload_bytes").is_not_null()
    )
    known = cache.read_features()
    fresh = measured.select(list(FEATURES)).join(known, on="payload_sha256", how="anti")
    if fresh.height:
        cache.write_features(pl.concat([known, fresh]))


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
    removed = rows.filter(pl.col("state") == REMOVED).select(REMOVED_COLUMNS).rename({"source": "origin"})
    removed.sort(removed.columns).write_parquet(staging / "removed.parquet", compression="zstd")
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
        "reference_class",
        "reference_origin",
        "unreadable",
    ]
    quarantined.drop(hidden, strict=False).sort("payload_sha256", "identity").write_parquet(
        staging / "quarantine.parquet", compression="zstd"
    )
    manifest = build_manifest(rows, staging, params, lock_json(lock), snapshots, workspace.settings)
    write_json_atomic(staging / "manifest.json", manifest)
    kept = rows.filter(pl.col("state") == KEPT)
    write_card(staging, manifest, kept)
    return json.loads(json.dumps(manifest))


def _take_place(staging: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    reached("curate.put_aside")
    staging.rename(place)
    fsync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)

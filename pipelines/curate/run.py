"""Run the curation pipeline over the lake, measure, compare, resolve, cut shards, in a work folder of its own.

A second run waits for the lock; what a killed run left is removed first. Measurements are kept for the next run.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl
import pyarrow as pa

from connectors.lake.lock import LakeLock, lock_of
from connectors.lake.schema import LABELS, TABLES
from connectors.lake.table import Snapshot
from foundation.errors import MisconfiguredError
from foundation.files import FileLock
from pipelines.curate.fragments import open_snapshots, plan_fragments, read_payloads
from pipelines.curate.measure_cache import MeasureCache
from pipelines.curate.near_pairs import PAIR_SCHEMA
from pipelines.curate.params import Params, load_params
from pipelines.curate.pipeline import CurateRows, WorkFolder, WriteShards, fragments_of, write_plan
from pipelines.curate.quality import FEATURES
from pipelines.runner import RunnerSettings, run
from workspace.layout import Workspace


def resolve_lake(workspace: Workspace, runner: RunnerSettings | None = None) -> tuple[pl.DataFrame, LakeLock]:
    """Return the rows of `resolve.resolve` for the lake as it is now (not as locked), and the versions that were read."""
    from connectors.lake.table import LakeTable

    params = load_params(workspace.params_path)
    present = [name for name in TABLES if (workspace.lake_path / name / "_delta_log").is_dir()]
    lock = lock_of({name: LakeTable.open(workspace.lake_path / name) for name in present})
    with working_folder(workspace, "label") as work:
        snapshots = open_snapshots(workspace.lake_path, lock)
        run_rows(workspace, snapshots, params, work, runner or RunnerSettings(), with_shards=False)
        remember(workspace, work, params)
        return pl.read_parquet(work.resolved), lock


def payloads_of(workspace: Workspace, lock: LakeLock, rows: pl.DataFrame) -> Iterator[tuple[str, bytes]]:
    """Yield (payload_sha256, payload) of `rows` of `resolve_lake` whose payload can be read, a row group in memory at a time.

    Bytes that are not what their row says are left out.
    """
    fragments = {each.fragment_id: each for each in plan_fragments(open_snapshots(workspace.lake_path, lock))}
    for (name,), part in rows.group_by("fragment_id", maintain_order=True):
        named = dict(part.select("row", "payload_sha256").iter_rows())
        for row, payload in read_payloads(fragments[str(name)], list(named), workspace.settings.blobs):
            if isinstance(payload, bytes) and hashlib.sha256(payload).hexdigest() == named[row]:
                yield named[row], payload


@contextmanager
def working_folder(workspace: Workspace, name: str) -> Iterator[WorkFolder]:
    """Create an empty folder under .fleetloop/, removed at the end; what a killed run left is removed first."""
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
    """Return the workspace's cache of measurements."""
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
    """Run the pipeline over the snapshots. Afterwards the work folder holds resolved.parquet and, if wanted, shards.

    Raises MisconfiguredError when the snapshots have no rows.
    """
    fragments = plan_fragments(snapshots)
    if not fragments:
        raise MisconfiguredError(
            f"the lake {workspace.lake_path} has no frames at the locked versions: "
            "run `fleetloop ingest`, then `fleetloop dataset lock`"
        )
    labels = [LABELS.empty_table(), *([snapshots["labels"].read()] if "labels" in snapshots else [])]
    every_column = pa.concat_tables(
        labels, promote_options="default"
    )  # a locked version may be older than a column
    pl.DataFrame(pl.from_arrow(every_column)).write_parquet(work.labels)
    write_plan(work, fragments)
    cache, blobs = cache_of(workspace), workspace.settings.blobs

    # A dataset has no embeddings; they are read where labels are selected, or near-duplicates are looked for by them.
    with_embeddings = not with_shards or params.curate.near_duplicates.max_embedding_distance > 0

    def build(pipeline: object) -> None:
        curation = CurateRows(work, cache.folder, params, blobs, with_embeddings=with_embeddings)
        rows = fragments_of(pipeline, fragments) | "Curate" >> curation
        if with_shards:
            _ = rows | "WriteShards" >> WriteShards(work, params, blobs)

    run(build, runner)


def remember(workspace: Workspace, work: WorkFolder, params: Params) -> None:
    """Add this run's measurements to the cache, so that the next run measures only what is new."""
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

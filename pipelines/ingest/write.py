"""Write: the rows of a batch become one staged Parquet file, synced to disk, and an index of its identities.

Staged files are not part of the lake. Rows are sorted by identity, so that a look-up of an identity can skip row groups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from connectors.lake.schema import Origin
from connectors.lake.table import LakeFile, write_parquet
from pipelines import steps
from pipelines.ingest.elements import RunContext, StagedFile
from pipelines.ingest.verdicts import INDEX
from schemas.reasons import LandOutcome

INDEXED = "indexed"


class Write(beam.DoFn):
    """Turn the pa.Table of one batch into (path, StagedFile); (shard, index table) goes to the output `INDEXED`."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def process(self, element: pa.Table) -> Iterator[tuple[str, StagedFile] | beam.pvalue.TaggedOutput]:
        """Yield one file, and one index table per shard that has identities."""
        staged = stage(self._context.staging_folder, element)
        yield staged.path, staged
        for shard, index in index_by_shard(element, staged.path, self._context.settings.identity_shards):
            yield beam.pvalue.TaggedOutput(INDEXED, (shard, index))


def stage(folder: Path, rows: pa.Table, *, name: str = "") -> StagedFile:
    """Write `rows` (one batch of one partition) to a file named by partition and offsets, or to `name`."""
    order = pc.sort_indices(
        rows,
        sort_keys=[
            ("vehicle_id", "ascending"),
            ("epoch", "ascending"),
            ("seq", "ascending"),
            ("offset", "ascending"),
        ],
    )
    rows = rows.take(order)
    partition = rows.column("partition")[0].as_py()
    begin, end = pc.min(rows.column("offset")).as_py(), pc.max(rows.column("offset_end")).as_py()
    written = write_parquet(folder, name or f"p{partition:05d}-{begin:020d}-{end:020d}.parquet", rows)
    steps.reached("ingest.write")
    return describe(folder, written, rows, partition, begin, end)


def describe(
    folder: Path, written: LakeFile, rows: pa.Table, partition: int, begin: int, end: int
) -> StagedFile:
    """Describe a file: its offsets, and its rows counted by outcome."""
    rows = rows.select(["origin", "outcome", "reason", "offset", "offset_end"])  # never copies payloads
    records = rows.filter(pc.field("outcome").is_valid())
    outcomes = _counts(records.column("outcome"))
    rejected = records.filter(pc.field("outcome") == LandOutcome.REJECTED.value)
    lost = rows.filter(pc.field("origin") == Origin.LOSS.value).select(["offset", "offset_end", "reason"])
    gaps = rows.filter(pc.field("origin") == Origin.GAP.value)
    gap_offsets = (pc.sum(gaps.column("offset_end")).as_py() or 0) - (
        pc.sum(gaps.column("offset")).as_py() or 0
    )
    return StagedFile(
        path=str(folder / written.path),
        partition=partition,
        begin=begin,
        end=end,
        size_bytes=written.size_bytes,
        statistics_json=written.statistics_json,
        rows=written.rows,
        landed=outcomes.get(LandOutcome.LANDED, 0),
        resent=outcomes.get(LandOutcome.RESENT, 0),
        rejected_json=json.dumps(_counts(rejected.column("reason")), sort_keys=True),
        lost_json=json.dumps(sorted(zip(*lost.to_pydict().values(), strict=True))),
        gap_offsets=gap_offsets,
    )


def index_by_shard(rows: pa.Table, path: str, shards: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield the identities that would land by shard; all identities of a vehicle are in one shard."""
    names = [name for name in INDEX.names if name != "path"]
    landed = rows.select([*names, "outcome"]).filter(pc.field("outcome") == LandOutcome.LANDED.value)
    if landed.num_rows == 0:
        return
    index = landed.select(names)
    index = index.append_column("path", pa.array([path] * index.num_rows, pa.string())).cast(INDEX)
    vehicles = pc.dictionary_encode(index.column("vehicle_id").combine_chunks())
    shard_of = pa.array([crc32(v.encode()) % shards for v in vehicles.dictionary.to_pylist()], pa.int32())
    shard = shard_of.take(vehicles.indices)
    for number in sorted(set(shard_of.to_pylist())):
        yield number, index.filter(pc.equal(shard, number))


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {str(entry["values"]): int(entry["counts"]) for entry in pc.value_counts(column).to_pylist()}

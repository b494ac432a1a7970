"""Compact: many small files of one partition become one, with the same rows.

Files are merged with files of their own size (a tier), so that a row is written again a few times in its life, and the
number of small files stays bounded. The earlier files stay for the versions that datasets name, until `fleetloop lake
vacuum`. Files of other writers are left alone.

  1. choose: per partition and tier, the files in order of offset
  2. merge them into files below the run's staging folder
  3. under the commit lock: rename, and commit the exchange
A crash before step 3 leaves files that no version refers to; the next run removes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.lake.rewrite import is_plain, replace_files
from connectors.lake.table import LakeFile, LakeTable, Snapshot
from foundation import syscalls
from foundation.clock import Clock
from foundation.files import fsync_folder
from foundation.full_disk import naming_the_disk
from pipelines import steps
from pipelines.ingest.elements import StagedFile
from pipelines.ingest.staging import LOG_FOLDER, commit_lock, run_folder
from pipelines.ingest.write import stage

TIERS_BYTES = (1_000_000, 8_000_000, 64_000_000)
"""Upper bounds of the sizes that are merged with one another; larger files are left as they are."""
FILES_OF_A_TIER = 16
"""So many files of one tier and partition are merged; fewer are left."""
_OWN = re.compile(
    rf"({LOG_FOLDER}/[A-Za-z0-9._-]+/[A-Za-z0-9._-]+/\d{{5}})/(\d{{20}})-(\d{{20}})-[0-9a-f]+\.parquet"
)


@dataclass(frozen=True, slots=True)
class Compacted:
    """How many files became how many."""

    before: int = 0
    after: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size_bytes: int
    begin: int
    end: int


def choose(snapshot: Snapshot) -> list[list[str]]:
    """Return the groups of files to merge, each of one partition, below the bound of the largest tier in all."""
    folders: dict[tuple[str, int], list[_File]] = {}
    for row in snapshot.files().select(["path", "size_bytes"]).to_pylist():
        path, size = row["path"], row["size_bytes"]
        found = _OWN.fullmatch(path)
        tier = next((number for number, bound in enumerate(TIERS_BYTES) if size < bound), None)
        if found is None or tier is None or not is_plain(path):
            continue
        folders.setdefault((found[1], tier), []).append(_File(path, size, int(found[2]), int(found[3])))
    groups = []
    for _, files in sorted(folders.items()):
        if len(files) < FILES_OF_A_TIER:
            continue
        group: list[_File] = []
        for file in sorted(files, key=lambda one: (one.begin, one.path)):
            if group and sum(each.size_bytes for each in group) + file.size_bytes > TIERS_BYTES[-1]:
                groups.append(group)
                group = []
            group.append(file)
        groups.append(group)
    return [[file.path for file in group] for group in groups if len(group) > 1]


def compact(table: LakeTable, clock: Clock, *, wait_s: float) -> Compacted:
    """Merge what `choose` names, one commit for each group, and return the counts.

    Raises:
        RetryLaterError: another committer held the lock, or was first, or the disk refuses (DiskError); what was merged
            before stays merged.
    """
    snapshot = table.snapshot()
    snapshot.check_writable()
    groups = choose(snapshot)
    with naming_the_disk(table.folder):
        for paths in groups:
            _merge(table, paths, clock, wait_s)
    return Compacted(sum(map(len, groups)), len(groups))


def _merge(table: LakeTable, paths: Sequence[str], clock: Clock, wait_s: float) -> None:
    with run_folder(table, wait_s, clock) as (run_id, folder):
        # Under the name of the first and the last offset, as ingest names its files, which may overlap with none.
        schema = pa.schema(table.snapshot().delta.schema().to_arrow())
        rows = pa.concat_tables([_rows(table.folder / path, schema) for path in paths])
        staged = stage(folder, rows, name="compacted.parquet")
        steps.reached("compact.merge")
        with commit_lock(table, wait_s, clock):
            added = _rename(table, staged, paths, run_id)
            steps.reached("compact.rename")
            replace_files(table, paths, [added], note={"fleetloop.run": run_id})
        steps.reached("compact.commit")


def _rows(file: Path, schema: pa.Schema) -> pa.Table:
    """Return the rows of one file in the columns of the table; a column that came later is null."""
    found = pq.ParquetFile(file).read()
    columns = [
        found[field.name].cast(field.type)
        if field.name in found.column_names
        else pa.nulls(found.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _rename(table: LakeTable, staged: StagedFile, paths: Sequence[str], run_id: str) -> LakeFile:
    names = [match for match in map(_OWN.fullmatch, paths) if match is not None]
    begin, end = min(match[2] for match in names), max(match[3] for match in names)
    path = f"{names[0][1]}/{begin}-{end}-{run_id}.parquet"
    target = table.folder / path
    syscalls.rename(staged.path, target)
    fsync_folder(target.parent)
    return LakeFile(path, staged.size_bytes, staged.rows, staged.statistics_json)

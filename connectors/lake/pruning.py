"""File pruning: a filtered read skips a file only if its statistics rule out every row.

The statistics are in the commit that adds a file. This module writes them, and turns them into pyarrow partition
expressions; nothing is assumed about a column without statistics. (The dataset of deltalake 1.6.6 gives a column without
bounds the range [null, null]; that holds for no row, so a filter on such a column silently finds nothing.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs

from connectors.lake.schema import COUNTED_COLUMNS, STATISTICS_COLUMNS


def statistics_json(rows: pa.Table) -> str:
    """Return the statistics of a file for its commit entry: row count; minimum, maximum and null count by column."""
    smallest: dict[str, object] = {}
    largest: dict[str, object] = {}
    nulls: dict[str, int] = {}
    for name in STATISTICS_COLUMNS:
        if name not in rows.column_names:
            continue
        column = rows.column(name)
        nulls[name] = column.null_count
        found = pc.min_max(column).as_py()
        if found["min"] is not None:
            smallest[name], largest[name] = found["min"], found["max"]
    for name in COUNTED_COLUMNS:
        if name in rows.column_names:
            nulls[name] = rows.column(name).null_count
    return json.dumps(
        {"numRecords": rows.num_rows, "minValues": smallest, "maxValues": largest, "nullCount": nulls}
    )


def dataset_of(folder: Path, schema: pa.Schema, files: pa.Table) -> pads.Dataset:
    """Return a dataset of `files` (as listed by `Snapshot.files`) below `folder`; filters skip files that cannot match."""
    wanted = [
        name
        for name in files.column_names
        if name in ("path", "num_records") or name.partition(".")[2] in STATISTICS_COLUMNS
    ]
    form = pads.ParquetFileFormat(
        default_fragment_scan_options=pads.ParquetFragmentScanOptions(pre_buffer=True)
    )
    disk = pyarrow.fs.LocalFileSystem()
    root = folder.resolve()
    fragments = [
        form.make_fragment(str(root / entry["path"]), filesystem=disk, partition_expression=_held(entry))
        for entry in files.select(wanted).to_pylist()
    ]
    return pads.FileSystemDataset(fragments, schema, form, disk)


def _held(entry: Mapping[str, Any]) -> pc.Expression:
    """Return an expression that holds for every row of the file."""
    return reduce(and_, _facts(entry), pc.scalar(True))


def _facts(entry: Mapping[str, Any]) -> Iterator[pc.Expression]:
    rows = entry["num_records"]
    for name in STATISTICS_COLUMNS:
        nulls = entry.get(f"null_count.{name}")
        if rows is None or nulls is None:
            continue
        column, smallest, largest = pc.field(name), entry.get(f"min.{name}"), entry.get(f"max.{name}")
        if nulls == rows:
            yield column.is_null()
        elif smallest is not None and largest is not None:
            for bound in (column >= smallest, column <= largest):
                yield bound | column.is_null() if nulls else bound

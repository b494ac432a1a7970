"""A filtered read leaves out a file only when the file's statistics rule out every row of it.

The statistics stand in the commit that adds a file; here they are written, and here they become what pyarrow takes
for granted of the file. Nothing is taken for granted of a column without statistics. (deltalake 1.6.6's own dataset
says of a column without bounds that it is at least null and at most null: that holds for no row, so a filter on it
finds none, without a word.)
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

from connectors.lake.schema import STATISTICS_COLUMNS


def statistics_json(rows: pa.Table) -> str:
    """The commit entry that prunes the file: row count; smallest, largest and nulls by column."""
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
    return json.dumps(
        {"numRecords": rows.num_rows, "minValues": smallest, "maxValues": largest, "nullCount": nulls}
    )


def dataset_of(folder: Path, schema: pa.Schema, files: pa.Table) -> pads.Dataset:
    """The rows of `files` (as `Snapshot.files` lists them) below `folder`; a filter opens only what may pass it."""
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
    """What holds for every row of the file."""
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

"""The lake as a state: all of its rows as one digest, and files that no version names. Reads files only."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

TIMES_OF_INGEST = frozenset({"ingest_time_ns"})
"""The one column of arrivals that says when it was read, not what was read."""


def table_rows(folder: Path, without: Collection[str] = TIMES_OF_INGEST) -> list[dict[str, Any]]:
    """Every row of the newest version, sorted, without the columns `without`."""
    rows: list[dict[str, Any]] = []
    for name in DeltaTable(str(folder)).file_uris():
        table: pa.Table = pq.ParquetFile(name.removeprefix("file://")).read()
        rows += table.select([each for each in table.column_names if each not in without]).to_pylist()
    return sorted(rows, key=lambda row: repr(sorted(row.items())))


def rows_digest(folder: Path, without: Collection[str] = TIMES_OF_INGEST) -> str:
    """One digest of all rows and all columns but `without`; files, commits and order do not matter."""
    digest = hashlib.sha256()
    for row in table_rows(folder, without):
        digest.update(repr(sorted(row.items())).encode())
    return digest.hexdigest()


def files_of_no_version(folder: Path, parts: Collection[str] = ("log", "replay")) -> list[str]:
    """Parquet files under these parts of the table that its newest version does not name."""
    table = DeltaTable(str(folder))
    named = {str(Path(name.removeprefix("file://")).resolve()) for name in table.file_uris()}
    found = [path for part in parts for path in sorted((folder / part).rglob("*.parquet"))]
    return [str(path.relative_to(folder)) for path in found if str(path.resolve()) not in named]


def missing_files(folder: Path) -> list[str]:
    """Files that the newest version names and that are not there."""
    names = [name.removeprefix("file://") for name in DeltaTable(str(folder)).file_uris()]
    return [name for name in names if not Path(name).is_file()]

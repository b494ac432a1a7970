"""Commit other files with the same rows: an OPTIMIZE in Delta's terms, which changes no data.

Why not the compaction of delta-rs? It writes files with other statistics, in another order of rows and without sync; and
its Python interface has no commit that removes files. The entry is written as the protocol says: one file of the log, made
whole and synced under another name and linked to its number, which fails if another writer has that number.
Source: Delta transaction log protocol, "Add File and Remove File", "Commit Provenance Information".
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pyarrow.compute as pc

from connectors.lake.table import LakeFile, LakeTable, StaleSnapshotError
from foundation import syscalls
from foundation.errors import GuaranteeBrokenError
from foundation.files import fsync_folder, naming_file
from foundation.full_disk import naming_the_disk


def is_plain(path: str) -> bool:
    """Return whether a path stands in the log as it is; others, of other writers, are left alone."""
    return quote(path, safe="/") == path


def replace_files(
    table: LakeTable, removed: Collection[str], added: Sequence[LakeFile], *, note: Mapping[str, str]
) -> int:
    """Replace the files `removed` by `added`, which hold the same rows, in one commit, and return its version.

    The removed files stay on disk for the versions that refer to them. The caller keeps other committers away.

    Raises:
        StaleSnapshotError: a file is not in the newest version any more, or another commit was first.
        GuaranteeBrokenError: the files hold another number of rows.
    """
    snapshot = table.snapshot()
    snapshot.check_writable()
    files = snapshot.files()
    before = files.filter(pc.field("path").isin(list(removed)))
    if before.num_rows != len(removed):
        raise StaleSnapshotError(
            f"lake table {table.folder}: {len(removed) - before.num_rows} files are no longer in version {snapshot.version}"
        )
    rows, wanted = pc.sum(before["num_records"]).as_py(), sum(file.rows for file in added)
    if rows != wanted:
        raise GuaranteeBrokenError(
            f"lake table {table.folder}: {len(added)} files have {wanted} rows, those that they replace {rows}"
        )
    now_ms = time.time_ns() // 1_000_000
    common = {"partitionValues": {}, "dataChange": False}
    entries: list[Mapping[str, object]] = [
        {"commitInfo": {"timestamp": now_ms, "operation": "OPTIMIZE", "operationParameters": {}, **note}}
    ]
    entries += [
        {"remove": {"path": row["path"], "deletionTimestamp": now_ms, "size": row["size_bytes"],
                    "extendedFileMetadata": True, **common}}
        for row in before.select(["path", "size_bytes"]).to_pylist()
    ]  # fmt: skip
    entries += [
        {"add": {"path": file.path, "size": file.size_bytes, "modificationTime": now_ms,
                 "stats": file.statistics_json, **common}}
        for file in added
    ]  # fmt: skip
    version = snapshot.version + 1
    _commit(table, version, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
    with naming_the_disk(table.folder):
        table.snapshot(version).delta.create_checkpoint()
    return version


def _commit(table: LakeTable, version: int, data: bytes) -> None:
    log = table.folder / "_delta_log"
    temporary = log / f"_commit_{secrets.token_hex(8)}.json.tmp"
    fd = syscalls.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            with naming_file(temporary):
                syscalls.write_all(fd, data)
                syscalls.fsync(fd)
        finally:
            syscalls.close(fd)
        (log / f"{version:020d}.json").hardlink_to(temporary)
    except FileExistsError as error:
        raise StaleSnapshotError(
            f"lake table {table.folder}: another commit became version {version} first"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    fsync_folder(log)

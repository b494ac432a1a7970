"""`lake.lock` records the table versions that a dataset is built from, so that the build can be repeated.

It is a small JSON file for DVC to depend on, in place of the lake's folder. A lock also holds the table id: a recreated
table counts its versions from zero again, and is refused under an old lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from connectors.lake.table import LakeTable, Snapshot
from foundation.documents import DocumentType, Meta, Version
from foundation.errors import CorruptError, MisconfiguredError
from foundation.files import read_document, write_json_atomic

FORMAT = 1


@dataclass(frozen=True, slots=True)
class LockedTable:
    """A table, by id, at one version."""

    version: int
    table_id: str


LakeLock = Mapping[str, LockedTable]


def lock_of(tables: Mapping[str, LakeTable]) -> dict[str, LockedTable]:
    """Return the newest version of each table, by name."""
    return {name: LockedTable(table.version(), table.table_id()) for name, table in sorted(tables.items())}


def lock_json(lock: LakeLock) -> dict[str, object]:
    """Return the lock as the JSON object of its file."""
    return {
        "format": FORMAT,
        "tables": {
            name: {"version": held.version, "id": held.table_id} for name, held in sorted(lock.items())
        },
    }


def write_lake_lock(path: Path, tables: Mapping[str, LakeTable]) -> dict[str, LockedTable]:
    """Write the newest version of each table to `path`; the bytes change only if a version does."""
    lock = lock_of(tables)
    write_json_atomic(path, lock_json(lock))
    return lock


def read_lake_lock(path: Path) -> dict[str, LockedTable]:
    """Read a lake lock. Raises MisconfiguredError if there is no file, CorruptError if it is malformed."""
    if not path.is_file():
        raise MisconfiguredError(
            f"there is no lake lock at {path}: run `fleetloop curate` or `fleetloop ingest` first"
        )
    return read_document(path, LAKE_LOCK)


def parse_lake_lock(document: object, path: Path) -> dict[str, LockedTable]:
    """Return the lock in a JSON document that was read from `path`. Raises CorruptError."""
    return LAKE_LOCK.of(document, family=lambda message: CorruptError(message, path=path))


@dataclass(frozen=True, slots=True)
class _Table:
    version: Annotated[int, Meta(ge=0)]
    id: str


@dataclass(frozen=True, slots=True)
class _Tables:
    tables: dict[str, _Table]

    def locked(self) -> dict[str, LockedTable]:
        return {name: LockedTable(held.version, held.id) for name, held in self.tables.items()}


LAKE_LOCK = DocumentType("lake_lock", {FORMAT: Version(_Tables, _Tables.locked)}, "format")


def locked_snapshot(lock: LakeLock, name: str, table: LakeTable) -> Snapshot:
    """Return `table` at the version in the lock.

    Raises MisconfiguredError if the lock does not hold the table, or holds another table id.
    """
    held = lock.get(name)
    if held is None:
        raise MisconfiguredError(
            f"the lake lock names no table {name!r} (it names {', '.join(sorted(lock)) or 'none'})"
        )
    if table.table_id() != held.table_id:
        raise MisconfiguredError(
            f"lake table {name!r} at {table.uri} has id {table.table_id()}, the lake lock names"
            f" {held.table_id}: the table was recreated"
        )
    return table.snapshot(held.version)

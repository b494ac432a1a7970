"""`lake.lock` says on which versions of which tables something was made, so that it can be made again.

A small JSON file for DVC to depend on, never the lake's folder. A lock names the table's id too: a table that
was made anew counts its versions from zero again, and is refused under the old lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from connectors.lake.table import LakeTable, Snapshot
from foundation.documents import DocumentType, Meta, Version
from foundation.errors import CorruptError, MisconfiguredError
from foundation.files import read_json, write_json_atomic

FORMAT = 1


@dataclass(frozen=True, slots=True)
class LockedTable:
    """One table at one version."""

    version: int
    table_id: str


LakeLock = Mapping[str, LockedTable]


def lock_of(tables: Mapping[str, LakeTable]) -> dict[str, LockedTable]:
    """The newest version of each table at this moment, by name."""
    return {name: LockedTable(table.version(), table.table_id()) for name, table in sorted(tables.items())}


def lock_json(lock: LakeLock) -> dict[str, object]:
    """The lock as its file holds it."""
    return {
        "format": FORMAT,
        "tables": {
            name: {"version": held.version, "id": held.table_id} for name, held in sorted(lock.items())
        },
    }


def write_lake_lock(path: Path, tables: Mapping[str, LakeTable]) -> dict[str, LockedTable]:
    """Write the newest version of each table to `path`; the file's bytes change only when a version does."""
    lock = lock_of(tables)
    write_json_atomic(path, lock_json(lock))
    return lock


def read_lake_lock(path: Path) -> dict[str, LockedTable]:
    """Raises MisconfiguredError without a file, CorruptError when it is not of this form."""
    if not path.is_file():
        raise MisconfiguredError(
            f"there is no lake lock at {path}: run `fleetloop curate` or `fleetloop ingest` first"
        )
    return parse_lake_lock(read_json(path), path)


def parse_lake_lock(document: object, path: Path) -> dict[str, LockedTable]:
    """The lock in a JSON document that was read from `path`. Raises CorruptError."""
    return _LAKE_LOCK.of(document, family=lambda message: CorruptError(message, path=path))


@dataclass(frozen=True, slots=True)
class _Table:
    version: Annotated[int, Meta(ge=0)]
    id: str


@dataclass(frozen=True, slots=True)
class _Tables:
    tables: dict[str, _Table]

    def locked(self) -> dict[str, LockedTable]:
        return {name: LockedTable(held.version, held.id) for name, held in self.tables.items()}


_LAKE_LOCK = DocumentType("lake_lock", {FORMAT: Version(_Tables, _Tables.locked)}, "format")


def locked_snapshot(lock: LakeLock, name: str, table: LakeTable) -> Snapshot:
    """`table` at the version that the lock names.

    Raises MisconfiguredError when the lock does not name it, or names a table of another id.
    """
    held = lock.get(name)
    if held is None:
        raise MisconfiguredError(
            f"the lake lock names no table {name!r} (it names {', '.join(sorted(lock)) or 'none'})"
        )
    if table.table_id() != held.table_id:
        raise MisconfiguredError(
            f"lake table {name!r} at {table.uri} has id {table.table_id()}, the lake lock names"
            f" {held.table_id}: the table was made anew"
        )
    return table.snapshot(held.version)

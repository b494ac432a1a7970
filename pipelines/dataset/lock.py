"""Write lake.lock, the table versions that the next dataset is built from.

It is written only on request, and its bytes change only if a table version does, so that DVC sees no other change.
"""

from __future__ import annotations

from connectors.lake.lock import (
    LakeLock,
    LockedTable,
    lock_of,
    parse_lake_lock,
    read_lake_lock,
    write_lake_lock,
)
from connectors.lake.retention import PINS_FOLDER
from connectors.lake.schema import TABLES
from connectors.lake.table import LakeTable
from foundation.errors import MisconfiguredError
from pipelines.dataset.exclusive import dataset_lock
from workspace.layout import Workspace


def lake_tables(workspace: Workspace) -> dict[str, LakeTable]:
    """Return the existing tables by name. Raises MisconfiguredError if there is neither arrivals nor reference."""
    folder = workspace.lake_path
    tables = {
        name: LakeTable.open(folder / name) for name in TABLES if (folder / name / "_delta_log").is_dir()
    }
    if not {"arrivals", "reference"} & tables.keys():
        raise MisconfiguredError(
            f"the lake {folder} has neither arrivals nor reference pictures yet; run `fleetloop ingest` first"
        )
    return tables


def holders(workspace: Workspace) -> dict[str, dict[int, tuple[str, ...]]]:
    """Return who needs which table version to stay readable, by table and version in ascending order.

    A dataset version holds table versions by its pin in the lake or by its record in the registry; lake.lock holds those
    of the next dataset. Tables that were recreated since are not held.

    Raises:
        CorruptError: a pin, a record or lake.lock cannot be read, so that nothing may be removed.
    """
    from pipelines.dataset.versions import list_versions

    pins = sorted((workspace.lake_path / PINS_FOLDER).glob("*.json"))
    locks: list[tuple[str, LakeLock]] = [(path.stem, read_lake_lock(path)) for path in pins]
    for version in list_versions(workspace):
        record = workspace.dataset_versions_path / f"{version.id}.json"
        locks.append((version.id, parse_lake_lock(version.manifest["made_from"]["lake"], record)))
    if workspace.lake_lock_path.is_file():
        locks.append((workspace.lake_lock_path.name, read_lake_lock(workspace.lake_lock_path)))
    found: dict[str, dict[int, tuple[str, ...]]] = {}
    for name, table in lake_tables(workspace).items():
        table_id = table.table_id()
        who: dict[int, set[str]] = {}
        for holder, lock in locks:
            held = lock.get(name)
            if held is not None and held.table_id == table_id:
                who.setdefault(held.version, set()).add(holder)
        found[name] = {version: tuple(sorted(who[version])) for version in sorted(who)}
    return found


def write_lock(workspace: Workspace) -> tuple[dict[str, LockedTable], bool]:
    """Lock the newest version of every table; return the lock and whether the file changed.

    Raises MisconfiguredError if there is no lake, RetryLaterError if a dataset commit takes longer than lock_wait_s.
    """
    tables = lake_tables(workspace)
    path = workspace.lake_lock_path
    with dataset_lock(workspace):
        lock = lock_of(tables)
        if path.is_file() and read_lake_lock(path) == lock:
            return lock, False
        return write_lake_lock(path, tables), True

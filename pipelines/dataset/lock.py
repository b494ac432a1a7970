"""lake.lock follows the lake only when somebody says so: a dataset is made from what was there at that moment.

The file does not change when no table did, so DVC sees no change either.
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
    """The tables that are there, by name. Raises MisconfiguredError when there is none with frames."""
    folder = workspace.lake_path
    tables = {
        name: LakeTable.open(folder / name) for name in TABLES if (folder / name / "_delta_log").is_dir()
    }
    if not {"arrivals", "reference"} & tables.keys():
        raise MisconfiguredError(
            f"the lake {folder} has no table of frames yet; run `fleetloop ingest` first"
        )
    return tables


def holders(workspace: Workspace) -> dict[str, dict[int, tuple[str, ...]]]:
    """Who needs which version of which table to stay readable: by table and version, ascending.

    A dataset version holds by its pin in the lake and by its record in the registry (one is enough), lake.lock
    holds what the next dataset would be made from. Tables that were made anew since are not held.

    Raises:
        CorruptError: a pin, a record or lake.lock cannot be read: then nobody may remove anything.
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
    """Lock the newest version of every table; the lock, and whether the file changed.

    Raises MisconfiguredError when there is no lake; RetryLaterError when a dataset is being committed for longer than
    lock_wait_s.
    """
    tables = lake_tables(workspace)
    path = workspace.lake_lock_path
    with dataset_lock(workspace):
        lock = lock_of(tables)
        if path.is_file() and read_lake_lock(path) == lock:
            return lock, False
        return write_lake_lock(path, tables), True

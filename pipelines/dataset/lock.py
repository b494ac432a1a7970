"""lake.lock follows the lake only when somebody says so: then a dataset is made from what was there at that
moment.

The file does not change when no table did, so DVC sees no change either.
"""

from __future__ import annotations

from connectors.lake import LakeTable
from connectors.lake_lock import LockedTable, lock_json, lock_of, write_lake_lock
from connectors.lake_schema import TABLES
from connectors.workspace import Workspace
from foundation.errors import MisconfiguredError
from foundation.files import read_json


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


def write_lock(workspace: Workspace) -> tuple[dict[str, LockedTable], bool]:
    """Lock the newest version of every table; the lock, and whether the file changed.

    Raises MisconfiguredError when there is no lake.
    """
    tables = lake_tables(workspace)
    path = workspace.lake_lock_path
    lock = lock_of(tables)
    if path.is_file() and read_json(path) == lock_json(lock):
        return lock, False
    return write_lake_lock(path, tables), True

"""The lake's tables, who holds which version of them, and how to let the rest go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from connectors.lake import retention
from connectors.lake.table import LakeTable
from foundation.clock import SystemClock
from pipelines.dataset.dvc import DvcRepository
from pipelines.dataset.lock import holders, lake_tables
from pipelines.ingest.staging import commit_lock
from workspace.layout import Workspace


@dataclass(frozen=True, slots=True)
class TableHolding:
    """The newest version of a table, its rows, files and bytes, and the versions that somebody holds, each by whom."""

    version: int
    rows: int
    files: int
    size_bytes: int
    held: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Trimmed:
    """How many log entries of a table were removed (or would be), and the versions that stay readable."""

    log_entries: int
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """Which data files of a table were removed (or would be), and the versions that stay readable."""

    files: tuple[str, ...]
    kept: tuple[int, ...]


def lake_status(place: Workspace) -> dict[str, TableHolding]:
    """Every table by name. Raises MisconfiguredError without a lake, CorruptError for a pin that cannot be read."""
    held, found = holders(place), {}
    for name, table in lake_tables(place).items():
        snapshot = table.snapshot()
        files = snapshot.files()
        size_bytes = sum(files.column("size_bytes").to_pylist())
        found[name] = TableHolding(
            snapshot.version, snapshot.count(), files.num_rows, size_bytes, held.get(name, {})
        )
    return found


def trim(place: Workspace, *, is_dry_run: bool = False) -> dict[str, Trimmed]:
    """Remove the log entries that neither the newest version, a dataset nor lake.lock needs; no data file is touched."""
    done = {}
    for name, table in lake_tables(place).items():
        with _no_committer(place, name, table):
            keep = holders(place).get(name, {})
            count = retention.trim_log(table, keep, dry_run=is_dry_run)
            done[name] = Trimmed(count, tuple(sorted(keep)))
    return done


def vacuum(place: Workspace, older_than: timedelta, *, is_dry_run: bool = False) -> dict[str, Vacuumed]:
    """Remove the data files that neither the newest version, a dataset nor lake.lock names.

    Files younger than `older_than` stay: they may be of a writer at work.
    """
    done = {}
    for name, table in lake_tables(place).items():
        with _no_committer(place, name, table):
            keep = holders(place).get(name, {})
            files = retention.vacuum(table, keep, older_than=older_than, dry_run=is_dry_run)
            done[name] = Vacuumed(tuple(files), tuple(sorted(keep)))
    return done


@contextmanager
def _no_committer(place: Workspace, name: str, table: LakeTable) -> Iterator[None]:
    """While this holds, no ingest commits to the table, and no dataset version is made."""
    with DvcRepository(place).writing():
        if name != "arrivals":
            yield
            return
        with commit_lock(table, place.settings.lock_wait_s, SystemClock()):
            yield

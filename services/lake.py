"""The lake's tables: which versions are in use by what, and how to remove the rest."""

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
from pipelines.ingest.compact import Compacted
from pipelines.ingest.compact import compact as compact_files
from pipelines.ingest.staging import commit_lock
from workspace.layout import Workspace


@dataclass(frozen=True, slots=True)
class TableHolding:
    """The newest version of a table, its rows, files and bytes, and which versions are held, by what."""

    version: int
    rows: int
    files: int
    size_bytes: int
    held: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The number of log entries of a table that were (or would be) removed, and the versions that stay readable."""

    log_entries: int
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """The data files of a table that were (or would be) removed, and the versions that stay readable."""

    files: tuple[str, ...]
    kept: tuple[int, ...]


def lake_status(place: Workspace) -> dict[str, TableHolding]:
    """Return every table by name. Raises MisconfiguredError without a lake, CorruptError for an unreadable pin."""
    held, found = holders(place), {}
    for name, table in lake_tables(place).items():
        snapshot = table.snapshot()
        files = snapshot.files()
        size_bytes = sum(files.column("size_bytes").to_pylist())
        found[name] = TableHolding(
            snapshot.version, snapshot.rows(), files.num_rows, size_bytes, held.get(name, {})
        )
    return found


def trim(place: Workspace, *, is_dry_run: bool = False) -> dict[str, Trimmed]:
    """Remove the log entries that neither the newest version, a dataset nor lake.lock needs; data files are kept."""
    done = {}
    for name, table in lake_tables(place).items():
        with _no_committer(place, name, table):
            keep = holders(place).get(name, {})
            count = retention.trim_log(table, keep, dry_run=is_dry_run)
            done[name] = Trimmed(count, tuple(sorted(keep)))
    return done


def vacuum(place: Workspace, older_than: timedelta, *, is_dry_run: bool = False) -> dict[str, Vacuumed]:
    """Remove the data files that neither the newest version, a dataset nor lake.lock refers to.

    Files younger than `older_than` are kept: a running writer may have written them.
    """
    done = {}
    for name, table in lake_tables(place).items():
        with _no_committer(place, name, table):
            keep = holders(place).get(name, {})
            files = retention.vacuum(table, keep, older_than=older_than, dry_run=is_dry_run)
            done[name] = Vacuumed(tuple(files), tuple(sorted(keep)))
    return done


def compact(place: Workspace) -> Compacted:
    """Merge the small files of the table arrivals; the rows, and what datasets name, stay as they are.

    Raises:
        MisconfiguredError: there is no lake. RetryLaterError: another committer was at work; run it again.
    """
    table = lake_tables(place).get("arrivals")
    return (
        Compacted()
        if table is None
        else compact_files(table, SystemClock(), wait_s=place.settings.lock_wait_s)
    )


@contextmanager
def _no_committer(place: Workspace, name: str, table: LakeTable) -> Iterator[None]:
    """Keep ingest from committing to the table, and dataset versions from being made."""
    with DvcRepository(place).writing():
        if name != "arrivals":
            yield
            return
        with commit_lock(table, place.settings.lock_wait_s, SystemClock()):
            yield

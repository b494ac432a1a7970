"""Retention: remove log entries and data files of the lake that no dataset version refers to any more.

Building a dataset version pins the lake lock that it was built from (`pin`, one file per dataset under `<lake>/pins`).
Trimming the log and removing files take the pinned versions (`pipelines.dataset.lock.holders`) and touch nothing that
one of them needs. The newest version is always kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from connectors.lake.lock import LakeLock, lock_json
from connectors.lake.table import LakeTable
from foundation import syscalls
from foundation.clock import Clock, SystemClock
from foundation.errors import MisconfiguredError
from foundation.files import fsync_folder, write_json_atomic

PINS_FOLDER = "pins"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,120}")
_LOG_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


def pin(lake_folder: Path, dataset: str, lock: LakeLock) -> None:
    """Keep the versions in `lock` readable for as long as the pin of `dataset` exists."""
    if not _NAME.fullmatch(dataset):
        raise MisconfiguredError(f"dataset name is {dataset!r}; it must match {_NAME.pattern}")
    folder = lake_folder / PINS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / f"{dataset}.json", lock_json(lock))


def trim_log(table: LakeTable, named_versions: Iterable[int], *, dry_run: bool = False) -> int:
    """Remove log entries that neither a named version nor the newest needs, and return how many.

    A version is read from the last checkpoint at or before it and the entries after that. So everything before the last
    checkpoint at or before the oldest needed version can be removed; without such a checkpoint nothing is.
    """
    oldest = min([*named_versions, table.version()])
    log = table.folder / "_delta_log"
    names = [path.name for path in log.iterdir()]
    checkpoints = [int(m[1]) for m in map(_CHECKPOINT.fullmatch, names) if m]
    start = max((version for version in checkpoints if version <= oldest), default=None)
    if start is None:
        return 0
    removed = 0
    for name in sorted(names):
        entry = _LOG_ENTRY.fullmatch(name) or _CHECKPOINT.fullmatch(name)
        if entry and int(entry[1]) < start:
            if not dry_run:
                syscalls.unlink(log / name)
            removed += 1
    fsync_folder(log)
    return removed


def vacuum(
    table: LakeTable,
    named_versions: Iterable[int],
    *,
    older_than: timedelta = timedelta(days=7),
    dry_run: bool = False,
    clock: Clock | None = None,
) -> list[str]:
    """Remove data files older than `older_than` that neither a named version nor the newest refers to.

    Returns the removed paths, relative to the table. The age protects the files of a writer that has not committed yet.
    Raises MisconfiguredError for an age below one hour.
    """
    if older_than < timedelta(hours=1):
        raise MisconfiguredError(
            f"vacuum age is {older_than}; it must be at least 1 hour, to protect writers that have not committed"
        )
    keep = sorted({*named_versions, table.version()})
    held: set[str] = set()
    for version in keep:
        held.update(table.snapshot(version).files().column("path").to_pylist())
    now_ns = (clock or SystemClock()).now_ns()
    removed = []
    for path in sorted(table.folder.rglob("*.parquet")):
        relative = path.relative_to(table.folder)
        if relative.parts[0].startswith("_") or relative.as_posix() in held:
            continue
        if now_ns - path.stat().st_mtime_ns < older_than.total_seconds() * 1e9:
            continue
        removed.append(relative.as_posix())
        if not dry_run:
            syscalls.unlink(path)
    return removed

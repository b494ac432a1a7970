"""The staging folder of each run inside the table, and the removal of what dead runs left behind.

`<table>/_staging/<run id>/` holds the run's files and a lock that is held as long as its process lives. Making a run
folder, renaming and committing all require `_staging/commit.lock`. So under that lock, a run folder whose own lock is
free belongs to a dead run, and its renamed files are either in the newest version or will never be in one.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectors.lake.table import LakeTable
from foundation import syscalls
from foundation.clock import Clock
from foundation.errors import RetryLaterError
from foundation.files import FileLock

STAGING = "_staging"
LOG_FOLDER = "log"
REPLAY_FOLDER = "replay"


def commit_lock(table: LakeTable, wait_s: float, clock: Clock) -> FileLock:
    """Return the lock of the one committer. Entering it raises RetryLaterError if it is not free within `wait_s`."""
    folder = table.folder / STAGING
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "commit.lock", wait_s=wait_s, clock=clock)


@contextmanager
def run_folder(table: LakeTable, wait_s: float, clock: Clock) -> Iterator[tuple[str, Path]]:
    """Yield a new run id and its folder, which is removed at the end."""
    run_id = secrets.token_hex(8)
    folder = table.folder / STAGING / run_id
    with commit_lock(table, wait_s, clock):
        clean_leftovers(table)
        folder.mkdir()
        alive = FileLock(folder / "run.lock", clock=clock)
        alive.__enter__()
    is_done = False
    try:
        yield run_id, folder
        is_done = True
    finally:
        # A failed run that renamed files already leaves its folder, so that the next run finds the files to remove.
        if is_done or not _renamed_by(table, run_id):
            shutil.rmtree(folder, ignore_errors=True)
        alive.__exit__(None, None, None)


def clean_leftovers(table: LakeTable) -> list[str]:
    """Remove what dead runs left behind, and return the paths of renamed files that were never committed.

    The caller holds the commit lock, which a live run holds between rename and commit.
    """
    removed: list[str] = []
    held: set[str] | None = None
    for folder in sorted(p for p in (table.folder / STAGING).iterdir() if p.is_dir()):
        try:
            with FileLock(folder / "run.lock"):
                for path in _renamed_by(table, folder.name):
                    if held is None:
                        held = set(table.snapshot().files().column("path").to_pylist())
                    relative = path.relative_to(table.folder).as_posix()
                    if relative not in held:
                        syscalls.unlink(path)
                        removed.append(relative)
                shutil.rmtree(folder)
        except RetryLaterError:
            continue  # its process lives
    return removed


def _renamed_by(table: LakeTable, run_id: str) -> list[Path]:
    return [
        path
        for name in (LOG_FOLDER, REPLAY_FOLDER)
        for path in sorted((table.folder / name).rglob(f"*-{run_id}.parquet"))
    ]

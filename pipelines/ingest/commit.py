"""Rename and commit: all files of a run become part of the lake in one commit, on the version it was planned on.

  1. wait for the commit lock
  2. check that the newest version is the planned one; otherwise do nothing, and the caller plans again
  3. check that the files of each partition start where that version ends and leave no hole between them
  4. rename the staged files to their final names and sync the folders
  5. commit the files together with the new end offset of each partition
A crash before step 5 leaves files that no version refers to; the next run removes them. The lock keeps steps 4 and 5
of two committers apart; the version check also holds against a committer that does not take the lock.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from connectors.kafka.ports import TopicInfo
from connectors.lake.table import LakeFile, LakeTable, StaleSnapshotError
from foundation import syscalls
from foundation.clock import Clock
from foundation.errors import GuaranteeBrokenError
from foundation.files import fsync_folder
from pipelines import steps
from pipelines.ingest.elements import RunContext, StagedFile
from pipelines.ingest.holes import position_name
from pipelines.ingest.plan import Plan
from pipelines.ingest.staging import LOG_FOLDER, commit_lock


def commit(
    table: LakeTable, plan: Plan, files: Sequence[StagedFile], context: RunContext, clock: Clock
) -> int:
    """Commit the staged `files` of one run and return the new version.

    Raises:
        StaleSnapshotError: another commit was first; nothing of this run is in the lake.
        RetryLaterError: another committer held the lock for longer than `commit_wait_s`.
        GuaranteeBrokenError: the files leave a hole or overlap; nothing was committed.
    """
    ends = new_ends(plan, files)
    with commit_lock(table, context.settings.commit_wait_s, clock):
        newest = table.version()
        if newest != plan.version:
            raise StaleSnapshotError(f"planned on version {plan.version}, but the table is at {newest}")
        moves = [(file, final_path(plan.topic, file, context.run_id)) for file in files]
        renamed = rename_files(table, moves)
        steps.reached("ingest.rename")
        app_transactions = {position_name(plan.topic, partition): end for partition, end in ends.items()}
        commit_renamed(table, renamed, plan.version, context.run_id, app_transactions)
        steps.reached("ingest.commit")
    return plan.version + 1


def new_ends(plan: Plan, files: Sequence[StagedFile]) -> dict[int, int]:
    """Return the next offset of each partition after `files`. Raises GuaranteeBrokenError for a hole or an overlap."""
    ends: dict[int, int] = {}
    for file in sorted(files, key=lambda one: (one.partition, one.begin)):
        expected = ends.get(file.partition, plan.ends[file.partition])
        if file.begin != expected or file.end <= file.begin:
            raise GuaranteeBrokenError(
                f"partition {file.partition} of {plan.topic.topic}: a file covers [{file.begin}, {file.end})"
                f"; the next offset must be {expected}"
            )
        ends[file.partition] = file.end
    return ends


def final_path(topic: TopicInfo, file: StagedFile, run_id: str) -> str:
    """Return the path in the table: cluster, topic id, partition, offsets and the run, which makes it unique."""
    folder = f"{LOG_FOLDER}/{_safe(topic.cluster_id)}/{_safe(topic.topic_id)}/{file.partition:05d}"
    return f"{folder}/{file.begin:020d}-{file.end:020d}-{run_id}.parquet"


def rename_files(table: LakeTable, moves: Sequence[tuple[StagedFile, str]]) -> list[LakeFile]:
    """Rename staged files to their paths inside the table, durably. The caller holds the commit lock."""
    renamed: list[LakeFile] = []
    folders: set[Path] = set()
    for file, path in moves:
        target = table.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        syscalls.rename(file.path, target)
        folders.add(target.parent)
        renamed.append(LakeFile(path, file.size_bytes, file.rows, file.statistics_json))
    for folder in sorted({parent for start in folders for parent in _upwards(start, table.folder)}):
        fsync_folder(folder)
    return renamed


def commit_renamed(
    table: LakeTable,
    files: Sequence[LakeFile],
    version: int,
    run_id: str,
    app_transactions: Mapping[str, int],
) -> None:
    """Commit on `version`. If another commit was first, remove the files and raise StaleSnapshotError."""
    for file in files:
        if not (table.folder / file.path).is_file():
            raise FileNotFoundError(
                errno.ENOENT, "went away before the commit", str(table.folder / file.path)
            )
    try:
        table.commit_files(
            files, expected_version=version, app_transactions=app_transactions, note={"fleetloop.run": run_id}
        )
    except StaleSnapshotError:
        for file in files:
            with suppress(FileNotFoundError):  # a VACUUM of another engine may have removed it
                syscalls.unlink(table.folder / file.path)
        raise


def _upwards(folder: Path, root: Path) -> list[Path]:
    """Return `folder` and its parents up to `root`: the name of a new folder must be durable too."""
    found = [folder]
    while found[-1] != root:
        found.append(found[-1].parent)
    return found


def _safe(name: str) -> str:
    """Return `name` as a folder name: letters, digits, "-" and "_" stay, any other character becomes its hex code."""
    written = re.sub(r"[^A-Za-z0-9_-]", lambda found: f".{ord(found[0]):02x}.", name)
    return f"x{written}"[:200]

"""Rename and commit: all files of a run become part of the lake at once, on the version that it was planned on.

  1. wait for the commit lock
  2. the newest version is the planned one, else nothing is done and the caller plans again
  3. per partition the files start where that version ends, and follow one another without a hole
  4. rename the staged files to their final names; sync the folders
  5. one commit: the files, and where each partition ends now
A crash before 5 leaves files that no version names; the next run removes them. The lock keeps step 4 and 5 of
two committers apart; the version check holds even where the lock does not reach.
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
    """Commit the sealed `files` of one run, and return the new version.

    Raises:
        StaleSnapshotError: another commit was first; nothing of this run is in the lake.
        RetryLaterError: another committer held the lock for longer than `commit_wait_s`.
        GuaranteeBrokenError: the files leave a hole. Nothing was committed.
    """
    ends = new_ends(plan, files)
    with commit_lock(table, context.settings.commit_wait_s, clock):
        newest = table.version()
        if newest != plan.version:
            raise StaleSnapshotError(f"planned on version {plan.version}, but the table is at {newest}")
        moves = [(file, final_path(plan.topic, file, context.run_id)) for file in files]
        renamed = rename_files(table, moves)
        steps.reached("ingest.rename")
        marks = {position_name(plan.topic, partition): end for partition, end in ends.items()}
        commit_renamed(table, renamed, plan.version, context.run_id, marks)
        steps.reached("ingest.commit")
    return plan.version + 1


def new_ends(plan: Plan, files: Sequence[StagedFile]) -> dict[int, int]:
    """Where each partition ends after `files`. Raises GuaranteeBrokenError for a hole or an overlap."""
    ends: dict[int, int] = {}
    for file in sorted(files, key=lambda one: (one.partition, one.begin)):
        expected = ends.get(file.partition, plan.ends[file.partition])
        if file.begin != expected or file.end <= file.begin:
            raise GuaranteeBrokenError(
                f"partition {file.partition} of {plan.topic.topic}: a file covers [{file.begin}, {file.end})"
                f" where the next offset is {expected}"
            )
        ends[file.partition] = file.end
    return ends


def final_path(topic: TopicInfo, file: StagedFile, run_id: str) -> str:
    """Cluster, topic id, partition and offsets; and the run, so that no two runs ever write the same name."""
    folder = f"{LOG_FOLDER}/{_safe(topic.cluster_id)}/{_safe(topic.topic_id)}/{file.partition:05d}"
    return f"{folder}/{file.begin:020d}-{file.end:020d}-{run_id}.parquet"


def rename_files(table: LakeTable, moves: Sequence[tuple[StagedFile, str]]) -> list[LakeFile]:
    """Give staged files their names inside the table, durably. Only under the commit lock."""
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
    table: LakeTable, files: Sequence[LakeFile], version: int, run_id: str, marks: Mapping[str, int]
) -> None:
    """Commit on `version`. When another commit was first: remove the files, raise StaleSnapshotError."""
    for file in files:
        if not (table.folder / file.path).is_file():
            raise FileNotFoundError(
                errno.ENOENT, "went away before the commit", str(table.folder / file.path)
            )
    try:
        table.commit_files(files, expected_version=version, marks=marks, note={"fleetloop.run": run_id})
    except StaleSnapshotError:
        for file in files:
            with suppress(FileNotFoundError):  # VACUUM of another engine may have been first
                syscalls.unlink(table.folder / file.path)
        raise


def _upwards(folder: Path, root: Path) -> list[Path]:
    """`folder` and what is above it, up to `root`: a new folder's name must be durable too."""
    found = [folder]
    while found[-1] != root:
        found.append(found[-1].parent)
    return found


def _safe(name: str) -> str:
    """`name` as a folder's: letters, digits, "-" and "_" stay, the rest becomes its code."""
    written = re.sub(r"[^A-Za-z0-9_-]", lambda found: f".{ord(found[0]):02x}.", name)
    return f"x{written}"[:200]

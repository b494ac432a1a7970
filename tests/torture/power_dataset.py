"""A dataset commit on a tape, with all that DVC and git write in it, and its repetition after a power loss.

The names follow the promise of ext4 and XFS (changes of names are durable in order), on which git and DVC rely; bytes
that no fsync covered are lost, torn or there as everywhere.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from connectors.lake.schema import ARRIVALS, LABELS
from connectors.lake.table import LakeTable
from foundation.clock import boot_id
from pipelines.dataset.lock import write_lock
from pipelines.dataset.make import curate
from pipelines.dataset.versions import commit_version, list_versions
from services.init import make_workspace
from tests.checker.power_states import judge_versions
from tests.pipelines.curate_lake import CLASSES, arrival, fleet_rows, label_rows, picture
from tests.torture.power_disk import PowerLossDisk, Tree
from tests.torture.power_strace import read_log, traced_command
from tests.torture.power_tape import Tape
from workspace.layout import Workspace

FLEET = "fleet"


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit of the second version: its tape, and the disk before it."""

    tape: Tape
    disk: PowerLossDisk


def record_commit(folder: Path) -> Commit:
    """Commit a first version for real, make a second dataset, and let a traced child commit that."""
    base = folder / "disk"
    base.mkdir()
    workspace = make_workspace(base / FLEET, classes=CLASSES, with_keys=False)
    _add(workspace, fleet_rows(6, 3))
    write_lock(workspace)
    curate(workspace)
    commit_version(workspace, "first")
    _add(workspace, [arrival(picture(7_000 + n), vehicle="late", seq=n, drive="late") for n in range(3)])
    write_lock(workspace)
    curate(workspace)
    disk = PowerLossDisk(base, is_ordered=True)
    log, told = folder / "strace", folder / "told"
    told.touch()

    command = [sys.executable, "-B", "-m", "tests.torture.power_dataset", str(workspace.root), str(told)]
    status = traced_command(command, log, limit_s=400.0)
    if status:
        raise RuntimeError(f"status {status}: {log.with_suffix('.error').read_text()[-1_500:]}")
    tape = Tape(base)
    tape.steps = list(read_log(log, disk, told, workspace.root))
    return Commit(tape, disk)


def _add(workspace: Workspace, rows: list[dict[str, object]]) -> None:
    for name, schema, part in (("arrivals", ARRIVALS, rows), ("labels", LABELS, label_rows(rows))):
        LakeTable.create(workspace.lake_path / name, schema).append(pa.Table.from_pylist(part, schema))


def write_repository(tree: Tree, target: Path) -> None:
    """As `write_tree`; objects of DVC are read-only, as it leaves them (it trusts those); the boot is another one."""
    from tests.torture.power_disk import write_tree

    here, before = boot_id().encode(), b"0" * len(boot_id())
    marker = f"{FLEET}/.fleetloop/commit-under-way.json"
    if isinstance(held := tree.get(marker), bytes):
        tree = tree | {marker: held.replace(here, before)}
    write_tree(tree, target)
    for name in tree:
        if "/cache/files/md5/" in name and (target / name).is_file():
            (target / name).chmod(0o444)


def judge_and_repeat(base: Path, told: list[str], *, repeats: bool) -> list[str]:
    """The versions as they are in git and in the remote; then the commit again, for real, when it `repeats`."""
    try:
        versions = [version.id for version in list_versions(Workspace.open(base / FLEET))]
    except Exception as error:
        return [f"versions_unreadable: {type(error).__name__}: {error}"]
    must = ["v1", *(["v2"] if "committed v2" in told else [])]
    broken = [f"version_lost: {name}" for name in must if name not in versions]
    broken += judge_versions(base / FLEET, must=must, may=["v2"])
    if broken or not repeats:
        return broken
    try:
        version, _ = commit_version(Workspace.open(base / FLEET), "second")
    except Exception as error:
        return [f"cannot_be_committed_again: {type(error).__name__}: {str(error)[-600:]}"]
    if version.id != "v2":
        broken.append(f"other_version: {version.id}")
    return broken + judge_versions(base / FLEET, must=["v1", "v2"], may=[])


def remove(base: Path) -> None:
    """Read-only objects as well."""
    shutil.rmtree(base, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """The traced command: FLEET TOLD."""
    commit_version(Workspace.open(Path(arguments[0])), "second")
    fd = os.open(arguments[1], os.O_WRONLY)
    os.write(fd, b"committed v2\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Power loss at any call of the spool, of the model slots and of a dataset commit: legal states, really opened."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

if TYPE_CHECKING:
    from tests.torture.power_disk import Tree

STATES_OF_A_TAPE = 40
MODEL_STATES_OF_A_TAPE = 60
REPEATED_ONE_IN = 40


def memory_folder() -> Path | None:
    """A folder in memory, where there is one: an fsync there costs nothing, and nothing of it is under test."""
    place = Path("/dev/shm")  # noqa: S108 - the fixed name of the system's memory disk
    return place if place.is_dir() else None


def spool(batch: Batch) -> Tally:
    """Each try is one state after a power loss; one tape serves 40 of them."""
    from tests.torture.power_disk import PowerLossDisk, write_tree
    from tests.torture.power_spool import (
        EXCUSES,
        lose_power_again,
        open_and_judge,
        record_busy_spool,
        told_by,
    )
    from tests.torture.power_tape import moments

    tally = Tally()
    with tempfile.TemporaryDirectory(dir=memory_folder(), prefix="torture-power-") as name:
        for number, group in groupby(batch.numbers(), lambda number: number // STATES_OF_A_TAPE):
            work = Path(name) / f"tape{number}"
            work.mkdir()
            recorded = record_busy_spool(work, f"{batch.seed}/tape/{number}")
            tally.count("tapes")
            tally.count("calls_recorded", recorded.tape.calls)
            disk = PowerLossDisk(work / "state", is_read=False)
            tries = list(group)
            cuts = sorted((batch.rng(one).randrange(1, len(recorded.tape.steps) + 1), one) for one in tries)
            seen: set[bytes] = set()
            for (cut, one), (_, marks) in zip(
                cuts, moments(recorded.tape, disk, [cut for cut, _ in cuts]), strict=True
            ):
                rng = batch.rng(one)
                rng.random()
                tree = disk.state(rng)
                seen.add(fingerprint(tree))
                after = work / f"after{one}"
                write_tree(tree, after)
                folder = after / "spool"
                if rng.random() < 0.2 and folder.is_dir():
                    marks = lose_power_again(folder, work / f"again{one}", recorded.settings, marks, rng)
                    folder = work / f"again{one}"
                    tally.count("states_lost_twice")
                judged = open_and_judge(folder, recorded.settings, told_by(marks, recorded.offered), EXCUSES)
                tally.judge(judged.violations, f"try {one}: power lost after call {cut} of tape {number}")
                tally.count("records_delivered_after", judged.delivered)
                tally.count("receipts_checked", sum(mark[0] == "receipt" for mark in marks))
                tally.measure("recovery_s", judged.recovery_s)
                shutil.rmtree(after)
                shutil.rmtree(work / f"again{one}", ignore_errors=True)
            tally.count("different_states", len(seen))
            shutil.rmtree(work)
    return tally


def models(batch: Batch) -> Tally:
    """Each try is one state after a power loss; one tape serves 60 of them, of three stories in turn."""
    from tests.torture.power_disk import write_tree
    from tests.torture.power_models import STORIES, allowed_by, record_story, start_and_judge
    from tests.torture.power_tape import moments

    tally = Tally()
    with tempfile.TemporaryDirectory(dir=memory_folder(), prefix="torture-power-") as name:
        for number, group in groupby(batch.numbers(), lambda number: number // MODEL_STATES_OF_A_TAPE):
            work = Path(name) / f"story{number}"
            work.mkdir()
            story = record_story(STORIES[number % len(STORIES)], work)
            tally.count("tapes")
            tally.count("calls_recorded", story.tape.calls)
            seen: set[bytes] = set()
            cuts = sorted((batch.rng(one).randrange(1, len(story.tape.steps) + 1), one) for one in group)
            stops = moments(story.tape, story.disk, [cut for cut, _ in cuts])
            for (cut, one), (_, marks) in zip(cuts, stops, strict=True):
                rng = batch.rng(one)
                rng.random()
                tree = story.disk.state(rng)
                seen.add(fingerprint(tree))
                after = work / f"after{one}"
                write_tree(tree, after)
                broken = start_and_judge(story, after, allowed_by(marks))
                tally.judge(broken, f"try {one}: {story.name}, power lost after call {cut}")
                tally.count(f"states_of_{story.name}")
                shutil.rmtree(after)
            tally.count("different_states", len(seen))
            shutil.rmtree(work)
    return tally


def dataset(batch: Batch) -> Tally:
    """Each try is one state after a power loss in one commit; one in 40 of them is committed again for real."""
    from tests.torture.power_dataset import judge_and_repeat, record_commit, remove, write_repository
    from tests.torture.power_tape import moments

    tally = Tally()
    with tempfile.TemporaryDirectory(dir=memory_folder(), prefix="torture-power-") as name:
        commit = record_commit(Path(name))
        tally.count("tapes")
        tally.count("calls_recorded", commit.tape.calls)
        ends = len(commit.tape.steps)
        cuts = sorted((min(ends, batch.rng(one).randrange(1, ends + 10)), one) for one in batch.numbers())
        seen: set[bytes] = set()
        stops = moments(commit.tape, commit.disk, [cut for cut, _ in cuts])
        for (cut, one), (_, marks) in zip(cuts, stops, strict=True):
            rng = batch.rng(one)
            rng.random()
            tree = commit.disk.state(rng)
            seen.add(fingerprint(tree))
            after = Path(name) / f"after{one}"
            write_repository(tree, after)
            repeats = one % REPEATED_ONE_IN == 0
            broken = judge_and_repeat(after, [mark[0] for mark in marks], repeats=repeats)
            tally.judge(broken, f"try {one}: power lost after call {cut} of {ends}")
            tally.count("commits_repeated", repeats)
            remove(after)
        tally.count("different_states", len(seen))
    return tally


def needs_strace() -> str | None:
    """Why nothing can be recorded by strace here, or None."""
    from tests.torture.power_strace import needs

    return needs()


def fingerprint(tree: Tree) -> bytes:
    """The same for the same state."""
    digest = hashlib.sha256()
    for path, content in sorted(tree.items()):
        digest.update(f"{path}\0{type(content).__name__}\0".encode())
        digest.update(content if isinstance(content, bytes) else str(content).encode())
    return digest.digest()


FAULTS = (
    Fault(
        name="power-loss-spool",
        group=3,
        guarantees=("G1", "G2"),
        what=(
            "Power is lost at any call of the spool (segments, ledger, acknowledgements, eviction, restarts), and in"
            " one of five states again during the recovery: nothing that had a receipt is lost, nothing comes under"
            " a second name, the ledger balances."
        ),
        one_try="one state of the disk, opened by the real recovery and delivered",
        full=9_500,
        turn=400,
        full_turn=800,
        run=spool,
        fixed=40,
        real=(
            "the spool's real calls, recorded; the states are simulated (unsynced sectors of 512 bytes in any subset"
            " and version, lengths, names), written to a disk in memory and opened by the real code"
        ),
        broken=(
            BrokenBuild(
                "a segment is not synced before its receipts",
                "edge_agent/spool/segment_file.py",
                "        syscalls.fsync(self._fd)\n",
                "",
            ),
            BrokenBuild(
                "the folder of a new segment is not synced",
                "edge_agent/spool/segment_file.py",
                "            fsync_folder(self._path.parent)\n",
                "            pass\n",
            ),
            BrokenBuild(
                "a snapshot is renamed into place before its bytes are synced",
                "edge_agent/spool/statelog.py",
                "            syscalls.fsync(fd)\n",
                "",
            ),
            BrokenBuild(
                "a segment is unlinked before its removal is durable",
                "edge_agent/spool/evict.py",
                "if not self._to_unlink or not self._log.sync():",
                "if not self._to_unlink:",
            ),
        ),
    ),
    Fault(
        name="power-loss-models",
        group=3,
        guarantees=("G6",),
        what=(
            "Power is lost at any call while a vehicle takes in a model, gives a bad one back, or is enrolled: it"
            " starts, the old or the new verified model serves and no other, its trust is not rolled back, and the"
            " next fetch finishes what was begun."
        ),
        one_try="one state of the disk, started on by the real code",
        full=1_500,
        turn=120,
        full_turn=300,
        run=models,
        needs=needs_strace,
        real=(
            "the calls of a real process, recorded by strace, real TUF; the states are simulated, the runtime and the"
            " trial are stand-ins"
        ),
        broken=(
            BrokenBuild(
                "a file is renamed into place before its bytes are synced",
                "foundation/files.py",
                "                syscalls.write_all(fd, piece)\n            syscalls.fsync(fd)\n",
                "                syscalls.write_all(fd, piece)\n",
                tries=180,
            ),
            BrokenBuild(
                "the folder is not synced after a rename",
                "foundation/files.py",
                "    fsync_folder(target.parent)\n",
                "",
                tries=180,
            ),
        ),
    ),
    Fault(
        name="power-loss-dataset",
        group=3,
        guarantees=("G4",),
        what=(
            "Power is lost at any call of a dataset commit, those of git and DVC among them: the old version is whole"
            " in git and in the remote, the new one too once the commit returned, and the next commit finishes."
        ),
        one_try="one state of the disk, its versions read from git and DVC's files; one in 40 is committed again",
        full=500,
        turn=40,
        full_turn=250,
        run=dataset,
        needs=needs_strace,
        turn_limit_s=1_800.0,
        real=(
            "the calls of a real commit with real git and DVC, recorded by strace; the states are simulated, and names"
            " are taken to become durable in order, as ext4 and XFS promise"
        ),
        broken=(
            BrokenBuild(
                "what DVC and git wrote is not synced before the commit returns",
                "pipelines/dataset/cut_commit.py",
                "        for folder in self._folders():\n",
                "        for folder in ():\n",
            ),
            BrokenBuild(
                "git does not sync what it writes",
                "pipelines/dataset/dvc.py",
                '[*self._git(), "-c", "core.fsync=all", *arguments]',
                "[*self._git(), *arguments]",
            ),
        ),
    ),
)

"""The simulated disk tells what the real one holds, and loses only what no fsync covered."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.torture.power_disk import PowerLossDisk, Tree, torn, write_tree
from tests.torture.power_spool import record_busy_spool
from tests.torture.power_strace import Injection, needs, read_log, traced_child
from tests.torture.power_tape import Mark, Tape, moments


def tree_of(folder: Path) -> Tree:
    """What is really there."""
    tree: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            tree[name] = str(path.readlink())
        else:
            tree[name] = None if path.is_dir() else path.read_bytes()
    return tree


def without_locks(tree: Tree) -> Tree:
    return {name: content for name, content in tree.items() if not name.endswith(".lock")}


def test_a_tape_of_the_spool_played_to_its_end_is_what_is_on_the_real_disk(tmp_path: Path) -> None:
    recorded = record_busy_spool(tmp_path, "recorder")
    disk = PowerLossDisk(tmp_path / "state", is_read=False)
    for _ in moments(recorded.tape, disk, [len(recorded.tape.steps)]):
        pass
    assert without_locks(disk.everything()) == without_locks(tree_of(tmp_path / "state"))


def test_unsynced_bytes_and_names_may_be_lost_and_synced_ones_are_not() -> None:
    disk = PowerLossDisk("/d", is_read=False)
    disk.opened("/d/a", creates=True)
    disk.wrote("/d/a", b"one", None)
    assert disk.worst() == {}
    disk.synced("/d/a")
    assert disk.worst() == {}, "the name is not durable"
    disk.synced("/d")
    disk.wrote("/d/a", b"two", None)
    disk.renamed("/d/a", "/d/b")
    assert disk.worst() == {"a": b"one"}
    assert disk.everything() == {"b": b"onetwo"}
    rng = random.Random(1)
    seen = {tuple(sorted(disk.state(rng).items())) for _ in range(300)}
    assert (("a", b"one"),) in seen
    assert (("b", b"onetwo"),) in seen
    assert all(len(state) == 1 for state in seen), "a rename is whole"
    assert all(state[0][1][:3] == b"one" for state in seen)
    disk.synced("/d")
    assert disk.worst() == {"b": b"one"}


def test_after_a_failed_fsync_a_later_one_makes_nothing_durable_that_was_not_written_again() -> None:
    disk = PowerLossDisk("/d", is_read=False)
    disk.opened("/d/a", creates=True)
    disk.synced("/d")
    disk.wrote("/d/a", b"lost", None)
    disk.synced("/d/a", failed=True)
    disk.wrote("/d/a", b"kept", None)
    disk.synced("/d/a")
    assert disk.worst() == {"a": b"\0\0\0\0kept"}
    disk.wrote("/d/a", b"lost", 0)
    disk.synced("/d/a")
    assert disk.worst() == {"a": b"lostkept"}


def test_a_file_is_torn_at_sectors_and_never_inside_what_was_synced() -> None:
    durable, newest = b"a" * 700, b"a" * 700 + b"b" * 2_000
    rng = random.Random(3)
    seen = {torn([durable, newest], rng) for _ in range(400)}
    assert durable in seen
    assert newest in seen
    assert len(seen) > 20
    for one in seen:
        assert one[:700] == durable
        assert len(set(one[700:1_024])) <= 1, "a sector is whole"
        assert set(one[1_024:]) <= {0, ord("b")}


@pytest.mark.skipif(needs() is not None, reason="needs strace")
def test_what_strace_recorded_of_a_child_is_what_is_on_the_real_disk(tmp_path: Path) -> None:
    root, told = tmp_path / "root", tmp_path / "told"
    root.mkdir()
    (root / "old").write_bytes(b"was there")
    told.touch()
    disk = PowerLossDisk(root)

    def work() -> None:
        (root / "sub").mkdir()
        fd = os.open(root / "sub" / "new, with a comma", os.O_RDWR | os.O_CREAT)
        os.write(fd, bytes(range(256)) * 20)
        os.pwrite(fd, b'"quoted"', 3)
        os.lseek(fd, 1_000, os.SEEK_SET)
        os.write(fd, b"in the middle")
        teller = os.open(told, os.O_WRONLY)
        os.write(teller, b"half way\n")
        (root / "sub" / "new, with a comma").rename(root / "final")
        os.write(fd, b"after the rename")
        os.truncate(fd, 5_000)
        (root / "old").unlink()
        (root / "link").symlink_to("final")

    assert traced_child(work, tmp_path / "log") == 0
    tape = Tape(root)
    tape.steps = list(read_log(tmp_path / "log", disk, told))
    assert [step.what for step in tape.steps if isinstance(step, Mark)] == [("half way",)]
    for _, marks in moments(tape, disk, [len(tape.steps)]):
        assert marks == [("half way",)]
    assert disk.everything() == tree_of(root)
    write_tree(disk.everything(), tmp_path / "again")
    assert tree_of(tmp_path / "again") == tree_of(root)
    assert disk.worst() == {"old": b"was there"}


@pytest.mark.skipif(needs() is not None, reason="needs strace")
def test_an_injected_failure_hits_the_call_that_was_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    disk = PowerLossDisk(root)

    def work() -> None:
        fd = os.open(root / "a", os.O_RDWR | os.O_CREAT)
        for letter in (b"a", b"b", b"c"):
            os.write(fd, letter)
            try:
                os.fsync(fd)
            except OSError:
                continue

    assert traced_child(work, tmp_path / "log", injection=Injection("fsync", "EIO", 2)) == 0
    names = [step.name for step in read_log(tmp_path / "log", disk)]
    assert names == ["opened", "wrote", "synced", "wrote", "sync_failed", "wrote", "synced"]

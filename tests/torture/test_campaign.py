"""The campaign counts what happened: time-boxed, resumable, and never kinder than its faults."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from devservers.static_server import StaticServer
from tests.torture import __main__ as command
from tests.torture import page
from tests.torture.broken import broken
from tests.torture.campaign import time_boxed, to_the_counts, write_result
from tests.torture.fault import Batch, BrokenBuild, Fault, Tally, find_faults
from tests.torture.models_cuts import CUT_BYTES, CuttingLine
from tests.torture.tree import frozen_tree
from tests.torture.turns import ROOT, take_turn


def nothing(batch: Batch) -> Tally:
    raise AssertionError("a fault of these tests is not run, its turns are made up")


def fault(name: str, *, full: int = 10, turn: int = 4, need: str | None = None) -> Fault:
    return Fault(
        name,
        1,
        ("G1",),
        "It is hit.",
        "one hit",
        full,
        turn,
        nothing,
        (),
        "all of it is made up",
        needs=lambda: need,
    )


class World:
    """Turns that are not run: each takes its time, and fails where it is told to."""

    def __init__(self, seconds: dict[str, float], fails_at: int = -1) -> None:
        self.now_s = 100.0
        self.taken: list[tuple[str, int, int]] = []
        self._seconds, self._fails_at = seconds, fails_at

    def now(self) -> float:
        return self.now_s

    def turn(self, fault: Fault, *, seed: int, first: int, tries: int, seconds: float | None) -> Tally:
        self.now_s += self._seconds[fault.name]
        self.taken.append((fault.name, first, tries))
        tally = Tally()
        for number in range(first, first + tries):
            tally.judge(["lost one"] if number == self._fails_at else [], f"try {number}")
            tally.count("hits")
            tally.measure("recovery_s", number / 10)
        return tally


def test_a_box_of_time_is_not_overrun_and_every_fault_has_its_turn() -> None:
    world = World({"a": 5.0, "b": 20.0, "c": 1.0})
    accounts = time_boxed(
        [fault("a"), fault("b"), fault("c")], seconds=90.0, seed=0, say=print, turn=world.turn, now=world.now
    )
    assert world.now_s <= 190.0
    assert {name for name, _, _ in world.taken[:3]} == {"a", "b", "c"}
    assert all(each.tally.tries == 4 * each.turns > 0 for each in accounts)
    assert accounts[2].turns > accounts[1].turns, "whoever had the least time is next"


def test_a_fault_that_cannot_run_here_is_named_and_not_tried() -> None:
    world = World({"a": 5.0})
    accounts = time_boxed(
        [fault("a"), fault("b", need="needs strace")],
        seconds=20.0,
        seed=1,
        say=print,
        turn=world.turn,
        now=world.now,
    )
    assert [each.skipped for each in accounts] == [None, "needs strace"]
    assert accounts[1].tally.tries == 0


def test_a_campaign_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    class StoppedError(BaseException):
        pass

    def stopping(*arguments: object, **names: object) -> Tally:
        if len(world.taken) == 2:
            raise StoppedError
        return world.turn(*arguments, **names)  # type: ignore[arg-type]

    world = World({"a": 5.0, "b": 5.0})
    faults = [fault("a"), fault("b", full=5)]
    with pytest.raises(StoppedError):
        to_the_counts(faults, folder=tmp_path, seed=7, say=print, turn=stopping, now=world.now)
    accounts = to_the_counts(faults, folder=tmp_path, seed=7, say=print, turn=world.turn, now=world.now)
    assert world.taken == [("a", 0, 4), ("a", 4, 4), ("a", 8, 2), ("b", 0, 4), ("b", 4, 1)]
    assert [each.tally.tries for each in accounts] == [10, 5]
    assert accounts[0].tally.counted["hits"] == 10
    again = to_the_counts(faults, folder=tmp_path, seed=7, say=print, turn=stopping, now=world.now)
    assert [each.tally.survived for each in again] == [10, 5]


def test_another_seed_is_another_campaign(tmp_path: Path) -> None:
    world = World({"a": 5.0})
    for seed in (7, 8):
        to_the_counts([fault("a")], folder=tmp_path, seed=seed, say=print, turn=world.turn, now=world.now)
    assert len(world.taken) == 6


def test_a_try_that_failed_stays_failed_in_the_result_and_on_the_page(tmp_path: Path) -> None:
    world = World({"a": 5.0, "b": 1.0}, fails_at=9)
    accounts = to_the_counts(
        [fault("a")], folder=tmp_path / "full", seed=7, say=print, turn=world.turn, now=world.now
    )
    assert not write_result(accounts, tmp_path / "full.json", command="make torture-full SEED=7", seed=7)
    [row] = json.loads((tmp_path / "full.json").read_text())
    assert {"fault": "a", "guarantee": "G1", "tries": 10, "survived": 9}.items() <= row.items()
    assert row["counted"] == {"hits": 10, "recovery_s": {"number": 10, "median": 0.45, "max": 0.9}}
    told = page.reliability(tmp_path)
    assert "| 1 | a | G1 | 10 | 9 | 10 hits; recovery s: median 0.45, largest 0.9 |" in told
    assert "try 9: lost one" in told


def test_a_largest_is_not_added_up() -> None:
    one, other = Tally(), Tally()
    one.count("max_growth_mb", 12)
    other.count("max_growth_mb", 7)
    one.add(other)
    assert one.counted == {"max_growth_mb": 12}


def test_a_replacement_that_is_not_there_once_breaks_nothing(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text("a\nb\na\n")
    for old in ("a\n", "c\n"):
        with pytest.raises(RuntimeError, match="not once"), broken(tmp_path, "code.py", old, ""):
            pass
    with broken(tmp_path, "code.py", "b\n", "x\n"):
        assert file.read_text() == "a\nx\na\n"
    assert file.read_text() == "a\nb\na\n"


def test_an_edit_of_the_tree_does_not_reach_a_campaign_that_is_under_way(tmp_path: Path) -> None:
    code = tmp_path / "room" / "code.py"
    code.parent.mkdir()
    code.write_text("LIMIT = 1\n")
    with frozen_tree(tmp_path) as tree:
        code.write_text("LIMIT = 2\n")
        assert (tree / "room" / "code.py").read_text() == "LIMIT = 1\n"
    assert not tree.exists()


@pytest.mark.parametrize("what", ["box", "full"])
def test_every_turn_of_a_campaign_is_of_one_frozen_tree(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is the one place where a turn gets its tree, so what it hands to the turns is recorded."""
    trees: list[Path] = []

    def turn(each: Fault, *, tree: Path, tries: int, **_rest: object) -> Tally:
        trees.append(tree)
        assert (tree / "tests" / "torture" / "turns.py").exists()
        return Tally(tries, tries)

    monkeypatch.setattr(command, "take_turn", turn)
    monkeypatch.setattr(command, "find_faults", lambda: {"a": fault("a"), "b": fault("b")})
    arguments = [what, "--seconds", "0.2", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    assert len(trees) > 1
    assert {tree.samefile(ROOT) for tree in trees if tree.exists()} == set()
    assert len(set(trees)) == 1


def test_a_line_that_is_reset_has_delivered_every_byte_up_to_the_cut_however_narrow_the_window(
    tmp_path: Path,
) -> None:
    data = bytes(range(256)) * 1_000
    (tmp_path / "m.onnx").write_bytes(data)
    got = b""
    with (
        StaticServer(tmp_path) as server,
        CuttingLine(int(server.url.rpartition(":")[2]), "reset") as line,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10.0)
        client.connect(("127.0.0.1", int(line.url.rpartition(":")[2])))
        client.sendall(b"GET /m.onnx HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            while part := client.recv(1024):
                got += part
    assert got.partition(b"\r\n\r\n")[2] == data[:CUT_BYTES]


def each_build() -> list[tuple[str, BrokenBuild]]:
    return [(name, build) for name, each in find_faults().items() for build in each.broken]


def test_every_fault_has_a_broken_build_and_its_replacement_is_in_the_tree() -> None:
    root = Path(__file__).resolve().parents[2]
    for name, each in find_faults().items():
        assert each.broken, f"{name} was never seen to fail"
    for name, build in each_build():
        assert (root / build.path).read_text().count(build.old) == 1, f"{name}: {build.change}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, each in find_faults().items() if each.fixed])
def test_the_fixed_part_of_the_campaign_is_survived(name: str) -> None:
    each = find_faults()[name]
    if (need := each.needs()) is not None:
        pytest.skip(need)
    tally = take_turn(each, seed=7, first=0, tries=each.fixed)
    assert tally.tries > 0
    assert tally.failures == []
    assert tally.survived == tally.tries

"""The place in a source is as durable as the samples: no kill, loss of power or full disk repeats what was accepted."""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.config import CaptureSettings, NoveltySettings, RandomSettings
from edge_agent.spool.segment import StepEntry, list_segments, scan_segment
from edge_agent.spool.snapshot import read_ledger
from edge_agent.spool.statelog import StateLog
from tests.edge_agent.agent_bench import Vehicle1, enrol, make_frame, settings_for
from tests.edge_agent.spool.spool_rig import Faults, faults
from tests.edge_agent.test_frame_loop import counts, drive, samples, selection
from tests.torture.power_disk import PowerLossDisk, write_tree
from tests.torture.power_tape import moments, recording

FRAMES = [make_frame(n, payload=b"no picture" if n % 3 == 1 else None) for n in range(24)]
CHOSEN = selection(random=RandomSettings(probability=0.5))
WINDOW = CaptureSettings(pre_s=0.001)
"""Samples of two value classes: triggers, and what stands before them."""


class FullDisk:
    """ENOSPC for one system call (`write`, `fsync`, `rename`) while `is_full`, where it concerns the ledger."""

    def __init__(self, hook: Faults, call: str) -> None:
        self.call, self.is_full, self.refused = call, False, 0
        hook.before = self._before

    def _before(self, call: str, arguments: tuple[object, ...]) -> None:
        if not self.is_full or call != self.call:
            return
        first = arguments[0]
        path = str(Path(f"/proc/self/fd/{first}").readlink()) if isinstance(first, int) else str(first)
        if "ledger.journal" in path:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(params=["write", "fsync", "rename"])
def disk(request: pytest.FixtureRequest) -> Iterator[FullDisk]:
    with faults(is_syncing=False) as hook:
        yield FullDisk(hook, request.param)


def goes_on(vehicle: Vehicle1) -> list:
    """The frames after the place at which a restarted vehicle stands."""
    frame_id = vehicle.frame_id
    return FRAMES[0 if frame_id is None else int(frame_id[-5:]) + 1 :]


def assert_exact(vehicle: Vehicle1, least: int = 4) -> None:
    """Each frame was accepted once or counted once."""
    found = counts(vehicle)
    assert found["unreadable_image"] == 8
    assert sum(found.values()) == len(FRAMES) == vehicle.progress.frames_seen
    assert len({sample.frame_id for sample in samples(vehicle)}) == found["accepted"] >= least


def test_a_kill_while_the_ledger_finds_no_room_repeats_nothing(tmp_path: Path, disk: FullDisk) -> None:
    """The steps stand beside the samples, so the place needs no room of its own."""
    vehicle = Vehicle1(settings_for(tmp_path, selection=CHOSEN, capture=WINDOW))
    drive(vehicle, FRAMES[:4])
    vehicle.loop.pause()
    disk.is_full = True
    drive(vehicle, FRAMES[4:16])
    vehicle.loop.pause()
    vehicle.clock.advance(10.0)
    drive(vehicle, FRAMES[16:18])
    vehicle.kill()
    vehicle.start()
    assert disk.refused
    assert int(vehicle.frame_id[-5:]) > 8, "a start that cannot write the ledger knows the place too"
    disk.is_full = False
    drive(vehicle, goes_on(vehicle))
    vehicle.end_source()
    assert_exact(vehicle)


def test_no_loss_of_power_at_any_system_call_repeats_or_loses_an_observation(tmp_path: Path) -> None:
    """Ledger and segments keep or lose any part that was not synced; what is found is opened and driven to its end."""
    spool = tmp_path / "car" / "state" / "spool"
    enrol(spool.parent)
    spool.mkdir()
    with recording(spool) as tape:
        disk = PowerLossDisk(spool)
        vehicle = Vehicle1(settings_for(tmp_path / "car", selection=CHOSEN, capture=WINDOW))
        vehicle.writer.on_commit = lambda receipt: tape.mark("accepted", receipt.last_seq)
        for frame in FRAMES:
            vehicle.play(frame)
            vehicle.clock.advance(0.07)
        vehicle.end_source()
    vehicle.kill()
    rng = random.Random(7)
    cuts = sorted(rng.randint(1, len(tape.steps)) for _ in range(25))
    found = Counter[int]()
    for number, (_, marks) in enumerate(moments(tape, disk, cuts)):
        after = tmp_path / f"after{number}"
        enrol(after / "state")
        write_tree(disk.state(rng), after / "state" / "spool")
        again = Vehicle1(settings_for(after, selection=CHOSEN, capture=WINDOW))
        assert not again.trouble
        if marks:
            assert read_ledger(again.state.spool).epochs[0].next_seq > marks[-1][1]
        begin = goes_on(again)
        found[len(begin)] += 1
        drive(again, begin)
        again.end_source()
        ids = Counter(sample.frame_id for sample in samples(again))
        assert set(ids.values()) == {1}
        told = counts(again)
        assert sum(told.values()) == len(FRAMES) == again.progress.frames_seen
    assert len(found) > 4, "the places differ, so the power was lost on the way"


def test_a_step_stands_in_the_same_segment_as_its_sample(tmp_path: Path) -> None:
    vehicle = Vehicle1(settings_for(tmp_path, selection=CHOSEN, capture=WINDOW))
    drive(vehicle, FRAMES)
    vehicle.end_source()
    steps = [
        item.seq
        for _, path in list_segments(vehicle.state.spool / "segments").values()
        for item in scan_segment(os.open(path, os.O_RDONLY))
        if isinstance(item, StepEntry)
    ]
    assert sorted(steps) == list(range(counts(vehicle)["accepted"]))


def test_what_was_delivered_leaves_and_the_place_stays(tmp_path: Path) -> None:
    vehicle = Vehicle1(settings_for(tmp_path, selection=CHOSEN, capture=WINDOW))
    drive(vehicle, FRAMES[:12])
    vehicle.loop.pause()
    place = vehicle.place
    deliver_all(vehicle)
    vehicle.clock.advance(2.0)
    vehicle.loop.pause()
    assert list_segments(vehicle.state.spool / "segments") == {}
    vehicle.kill()
    vehicle.start()
    assert vehicle.place == place
    drive(vehicle, goes_on(vehicle))
    vehicle.end_source()
    assert sum(counts(vehicle).values()) == len(FRAMES) == vehicle.progress.frames_seen


def deliver_all(vehicle: Vehicle1) -> None:
    from edge_agent.spool.reader import SpoolReader
    from foundation.events import EventLog

    with SpoolReader.open(
        vehicle.state.spool, vehicle.settings.spool, "car-1", vehicle.clock, EventLog(None)
    ) as reader:
        while leased := reader.lease(10**9):
            reader.acknowledge(record.identity for record in leased)


def test_a_disk_without_room_for_the_novelty_memory_still_takes_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else delivered segments could not leave, and the disk would stay full: the memory is what can be done without."""
    chosen = selection(
        random=RandomSettings(probability=1.0), novelty=NoveltySettings(enabled=True, memory_frames=16)
    )
    vehicle = Vehicle1(settings_for(tmp_path, selection=chosen))
    drive(vehicle, [make_frame(n) for n in range(12)])
    vehicle.loop.pause()
    assert len(vehicle.progress.memory) == 12
    log = vehicle.writer._log
    real = StateLog._replace
    whole_bytes = 0

    def small_only(self: StateLog, data: bytes) -> bool:
        nonlocal whole_bytes
        whole_bytes = max(whole_bytes, len(data))
        return len(data) < whole_bytes and real(self, data)

    monkeypatch.setattr(StateLog, "_replace", small_only)
    assert log.rewrite()
    vehicle.kill()
    monkeypatch.setattr(StateLog, "_replace", real)
    vehicle.start()
    assert vehicle.frame_id == "frame-00011"
    assert len(vehicle.progress.memory) == 0


def novel(tmp_path: Path) -> Vehicle1:
    chosen = selection(
        random=RandomSettings(probability=1.0), novelty=NoveltySettings(enabled=True, memory_frames=64)
    )
    return Vehicle1(settings_for(tmp_path, selection=chosen))


def test_a_novelty_memory_larger_than_a_frame_of_the_ledger_ends_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vehicle = novel(tmp_path)
    drive(vehicle, [make_frame(n) for n in range(60)])
    vehicle.loop.pause()
    vehicle.kill()
    monkeypatch.setattr("foundation.framing.MAX_BODY_BYTES", 6_000)
    vehicle.start()
    assert vehicle.frame_id == "frame-00059"


def test_of_a_large_novelty_memory_the_newest_is_kept_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vehicle = novel(tmp_path)
    drive(vehicle, [make_frame(n) for n in range(12)])
    vehicle.loop.pause()
    newest = vehicle.progress.memory.matrix()
    monkeypatch.setattr("edge_agent.durable_progress.MAX_MEMORY_BYTES", newest[-5:].nbytes)
    vehicle.writer.close()
    vehicle.kill()
    vehicle.start()
    vehicle.kill()
    vehicle.start()
    assert vehicle.progress.memory.matrix().tolist() == newest[-5:].tolist()


@pytest.mark.parametrize(
    "body",
    [
        b'[[1,0,"\xff",null]]',
        b"[[1,2," + b"[" * 100_000,
        b'[[1,0,null,{"not_accepted":{"no reason":1},"bytes":0}]]',
        b'[[1,0,null,{"not_accepted":[],"bytes":{}}]]',
    ],
    ids=["no UTF-8", "nested", "an unknown reason", "of other types"],
)
def test_a_step_that_cannot_be_read_ends_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    vehicle = Vehicle1(settings_for(tmp_path, selection=selection(random=RandomSettings(probability=1.0))))
    ledger = vehicle.state.spool / "ledger.journal"
    before = ledger.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.spool.writer.encode_steps", lambda _steps: body)
        vehicle.play(make_frame(0))
        vehicle.loop.pause()
    vehicle.kill()
    ledger.write_bytes(before)  # a loss of power: only the segment was synced
    vehicle.start()
    assert sum(row.accepted for row in read_ledger(vehicle.state.spool).epochs) == 1


def test_a_reason_that_only_a_later_agent_knows_stays_counted(tmp_path: Path) -> None:
    vehicle = Vehicle1(settings_for(tmp_path, selection=selection(random=RandomSettings(probability=1.0))))
    drive(vehicle, [make_frame(n) for n in range(3)])
    vehicle.loop.pause()
    vehicle.writer._account.not_accepted["reason_of_tomorrow"] = 2
    vehicle.writer._log.rewrite()
    vehicle.kill()
    for _ in range(2):
        vehicle.start()
        assert vehicle.frame_id == "frame-00002"
        assert read_ledger(vehicle.state.spool).counts.not_accepted["reason_of_tomorrow"] == 2
        vehicle.kill()

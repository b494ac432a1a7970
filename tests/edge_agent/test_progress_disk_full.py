"""A disk without room for perceive's place in the source stops nothing, is told, and costs nothing once there is room."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.config import RandomSettings
from edge_agent.place_keeper import JOURNAL_RETRY_S
from edge_agent.progress_journal import ProgressJournal, ProgressLimits
from edge_agent.selection.budget import BudgetLimits
from foundation.clock import ManualClock
from tests.edge_agent.agent_bench import Vehicle1, make_frame, settings_for
from tests.edge_agent.spool.spool_rig import Faults, faults
from tests.edge_agent.test_frame_loop import counts, drive, samples, selection

FRAMES = [make_frame(n, payload=b"no picture" if n % 3 == 1 else None) for n in range(24)]
CHOSEN = selection(random=RandomSettings(probability=0.5))


class FullDisk:
    """ENOSPC for one system call (`write`, `fsync`, `rename`) while `is_full`, where it concerns the progress journal."""

    def __init__(self, hook: Faults, call: str) -> None:
        self.call, self.is_full, self.refused = call, False, 0
        hook.before = self._before

    def _before(self, call: str, arguments: tuple[object, ...]) -> None:
        if not self.is_full or call != self.call:
            return
        first = arguments[0]
        path = str(Path(f"/proc/self/fd/{first}").readlink()) if isinstance(first, int) else str(first)
        if "progress.journal" in path:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(params=["write", "fsync", "rename"])
def disk(request: pytest.FixtureRequest) -> Iterator[FullDisk]:
    with faults(is_syncing=False) as hook:
        yield FullDisk(hook, request.param)


def events(vehicle: Vehicle1) -> list[str]:
    return [
        json.loads(line)["event"] for line in (vehicle.state.events / "bench.jsonl").read_text().splitlines()
    ]


def goes_on(vehicle: Vehicle1) -> list:
    """The frames after the place at which a restarted vehicle stands."""
    frame_id = vehicle.frame_id
    return FRAMES[0 if frame_id is None else int(frame_id[-5:]) + 1 :]


def assert_exact(vehicle: Vehicle1) -> None:
    found = counts(vehicle)
    assert found["unreadable_image"] == 8
    assert sum(found.values()) == len(FRAMES) == vehicle.journal.progress.frames_seen
    assert len({sample.frame_id for sample in samples(vehicle)}) == found["accepted"] > 3


def test_once_there_is_room_a_kill_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: FullDisk
) -> None:
    monkeypatch.setattr("edge_agent.progress_journal.COMPACT_AT_BYTES", 1_500)
    vehicle = Vehicle1(settings_for(tmp_path, selection=CHOSEN))
    drive(vehicle, FRAMES[:4])
    vehicle.loop.pause()
    disk.is_full = True
    for frame in FRAMES[4:16]:
        vehicle.play(frame)
        vehicle.clock.advance(JOURNAL_RETRY_S / 4)
    assert disk.refused
    assert "No space left" in vehicle.loop.progress_error
    assert events(vehicle).count("progress_lost") == 1, "told once, not at every try"
    accepted = counts(vehicle)["accepted"]
    disk.is_full = False
    for frame in FRAMES[16:20]:
        vehicle.play(frame)
        vehicle.clock.advance(JOURNAL_RETRY_S)
    assert vehicle.loop.progress_error == ""
    assert events(vehicle).count("progress_kept_again") == 1
    vehicle.loop.pause()
    assert counts(vehicle)["accepted"] > accepted > 1, "frames were accepted all the while"
    drive(vehicle, FRAMES[20:22])
    vehicle.kill()
    vehicle.start()
    assert not vehicle.trouble
    drive(vehicle, goes_on(vehicle))
    vehicle.end_source()
    assert_exact(vehicle)


def test_a_start_without_room_works_says_so_and_keeps_its_place_as_soon_as_it_can(
    tmp_path: Path, disk: FullDisk
) -> None:
    vehicle = Vehicle1(settings_for(tmp_path, selection=CHOSEN))
    drive(vehicle, FRAMES[:8])
    vehicle.loop.pause()
    vehicle.kill()
    disk.is_full = True
    vehicle.start()
    assert "No space left" in vehicle.loop.progress_error
    assert vehicle.frame_id == "frame-00007", "the old file still says where"
    drive(vehicle, FRAMES[8:12])
    vehicle.loop.pause()
    assert vehicle.loop.progress_error
    disk.is_full = False
    vehicle.clock.advance(JOURNAL_RETRY_S)
    drive(vehicle, FRAMES[12:14])
    vehicle.loop.pause()
    assert vehicle.loop.progress_error == ""
    vehicle.kill()
    vehicle.start()
    drive(vehicle, goes_on(vehicle))
    vehicle.end_source()
    assert_exact(vehicle)


def test_a_kill_while_there_is_no_room_loses_no_frame(tmp_path: Path, disk: FullDisk) -> None:
    """What was accepted beyond the last place on disk may be captured again; nothing is left out."""
    vehicle = Vehicle1(settings_for(tmp_path, selection=CHOSEN))
    drive(vehicle, FRAMES[:4])
    vehicle.loop.pause()
    disk.is_full = True
    drive(vehicle, FRAMES[4:10])
    vehicle.loop.pause()
    vehicle.kill()
    vehicle.start()
    disk.is_full = False
    drive(vehicle, goes_on(vehicle))
    vehicle.end_source()
    found = counts(vehicle)
    assert found["unreadable_image"] == 8
    assert vehicle.journal.progress.frames_seen == len(FRAMES)
    unlike = {sample.frame_id for sample in samples(vehicle)}
    assert len(unlike) + sum(found.values()) - found["accepted"] == len(FRAMES)


def test_a_bad_sector_under_the_place_sets_it_aside_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "progress.journal"
    path.write_bytes(b"whatever")
    limits = ProgressLimits(BudgetLimits(), None, 10)

    def bad_sector(self: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", bad_sector)
        journal, trouble = ProgressJournal.open(path, ["source"], limits, lambda _: -1, ManualClock())
    journal.close()
    assert "cannot be read" in trouble
    assert path.with_name("progress.journal.damaged").read_bytes() == b"whatever"

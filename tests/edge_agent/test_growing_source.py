"""A source that grows, whose frame ids repeat, or that holds what is no frame: played once, and told."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_agent.config import RandomSettings, SelectionSettings, SourceKind
from edge_agent.heartbeat import Heartbeat
from edge_agent.models.slots import SlotFolder
from edge_agent.perceive import Perceive
from edge_agent.process import ProcessContext, StopSignal
from edge_agent.spool.snapshot import read_ledger
from edge_agent.state_folder import StateFolder
from foundation.clock import ManualClock
from foundation.events import EventLog
from tests.edge_agent.agent_bench import WALL_NS, enrol, png, settings_for


@pytest.fixture(autouse=True)
def _switch_interval():
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


class WatchedClock(ManualClock):
    """A clock that shows each wait to the test, which acts as the world outside."""

    def __init__(self) -> None:
        super().__init__(WALL_NS)
        self.on_wait = lambda: None

    def wait(self, event, seconds):
        self.on_wait()
        return super().wait(event, seconds)


class Bench:
    """Perceive itself on a folder, without the supervisor."""

    def __init__(self, root: Path, **source: object) -> None:
        self.folder = root / "recording"
        self.folder.mkdir()
        base = settings_for(root)
        everything = SelectionSettings(random=RandomSettings(probability=1.0))
        self.settings = replace(base, source=replace(base.source, **source), selection=everything)
        self.state = StateFolder(self.settings.state_folder)
        enrol(self.state.root)
        self.state.make()
        self.clock = WatchedClock()
        self.events_path = root / "events.jsonl"

    def run(self, *, until_source_ends: bool = True) -> Perceive:
        self.stop = StopSignal(None)
        events = EventLog(self.events_path, self.clock, "bench")
        context = ProcessContext(
            self.settings,
            self.state,
            self.clock,
            events,
            self.stop,
            until_source_ends,
            Heartbeat(self.state.beat_path("perceive"), self.clock),
        )
        perceive = Perceive(context)
        assert perceive.run() == 0
        return perceive

    @property
    def accepted(self) -> int:
        return int(str(read_ledger(self.state.spool).to_json()["accepted"]))

    def add(self, *numbers: int) -> None:
        for number in numbers:
            (self.folder / f"{number}.png").write_bytes(png(number))

    def told(self) -> dict[str, int]:
        lines = [json.loads(line) for line in self.events_path.read_text().splitlines()]
        return {line["note"]: line["count"] for line in lines if line["event"] == "source_note"}


def test_what_a_folder_gained_since_it_ended_is_played_at_the_next_start_and_nothing_twice(tmp_path):
    bench = Bench(tmp_path)
    bench.add(*range(10))
    bench.run()
    assert bench.accepted == 10
    bench.run()
    assert bench.accepted == 10
    bench.add(*range(10, 15))
    bench.run()
    assert bench.accepted == 15


def test_an_ended_source_whose_last_file_is_gone_is_not_played_again(tmp_path):
    bench = Bench(tmp_path)
    bench.add(*range(3))
    bench.run()
    (bench.folder / "2.png").unlink()
    bench.run()
    assert bench.accepted == 3


def test_a_followed_folder_is_played_while_a_recorder_writes_it(tmp_path):
    bench = Bench(tmp_path, follow=True)
    bench.add(0, 1)
    coming = iter([(2, 3), (), (), (), (), (4,)])
    waits = 0

    def world() -> None:
        nonlocal waits
        waits += 1
        if waits % 20 == 0:
            bench.add(*next(coming, ()))
        if waits == 200:
            bench.stop.event.set()

    bench.clock.on_wait = world
    bench.run(until_source_ends=False)
    assert bench.accepted == 5


def test_a_followed_folder_played_to_its_end_leaves_no_file_waiting(tmp_path):
    bench = Bench(tmp_path, follow=True)
    bench.add(0, 1, 2)
    bench.run()
    assert bench.accepted == 3


def test_frame_ids_that_repeat_between_drives_are_played_once_each_over_a_restart(tmp_path):
    rows = [
        {
            "payload": png(drive * 10 + number),
            "frame_id": f"{number:06d}",
            "drive_id": f"run-{drive}",
            "sensor_id": "cam",
            "capture_time_ns": WALL_NS + (drive * 10 + number) * 10**8,
        }
        for drive in (1, 2)
        for number in range(10)
    ]
    path = tmp_path / "f.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    bench = Bench(tmp_path, kind=SourceKind.PARQUET, path=path, rate_hz=10.0)
    waits = 0

    def stop_in_the_second_drive() -> None:
        nonlocal waits
        waits += 1
        if waits == 15:
            bench.stop.event.set()

    bench.clock.on_wait = stop_in_the_second_drive
    bench.run()
    assert 10 < bench.accepted < 20
    bench.clock.on_wait = lambda: None
    bench.run()
    assert bench.accepted == 20


def test_what_is_no_picture_is_told_in_events_and_in_the_status(tmp_path):
    bench = Bench(tmp_path)
    bench.add(0)
    (bench.folder / "notes.txt").write_text("no picture")
    (bench.folder / "link.png").symlink_to("0.png")
    bench.run()
    left_out = {words: count for words, count in bench.told().items() if words.startswith("left out")}
    assert sorted(left_out.values()) == [1, 1]
    status = json.loads(bench.state.status_path("perceive").read_text())
    assert left_out.items() <= status["source_notes"].items()


def test_perceive_that_ends_with_its_sources_takes_back_the_count_of_its_start_on_probation(tmp_path):
    bench = Bench(tmp_path)
    slots = SlotFolder(bench.state.root)
    slots.write_active(replace(slots.read_active(), confirmed=False, starts=1))
    bench.add(0, 1)
    bench.run()
    assert (slots.read_active().confirmed, slots.read_active().starts) == (False, 1)

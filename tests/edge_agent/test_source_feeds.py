"""Nothing that a source does stops another source, or the process: it waits, is told, and is tried again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.sensors import image_folder
from connectors.sensors.image_folder import ImageFolderSource
from connectors.sensors.ports import Observation
from edge_agent import look
from edge_agent.config import CaptureSettings, RandomSettings, SelectionSettings, SourceKind, SourceSettings
from edge_agent.heartbeat import Activity, Heartbeat, read_beat
from edge_agent.perceive import Perceive
from edge_agent.process import ProcessContext, StopSignal
from edge_agent.source_thread import QUEUE_LENGTH, SourceThread
from edge_agent.spool.snapshot import read_ledger
from edge_agent.state_folder import StateFolder
from foundation.clock import ManualClock
from foundation.events import EventLog
from tests.edge_agent.agent_bench import enrol, png, settings_for
from tests.edge_agent.test_growing_source import WatchedClock

EVERYTHING = SelectionSettings(random=RandomSettings(probability=1.0))


class Bench:
    """Perceive itself on two folders, without the supervisor."""

    def __init__(self, root: Path, **capture: float) -> None:
        self.folders = [root / "front", root / "rear"]
        sources = tuple(
            SourceSettings(
                kind=SourceKind.IMAGE_FOLDER, path=folder, stream=folder.name, drive="d", frame_interval_s=1.0
            )
            for folder in self.folders
        )
        base = settings_for(root)
        self.settings = replace(
            base, source=None, sources=sources, selection=EVERYTHING, capture=CaptureSettings(**capture)
        )
        self.state = StateFolder(self.settings.state_folder)
        enrol(self.state.root)
        self.state.make()
        self.clock = WatchedClock()
        self.events_path = root / "events.jsonl"

    def fill(self, number: int, count: int = 3) -> None:
        self.folders[number].mkdir()
        for each in range(count):
            (self.folders[number] / f"{each}.png").write_bytes(png(10 * number + each))

    def run(self, *, until_source_ends: bool) -> int:
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
        self.perceive = Perceive(context)
        return self.perceive.run()

    def run_for(self, waits: int, then=lambda _wait: None) -> None:
        """Run without an end of its own, until it waited so often; `then` acts as the world at each wait."""
        done = 0

        def world() -> None:
            nonlocal done
            done += 1
            then(done)
            if done == waits:
                self.stop.event.set()

        self.clock.on_wait = world
        assert self.run(until_source_ends=False) == 0

    @property
    def accepted(self) -> int:
        return int(str(read_ledger(self.state.spool).to_json()["accepted"]))

    def not_accepted(self) -> dict[str, int]:
        return dict(read_ledger(self.state.spool).counts.not_accepted)

    def status(self) -> dict[str, object]:
        return json.loads(self.state.status_path("perceive").read_text())

    def failures(self) -> list[str]:
        lines = [json.loads(line) for line in self.events_path.read_text().splitlines()]
        return [line["error"] for line in lines if line["event"] == "source_failed"]


def test_a_source_that_is_missing_holds_no_other_is_told_once_and_played_when_it_comes(tmp_path):
    bench = Bench(tmp_path)
    bench.fill(0)
    seen = []

    def world(wait: int) -> None:
        if wait == 100:
            seen.append(bench.status())
            bench.fill(1)

    bench.run_for(700, world)
    assert bench.accepted == 6
    (front, rear) = seen[0]["sources"]
    assert (front["state"], rear["state"]) == ("ended", "waiting")
    assert "must exist" in rear["error"]
    assert len(bench.failures()) == 1, "told once, not at every try"
    assert bench.perceive.feeds


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")]
)
def test_a_folder_that_may_not_be_read_stops_nothing(tmp_path, monkeypatch, error):
    bench = Bench(tmp_path)
    bench.fill(0)
    bench.fill(1)
    real = Path.exists

    def exists(self: Path, **more: object) -> bool:
        if self == bench.folders[0]:
            raise error
        return real(self, **more)

    monkeypatch.setattr(Path, "exists", exists)
    bench.run_for(50)
    assert bench.accepted == 3
    assert error.strerror in str(bench.status()["source_error"])


def test_a_run_to_the_end_of_the_sources_says_with_its_code_that_one_is_missing(tmp_path):
    bench = Bench(tmp_path)
    bench.fill(0)
    assert bench.run(until_source_ends=True) == 78
    assert bench.accepted == 3


def test_sources_are_played_in_one_order_of_capture_time_and_each_goes_on_at_its_own_place(tmp_path):
    bench = Bench(tmp_path, pre_s=1.0, post_s=1.5)
    bench.fill(0)
    bench.fill(1)
    assert bench.run(until_source_ends=True) == 0
    assert bench.accepted == 6
    for number in (0, 1):
        (bench.folders[number] / "3.png").write_bytes(png(50 + number))
    assert bench.run(until_source_ends=True) == 0
    assert bench.accepted == 8, "what each folder gained, and nothing twice"


def test_what_two_sources_left_out_is_added_up_and_told_once_each(tmp_path):
    bench = Bench(tmp_path)
    for number in (0, 1):
        bench.fill(number)
        for each in range(number + 1):
            (bench.folders[number] / f"link{each}.png").symlink_to("gone.png")
    bench.run_for(100)
    assert list(bench.status()["source_notes"].values()).count(3) == 1, "one link in front, two in rear"
    lines = [json.loads(line) for line in bench.events_path.read_text().splitlines()]
    told = [line for line in lines if line["event"] == "source_note" and "link" in line["note"]]
    assert sorted(line["count"] for line in told) == [1, 2]


def test_a_reader_that_breaks_in_its_own_way_holds_no_other_source(tmp_path, monkeypatch):
    bench = Bench(tmp_path)
    bench.fill(0)
    bench.fill(1)
    real = ImageFolderSource.observations

    def observations(self: ImageFolderSource, resume_after: str | None = None) -> Iterator[Observation]:
        for number, each in enumerate(real(self, resume_after)):
            if self._folder == bench.folders[1] and number == 1:
                raise ZeroDivisionError("a driver of somebody")
            yield each

    monkeypatch.setattr(ImageFolderSource, "observations", observations)
    bench.run_for(50)
    assert bench.accepted == 6, "all of front, and what rear gave between its breaks"
    assert "ZeroDivisionError: a driver of somebody" in bench.failures()[0]


def test_a_source_that_was_missing_and_comes_empty_is_counted_once_as_an_empty_drive(tmp_path):
    bench = Bench(tmp_path)
    bench.fill(0)
    bench.run_for(700, lambda wait: bench.folders[1].mkdir() if wait == 100 else None)
    assert bench.accepted == 3
    assert bench.not_accepted() == {"empty_drive": 1}


def test_an_empty_source_beside_one_that_never_ends_is_counted_once_as_an_empty_drive(tmp_path):
    bench = Bench(tmp_path)
    bench.fill(0, count=0)
    bench.fill(1)
    front, rear = bench.settings.sources
    bench.settings = replace(bench.settings, sources=(front, replace(rear, loop=True, rate_hz=10.0)))
    bench.run_for(50)
    assert bench.accepted > 6
    assert bench.not_accepted() == {"empty_drive": 1}


class BlockedDriver:
    """A folder whose reader gives one picture and then never answers again, until the test lets it go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.is_blocked, self.may_go, self.is_read = (threading.Event() for _ in range(3))
        real = ImageFolderSource.observations

        def observations(source: ImageFolderSource, resume_after: str | None = None) -> Iterator[Observation]:
            for number, each in enumerate(real(source, resume_after)):
                if source._folder == folder and number == 1:
                    self.is_blocked.set()
                    self.may_go.wait()
                yield each
            if source._folder == folder:
                self.is_read.set()

        monkeypatch.setattr(ImageFolderSource, "observations", observations)


def test_a_source_that_never_answers_holds_no_other_is_named_in_the_status_and_delays_no_end(
    tmp_path, monkeypatch
):
    bench = Bench(tmp_path)
    bench.fill(0)
    bench.fill(1)
    front, rear = bench.settings.sources
    bench.settings = replace(bench.settings, sources=(front, replace(rear, may_block=True)))
    driver = BlockedDriver(monkeypatch, bench.folders[1])
    bench.run_for(1_500, lambda wait: driver.is_blocked.wait(60) if wait == 1 else None)
    assert not driver.may_go.is_set(), "the run has ended while the driver was blocked"
    assert bench.accepted == 4, "all of front, and what rear gave before"
    (front_said, rear_said) = bench.status()["sources"]
    assert (front_said["state"], rear_said["state"]) == ("ended", "silent")
    assert (front_said["silent_s"], rear_said["silent_s"] > 5.0) == (0.0, True)
    lines = [json.loads(line) for line in bench.events_path.read_text().splitlines()]
    told = [line["source"] for line in lines if line["event"] == "source_silent"]
    assert told == [list(bench.perceive.feeds)[1]]
    driver.may_go.set()


def test_a_source_that_answers_again_goes_on_where_it_was(tmp_path, monkeypatch):
    bench = Bench(tmp_path)
    bench.fill(0)
    bench.fill(1)
    front, rear = bench.settings.sources
    bench.settings = replace(bench.settings, sources=(front, replace(rear, may_block=True)))
    driver = BlockedDriver(monkeypatch, bench.folders[1])

    def world(wait: int) -> None:
        if wait == 1:
            driver.is_blocked.wait(60)
        if wait == 1_200:
            assert bench.status()["sources"][1]["state"] == "silent"
            driver.may_go.set()
            driver.is_read.wait(60)

    bench.run_for(1_400, world)
    assert bench.accepted == 6
    assert bench.status()["sources"][1]["silent_s"] == 0.0


@pytest.mark.parametrize("is_live", [False, True])
def test_a_full_queue_holds_a_recording_and_drops_the_oldest_of_a_live_source(is_live):
    """In order either way; what was dropped is told."""
    dropped: list[int] = []
    is_read = threading.Event()

    def play() -> Iterator[int]:
        yield from range(QUEUE_LENGTH + 3)
        is_read.set()

    thread = SourceThread(play, ManualClock(), may_drop=lambda: is_live, on_drop=dropped.append)
    if is_live:
        assert is_read.wait(60), "a live source is never held"
    taken = list(thread)
    assert dropped + taken == list(range(QUEUE_LENGTH + 3))
    assert len(dropped) == (3 if is_live else 0)


def test_what_a_thread_raises_is_raised_where_it_is_pulled():
    def play() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("a driver of somebody")

    thread = SourceThread(play, ManualClock())
    assert next(thread) == 1
    with pytest.raises(ZeroDivisionError):
        next(thread)


def test_a_folder_that_takes_long_to_list_is_given_the_time_of_the_disk_and_a_picture_is_not(
    tmp_path, monkeypatch
):
    bench = Bench(tmp_path)
    for number in (0, 1):
        bench.fill(number)
    seen: dict[str, list[Activity]] = {"list": [], "decode": []}

    def watched(name, real):
        def call(*arguments):
            seen[name].append(read_beat(bench.state.beat_path("perceive")).activity)
            return real(*arguments)

        return call

    monkeypatch.setattr(image_folder.FolderListing, "read", watched("list", image_folder.FolderListing.read))
    monkeypatch.setattr(look, "decode_image", watched("decode", look.decode_image))
    assert bench.run(until_source_ends=True) == 0
    assert seen == {"list": [Activity.DISK] * 2, "decode": [Activity.WORKING] * 6}

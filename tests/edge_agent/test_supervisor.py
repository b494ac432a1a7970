from __future__ import annotations

import errno
import io
import json
import os
import signal
import struct
import subprocess
from dataclasses import dataclass, field

import pytest

from edge_agent.config import HealthSettings, SupervisorSettings, UploadSettings
from edge_agent.daemon import Supervisor
from edge_agent.heartbeat import Activity
from edge_agent.process import StopSignal
from edge_agent.state_folder import StateFolder, publish_json, read_status
from edge_agent.status import build_status
from edge_agent.uploader import UploaderSettings
from foundation.clock import ManualClock, boot_id
from foundation.errors import MisconfiguredError
from foundation.events import EventLog
from tests.edge_agent.agent_bench import enrol, settings_for


@dataclass
class FakeProcess:
    """A child that ends when it is told to, or never."""

    pid: int
    code: int | None = None
    obeys: bool = True
    signals: list[int] = field(default_factory=list)

    def poll(self):
        return self.code

    def send_signal(self, number):
        self.signals.append(number)
        if self.obeys:
            self.code = 0

    def kill(self):
        self.signals.append(signal.SIGKILL)
        self.code = -9

    def wait(self, timeout=None):
        if self.code is None:
            raise subprocess.TimeoutExpired("child", timeout)
        return self.code


@dataclass
class Rig:
    supervisor: Supervisor
    clock: ManualClock
    started: list[FakeProcess]
    commands: list[list[str]]

    def child(self, name: str) -> FakeProcess:
        return next(p for p, c in reversed([*zip(self.started, self.commands, strict=True)]) if name in c[3])

    def beat(self, name: str, count: int, activity: Activity = Activity.WORKING) -> None:
        """The sign of life of the child that runs."""
        words = (self.child(name).pid, count, self.clock.monotonic_ns(), activity)
        self.supervisor.state.beat_path(name).write_bytes(struct.pack("<QQQQ", *words))

    def look_for(self, seconds: float) -> None:
        """The supervisor's looks, two per second."""
        for _ in range(round(seconds * 2)):
            self.clock.advance(0.5)
            self.supervisor.step()


def rig(tmp_path, *, until_source_ends: bool = False, events: EventLog | None = None) -> Rig:
    limits = SupervisorSettings(
        backoff_first_s=1.0,
        backoff_max_s=8.0,
        stop_s=4.0,
        perceive_hung_after_s=20.0,
        deliver_hung_after_s=60.0,
        start_within_s=180.0,
    )
    settings = settings_for(tmp_path, supervisor=limits, health=HealthSettings(stale_after_s=10.0))
    StateFolder(settings.state_folder).make()
    clock = ManualClock()
    started: list[FakeProcess] = []
    commands: list[list[str]] = []

    def spawn(arguments):
        commands.append(list(arguments))
        started.append(FakeProcess(pid=10_000_000 + len(started)))
        return started[-1]

    supervisor = Supervisor(
        settings,
        tmp_path / "agent.toml",
        clock,
        events or EventLog(None),
        StopSignal(None),
        until_source_ends,
        spawn,
    )
    return Rig(supervisor, clock, started, commands)


def test_both_processes_are_started_and_told_who_their_parent_is(tmp_path):
    bench = rig(tmp_path)
    bench.supervisor.step()
    assert [command[3] for command in bench.commands] == ["edge_agent.perceive", "edge_agent.deliver"]
    assert all(command[-1] == str(os.getpid()) for command in bench.commands)


def test_one_that_dies_comes_back_after_a_pause_and_the_other_runs_on(tmp_path):
    bench = rig(tmp_path)
    bench.supervisor.step()
    bench.child("perceive").code = -9
    bench.supervisor.step()
    bench.clock.advance(1.01)
    bench.supervisor.step()
    assert len(bench.started) == 3
    told = read_status(bench.supervisor.state.status_path("supervisor"))["children"]
    assert (told["perceive"]["restarts"], told["perceive"]["last_exit"]) == (1, -9)
    assert told["deliver"]["restarts"] == 0


def test_one_that_dies_again_and_again_is_restarted_ever_more_slowly(tmp_path):
    bench = rig(tmp_path)
    bench.supervisor.step()
    starts = 0
    for _ in range(600):
        bench.child("perceive").code = 1
        before = len(bench.started)
        bench.supervisor.step()
        bench.clock.advance(0.1)
        starts += len(bench.started) - before
    assert 8 <= starts < 60  # 60 s with pauses drawn from [0, 8) s, not 600 starts


def test_a_damaged_source_ends_the_run_with_its_code_after_the_drain(tmp_path):
    bench = rig(tmp_path, until_source_ends=True)
    bench.supervisor.step()
    bench.child("perceive").code = 74
    bench.supervisor.step()
    assert (bench.supervisor.exit_code, len(bench.started)) == (None, 2)
    bench.child("deliver").code = 0
    bench.supervisor.step()
    assert bench.supervisor.exit_code == 74


def test_a_run_to_the_end_of_a_source_gives_up_at_last(tmp_path):
    bench = rig(tmp_path, until_source_ends=True)
    for _ in range(20):
        assert bench.supervisor.exit_code is None
        bench.supervisor.step()
        bench.child("perceive").code = 1
        bench.supervisor.step()
        bench.clock.advance(8.0)
    assert bench.supervisor.exit_code == 1


@pytest.mark.parametrize("code", [78, 77, 70])
def test_a_run_to_the_end_of_a_source_ends_with_what_only_a_person_can_mend(tmp_path, code):
    bench = rig(tmp_path, until_source_ends=True)
    bench.supervisor.step()
    bench.child("deliver").code = code
    assert bench.supervisor.run() == code
    assert bench.child("perceive").signals == [signal.SIGTERM]


@pytest.mark.parametrize("code", [78, 77, 70])
@pytest.mark.parametrize(("ill", "well"), [("perceive", "deliver"), ("deliver", "perceive")])
def test_a_process_that_only_a_person_can_mend_leaves_the_other_at_work_and_is_tried_again(
    tmp_path, ill, well, code
):
    bench = rig(tmp_path)
    bench.supervisor.step()
    bench.child(ill).code = code
    bench.supervisor.step()
    assert bench.supervisor.exit_code is None
    assert not bench.child(well).signals
    starts = len(bench.started)
    bench.clock.advance(bench.supervisor.settings.supervisor.backoff_max_s + 1)
    bench.supervisor.step()
    assert len(bench.started) == starts + 1
    assert ill in bench.commands[-1][3]


def test_a_stop_is_clean_when_they_obey_and_bounded_when_they_do_not(tmp_path):
    bench = rig(tmp_path)
    bench.supervisor.step()
    bench.child("deliver").obeys = False
    bench.supervisor.stop_children()
    assert bench.child("perceive").signals == [signal.SIGTERM]
    assert bench.child("deliver").signals == [signal.SIGTERM, signal.SIGKILL]


def test_when_the_source_ends_deliver_is_asked_to_drain_and_then_all_is_done(tmp_path):
    bench = rig(tmp_path, until_source_ends=True)
    publish_json(bench.supervisor.state.drain_path, {"reason": "of an earlier run"})
    bench.supervisor.state.drain_path.unlink()
    bench.supervisor.step()
    bench.child("perceive").code = 0
    bench.supervisor.step()
    assert bench.supervisor.state.drain_path.exists()
    assert bench.supervisor.exit_code is None
    bench.child("deliver").code = 0
    bench.supervisor.step()
    assert bench.supervisor.exit_code == 0
    assert len(bench.started) == 2


def test_health_is_bad_while_one_is_down_or_silent(tmp_path):
    bench = rig(tmp_path)
    bench.supervisor.step()
    assert bench.supervisor.is_healthy()[0] is False
    for name in ("perceive", "deliver"):
        bench.beat(name, 1)
    assert bench.supervisor.is_healthy() == (
        True,
        {"ok": True, "processes": {"perceive": "ok", "deliver": "ok"}},
    )
    bench.clock.advance(10.1)
    assert bench.supervisor.is_healthy()[1]["processes"] == {"perceive": "silent", "deliver": "silent"}


@pytest.mark.parametrize(
    ("activity", "limit_s"),
    [
        (Activity.WORKING, 20),
        (Activity.MODEL, 20),
        (Activity.LOADING, 180),
        (Activity.STARTING, 180),
        (Activity.DISK, 180),
    ],
)
def test_a_hung_perceive_is_ended_and_started_again_and_told_what_it_was_doing(tmp_path, activity, limit_s):
    bench = rig(tmp_path)
    bench.supervisor.step()
    hung = bench.child("perceive")
    hung.obeys = False
    bench.beat("perceive", 1, activity)
    bench.look_for(limit_s - 1)
    assert hung.signals == []
    bench.look_for(2)
    assert hung.signals == [signal.SIGABRT], "first it may say where it hangs"
    bench.look_for(2.5)
    assert hung.signals[:2] == [signal.SIGABRT, signal.SIGKILL]
    bench.look_for(2)
    assert bench.child("perceive") is not hung
    assert bench.commands[-1][-2:] == ["--crashed-in", activity.name.lower()]
    assert bench.child("deliver").signals == [], "the other one works on"


def test_a_process_that_shows_life_is_left_alone_however_slow_it_is(tmp_path):
    bench = rig(tmp_path)
    bench.supervisor.step()
    for count in range(10):
        bench.beat("perceive", count)
        bench.beat("deliver", count)
        bench.look_for(19)
    assert len(bench.started) == 2


def test_a_machine_that_slept_ends_nobody(tmp_path):
    bench = rig(tmp_path)
    bench.supervisor.step()
    bench.beat("perceive", 1)
    bench.supervisor.step()
    bench.clock.advance(36_000.0)
    bench.supervisor.step()
    assert bench.child("perceive").signals == []


def test_signs_of_life_of_an_earlier_process_say_nothing_of_this_one(tmp_path):
    bench = rig(tmp_path)
    bench.supervisor.step()
    bench.beat("perceive", 7)
    bench.child("perceive").code = -9
    bench.look_for(2)
    bench.look_for(200)
    assert bench.child("perceive").signals == [], "Python still starts: its first beat is not there yet"


def test_the_status_calls_a_dead_process_dead_and_says_how_old_its_facts_are(tmp_path):
    bench = rig(tmp_path)
    bench.supervisor.step()
    state = bench.supervisor.state
    enrol(state.root)
    gone = {"pid": 2**22 + 1, "restarts": 0, "last_exit": None, "done": False}
    alive = {**gone, "pid": os.getpid()}
    publish_json(
        state.status_path("supervisor"),
        {"state": "running", "pid": os.getpid(), "children": {"perceive": alive, "deliver": gone}},
    )
    told = {"heartbeat_ns": bench.clock.monotonic_ns(), "boot_id": boot_id(), "state": "running"}
    publish_json(state.status_path("perceive"), told)
    publish_json(state.status_path("deliver"), {**told, "broker": {"connected": True, "state": "connected"}})
    words = (os.getpid(), 1, bench.clock.monotonic_ns(), Activity.WORKING)
    state.beat_path("perceive").write_bytes(struct.pack("<QQQQ", *words))
    bench.clock.advance(40.0)
    document = build_status(state.root, bench.clock)
    assert document["processes"]["perceive"] == {**alive, "state": "silent", "silent_s": 40.0, "told_s": 40.0}
    assert document["processes"]["deliver"]["state"] == "dead"
    assert document["broker"]["connected"] is False
    publish_json(state.status_path("perceive"), {**told, "boot_id": "another"})
    assert build_status(state.root, bench.clock)["processes"]["perceive"]["told_s"] is None


def test_a_disk_that_takes_no_status_is_told_once_and_ends_nobody(tmp_path, monkeypatch):
    told = io.StringIO()
    bench = rig(tmp_path, until_source_ends=True, events=EventLog(told))

    def full(path, document):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.state_folder.publish_json", full)
        bench.supervisor.step()
        bench.child("perceive").code = 0
        bench.look_for(10)
    bench.look_for(1)
    assert bench.supervisor.state.drain_path.exists(), (
        "deliver is asked to drain as soon as the disk takes it"
    )
    words = [json.loads(line)["event"] for line in told.getvalue().splitlines()]
    assert words.count("status_not_written") == words.count("status_written_again") == 2, "once per file"


def test_the_status_can_be_asked_of_a_vehicle_that_never_ran_and_of_a_dead_one(tmp_path):
    root = tmp_path / "state"
    enrol(root)
    assert build_status(root)["state"] == "never_started"
    StateFolder(root).make()
    publish_json(StateFolder(root).status_path("supervisor"), {"state": "running", "pid": 2**22 + 1})
    document = build_status(root)
    assert (document["state"], document["vehicle_id"]) == ("dead", "car-1")
    assert json.dumps(document)
    with pytest.raises(MisconfiguredError, match="does not exist"):
        build_status(tmp_path / "none")


def test_a_process_that_cannot_be_started_now_is_tried_again_and_the_other_works_on(tmp_path):
    log = tmp_path / "events.jsonl"
    bench = rig(tmp_path, events=EventLog(log, ManualClock(), "supervisor"))
    bench.supervisor.step()
    bench.beat("perceive", 1, Activity.MODEL)
    bench.child("perceive").code = -11
    works, tries = bench.supervisor.spawn, []

    def refuse(_arguments):
        tries.append(bench.clock.monotonic_ns())
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    bench.supervisor.spawn = refuse
    bench.look_for(60)
    assert 5 <= len(tries) < 60, "ever more slowly"
    assert "Resource temporarily unavailable" in log.read_text()
    assert bench.supervisor.exit_code is None
    assert bench.child("deliver").signals == []
    bench.supervisor.spawn = works
    bench.look_for(10)
    assert bench.commands[-1][3] == "edge_agent.perceive"
    assert bench.commands[-1][-2:] == ["--crashed-in", "model"], "what it ended in is not forgotten"


def test_a_deliver_whose_sink_may_take_long_to_close_is_given_that_time(tmp_path):
    pace = UploaderSettings(close_s=600.0)
    settings = settings_for(tmp_path, upload=UploadSettings(pace=pace))
    assert settings.silence_limit_s("deliver", Activity.WORKING) > 600.0
    assert settings_for(tmp_path).silence_limit_s("deliver", Activity.WORKING) == 60.0


def test_a_process_whose_parent_is_gone_stops():
    assert not StopSignal(os.getppid()).is_set()
    assert StopSignal(os.getpid()).is_set()


@pytest.mark.parametrize(("code", "is_crash"), [(-11, True), (-8, True), (-6, True), (-9, False), (1, False)])
@pytest.mark.parametrize("activity", [None, Activity.WORKING, Activity.MODEL])
def test_a_process_learns_whether_the_one_before_it_crashed_and_in_what(tmp_path, code, is_crash, activity):
    bench = rig(tmp_path)
    bench.supervisor.step()
    assert "--crashed-in" not in bench.commands[0]
    if activity is not None:
        bench.beat("perceive", 1, activity)
    bench.child("perceive").code = code
    bench.supervisor.step()
    bench.clock.advance(1.01)
    bench.supervisor.step()
    told = ["--crashed-in", (activity or Activity.MODEL).name.lower()]
    assert (bench.commands[-1][-2:] == told) == is_crash
    assert ("--crashed-in" in bench.commands[-1]) == is_crash

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from dataclasses import dataclass, field

import pytest

from edge_agent.config import HealthSettings, SupervisorSettings
from edge_agent.daemon import Supervisor
from edge_agent.health_http import HealthServer
from edge_agent.process import StopSignal
from edge_agent.state_folder import StateFolder, publish_json, read_status
from edge_agent.status import build_status
from foundation.clock import ManualClock
from foundation.errors import MisconfiguredError, RetryLaterError
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


def rig(tmp_path, *, until_source_ends: bool = False) -> Rig:
    limits = SupervisorSettings(backoff_first_s=1.0, backoff_max_s=8.0, stop_s=4.0)
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
        settings, tmp_path / "agent.toml", clock, EventLog(None), StopSignal(None), until_source_ends, spawn
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
        publish_json(bench.supervisor.state.status_path(name), {"heartbeat_ns": bench.clock.monotonic_ns()})
    assert bench.supervisor.is_healthy() == (
        True,
        {"ok": True, "processes": {"perceive": "ok", "deliver": "ok"}},
    )
    bench.clock.advance(10.1)
    assert bench.supervisor.is_healthy()[1]["processes"] == {"perceive": "silent", "deliver": "silent"}


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


def get(port: int, path: str, host: str | None = None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


def test_the_health_page_answers_on_loopback_and_refuses_the_rest():
    def broken():
        raise RetryLaterError("not now")

    pages = {
        "/healthz": lambda: (True, {"ok": True}),
        "/status": lambda: (False, {"ok": False}),
        "/x": broken,
    }
    server = HealthServer(0, pages)
    try:
        assert get(server.port, "/healthz") == (200, {"ok": True})
        assert get(server.port, "/status") == (503, {"ok": False})
        assert get(server.port, "/x") == (503, {"error": "RetryLaterError: not now"})
        assert get(server.port, "/etc/passwd")[0] == 404
        assert get(server.port, "/healthz", host="evil.example")[0] == 403
        assert server._server.server_address[0] == "127.0.0.1"
        with pytest.raises(MisconfiguredError, match=str(server.port)):
            HealthServer(server.port, pages)
    finally:
        server.close()


def test_a_process_whose_parent_is_gone_stops():
    assert not StopSignal(os.getppid()).is_set()
    assert StopSignal(os.getpid()).is_set()


@pytest.mark.parametrize(("code", "is_crash"), [(-11, True), (-8, True), (-6, True), (-9, False), (1, False)])
def test_a_process_learns_whether_the_one_before_it_crashed(tmp_path, code, is_crash):
    bench = rig(tmp_path)
    bench.supervisor.step()
    assert "--after-crash" not in bench.commands[0]
    bench.child("perceive").code = code
    bench.supervisor.step()
    bench.clock.advance(1.01)
    bench.supervisor.step()
    assert ("--after-crash" in bench.commands[-1]) == is_crash

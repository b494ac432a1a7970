"""The supervisor: runs perceive and deliver, and restarts them when they die, until it is stopped.

It restarts either with backoff (for ever on a vehicle; a run to the end of a source gives up at last), ends one that
hangs, stops both within a bounded time, and reports their state in run/supervisor.json and on the health page. An
exit code that only a person can fix (settings, trust, a broken guarantee) ends a run to the end of its sources;
otherwise that process is retried slowly while the other one keeps running. Refuses to do any of the agent's work itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import edge_agent
from edge_agent.config import AgentSettings, load_agent_settings
from edge_agent.health_http import HealthServer
from edge_agent.heartbeat import Activity, Beat, read_beat
from edge_agent.models.vehicle import read_vehicle
from edge_agent.process import StopSignal
from edge_agent.state_folder import StateFolder, StatusFile
from edge_agent.status import build_status
from foundation.clock import Clock, SystemClock
from foundation.errors import (
    CorruptError,
    GuaranteeBrokenError,
    MisconfiguredError,
    RejectedError,
    RetryLaterError,
    UntrustedError,
)
from foundation.events import EventLog
from foundation.files import FileLock
from foundation.private import close_tree_to_others
from foundation.retry import Backoff
from foundation.service_manager import ALIVE, READY, notify

TICK_S = 0.1
LOCK_WAIT_S = 2.0
FATAL_CODES = frozenset(
    {MisconfiguredError.exit_code, UntrustedError.exit_code, GuaranteeBrokenError.exit_code}
)
"""Exit codes that probably only a person can fix. They end a run to the end of the sources; else the process is retried
slowly while the other one keeps running."""

CRASH_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGBUS, signal.SIGABRT, signal.SIGTRAP}
)
"""Signals that end a process by a fault of its own code, such as a model's kernel. SIGKILL comes from outside."""

SOURCE_FAILED_CODES = frozenset({RejectedError.exit_code, CorruptError.exit_code})
"""Exit codes of perceive when it plays its source to the end and the source is damaged."""

ABORT_WAIT_S = 2.0
"""How long a hung process has, after SIGABRT, to print its stack; then SIGKILL."""
LONGEST_LOOK_S = 1.0
"""One check counts at most this much silence: when the whole machine was suspended, no process was hung."""

Spawn = Callable[[Sequence[str]], "subprocess.Popen[bytes]"]


@dataclass(slots=True)
class Child:
    """One of the two processes."""

    name: str
    backoff: Backoff
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    deaths_in_a_row: int = 0
    started_ns: int = 0
    not_before_ns: int = 0
    last_exit: int | None = None
    is_done: bool = False
    beats: int = 0
    """The number of heartbeats at the last check."""
    silent_s: float = 0.0
    """Time since the last heartbeat, as seen by the supervisor."""
    crashed_in: Activity | None = None
    """What the process was doing when it was found hung, or when a fault signal ended it; None when it was neither."""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process is not None else None


@dataclass(slots=True)
class Supervisor:
    """Two child processes and their state. `step` checks them once; `run` checks until the end."""

    settings: AgentSettings
    config_path: Path
    clock: Clock
    events: EventLog
    stop: StopSignal
    until_source_ends: bool = False
    spawn: Spawn = field(default_factory=lambda: _spawn)
    children: dict[str, Child] = field(default_factory=dict)
    exit_code: int | None = None
    health_port: int | None = None
    _word: str = "running"
    _done_code: int = 0
    _told: dict[str, object] = field(default_factory=dict)
    _looked_ns: int | None = None
    _status: StatusFile = field(init=False)
    _drain: StatusFile = field(init=False)

    def __post_init__(self) -> None:
        limits = self.settings.supervisor
        self._status = StatusFile(self.state.status_path("supervisor"), self.events)
        self._drain = StatusFile(self.state.drain_path, self.events)
        for name in ("perceive", "deliver"):
            self.children[name] = Child(name, Backoff(limits.backoff_first_s, limits.backoff_max_s))

    @property
    def state(self) -> StateFolder:
        """The vehicle's state folder."""
        return StateFolder(self.settings.state_folder)

    def run(self) -> int:
        """Supervise until stopped, finished or failed. Returns the exit code of the agent."""
        self.state.drain_path.unlink(missing_ok=True)
        try:
            notify(READY)
            while self.exit_code is None and not self.stop.is_set():
                self.step()
                notify(ALIVE)
                self.clock.wait(self.stop.event, TICK_S)
        finally:
            self._word = "stopping"
            self._tell()
            self.stop_children()
            self._word = {None: "stopped", 0: "finished"}.get(self.exit_code, "failed")
            self._tell()
        return self.exit_code or 0

    def step(self) -> None:
        """Collect ended processes, end hung ones, start those that are due, and decide whether all is done."""
        passed_s = self._since_last_look_s()
        for child in self.children.values():
            self._take_in(child)
            self._watch(child, passed_s)
            if child.process is None and not child.is_done and self.exit_code is None:
                self._start_when_due(child)
        perceive, deliver = self.children["perceive"], self.children["deliver"]
        if perceive.is_done and not self.state.drain_path.exists():
            self._drain.publish({"reason": "source_ended"})
        if perceive.is_done and deliver.is_done:
            self.exit_code = self._done_code
        self._tell()

    def stop_children(self) -> None:
        """Send SIGTERM to perceive, then to deliver (whose last telemetry includes it), SIGKILL when time is up."""
        half_s = self.settings.supervisor.stop_s / 2
        for child in self.children.values():
            if child.process is None:
                continue
            child.process.send_signal(signal.SIGTERM)
            try:
                child.last_exit = child.process.wait(half_s)
            except subprocess.TimeoutExpired:
                self.events.emit("killed", level="error", process=child.name, after_s=half_s)
                child.process.kill()
                child.last_exit = child.process.wait()
            child.process = None

    def _since_last_look_s(self) -> float:
        now_ns = self.clock.monotonic_ns()
        before_ns, self._looked_ns = self._looked_ns, now_ns
        return 0.0 if before_ns is None else min((now_ns - before_ns) / 1e9, LONGEST_LOOK_S)

    def _watch(self, child: Child, passed_s: float) -> None:
        """End a process without a heartbeat: SIGABRT, which prints its stack, then SIGKILL.

        One that never wrote a heartbeat (Python is still starting, or the disk was full) is not watched.
        """
        if child.process is None:
            return
        beat = self._last_beat(child)
        if beat is None:
            return
        if beat.count != child.beats:
            child.beats, child.silent_s = beat.count, 0.0
            return
        child.silent_s += passed_s
        limit_s = self.settings.silence_limit_s(child.name, beat.activity)
        if child.crashed_in is not None:
            if child.silent_s >= limit_s + ABORT_WAIT_S:
                child.process.kill()
        elif child.silent_s >= limit_s:
            child.crashed_in = beat.activity
            self.events.emit(
                "hung",
                level="error",
                process=child.name,
                activity=beat.activity.name.lower(),
                silent_s=round(child.silent_s, 1),
                limit_s=limit_s,
            )
            child.process.send_signal(signal.SIGABRT)

    def _last_beat(self, child: Child) -> Beat | None:
        """Return the last heartbeat of the process that runs, or ran last; None when it wrote none."""
        beat = read_beat(self.state.beat_path(child.name))
        return beat if beat is not None and beat.pid == child.pid else None

    def is_healthy(self) -> tuple[bool, dict[str, object]]:
        """Return whether both run with a recent heartbeat (a child that finished its work is healthy)."""
        stale_ns = self.settings.health.stale_after_s * 1e9
        found: dict[str, object] = {}
        is_well = True
        for child in self.children.values():
            beat = read_beat(self.state.beat_path(child.name))
            age_ns = self.clock.monotonic_ns() - beat.monotonic_ns if beat is not None else None
            if child.is_done:
                word = "done"
            elif child.process is None:
                word, is_well = "down", False
            elif age_ns is None or not 0 <= age_ns <= stale_ns:
                word, is_well = "silent", False
            else:
                word = "ok"
            found[child.name] = word
        return is_well, {"ok": is_well, "processes": found}

    def _take_in(self, child: Child) -> None:
        if child.process is None:
            return
        code = child.process.poll()
        if code is None:
            return
        if -code in CRASH_SIGNALS and child.crashed_in is None:
            beat = self._last_beat(child)  # without one (a full disk) the model is suspected first
            child.crashed_in = beat.activity if beat is not None else Activity.MODEL
        child.process, child.last_exit = None, code
        ran_s = (self.clock.monotonic_ns() - child.started_ns) / 1e9
        if code == 0 and self.until_source_ends:
            child.is_done = True
            self.events.emit("done", process=child.name)
            return
        if code in SOURCE_FAILED_CODES and self.until_source_ends and child.name == "perceive":
            child.is_done, self._done_code = True, code
            self.events.emit("source_failed", level="error", code=code)
            return
        self.events.emit("died", level="error", process=child.name, code=code, ran_s=round(ran_s, 3))
        if code in FATAL_CODES and self.until_source_ends:
            self.exit_code = code
            return
        if ran_s >= self.settings.supervisor.steady_after_s:
            child.backoff.reset()
            child.deaths_in_a_row = 0
        child.restarts += 1
        child.deaths_in_a_row += 1
        if self.until_source_ends and child.deaths_in_a_row >= self.settings.supervisor.give_up_after:
            self.events.emit("gave_up", level="error", process=child.name, deaths=child.deaths_in_a_row)
            self.exit_code = code if code > 0 else 1
            return
        wait_s = child.backoff.next_s()
        if code in FATAL_CODES:  # perhaps a folder is not mounted yet; meanwhile the other process works on
            wait_s = self.settings.supervisor.backoff_max_s
        child.not_before_ns = self.clock.monotonic_ns() + round(wait_s * 1e9)

    def _start_when_due(self, child: Child) -> None:
        if self.clock.monotonic_ns() < child.not_before_ns:
            return
        arguments = [
            *(sys.executable, "-P", "-m", f"edge_agent.{child.name}", "--config", str(self.config_path)),
            *("--parent-pid", str(os.getpid())),
        ]
        if self.until_source_ends:
            arguments.append("--until-source-ends")
        if child.crashed_in is not None:
            arguments += ("--crashed-in", child.crashed_in.name.lower())
        child.started_ns = self.clock.monotonic_ns()
        try:
            child.process = self.spawn(arguments)
        except OSError as error:  # no room for one more process, say; the other one works on
            child.not_before_ns = child.started_ns + round(child.backoff.next_s() * 1e9)
            self.events.emit("not_spawned", level="error", process=child.name, error=str(error.strerror))
            return
        child.crashed_in, child.silent_s, child.beats = None, 0.0, 0
        self.events.emit("spawned", process=child.name, pid=child.process.pid, restarts=child.restarts)

    def _tell(self) -> None:
        """Publish run/supervisor.json when something changed."""
        document: dict[str, object] = {
            "pid": os.getpid(),
            "state": self._word,
            "vehicle_id": self.settings.vehicle_id,
            "health_port": self.health_port,
            "exit_code": self.exit_code,
            "children": {
                child.name: {
                    "pid": child.pid,
                    "restarts": child.restarts,
                    "last_exit": child.last_exit,
                    "done": child.is_done,
                }
                for child in self.children.values()
            },
        }
        if document != self._told and self._status.publish(document):
            self._told = document


def _spawn(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a child with this interpreter and this code, whatever the working folder."""
    code = str(Path(edge_agent.__file__).parent.parent)
    path = os.pathsep.join(part for part in (code, os.environ.get("PYTHONPATH", "")) if part)
    return subprocess.Popen(list(arguments), env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL)


def run_agent(config_path: Path, *, until_source_ends: bool = False) -> int:
    """Run the agent of one vehicle until SIGTERM, or until its source has ended and the spool is drained.

    Raises:
        MisconfiguredError: a setting is wrong, the vehicle is not enrolled, or is another one.
        RetryLaterError: another agent runs on this state folder.
    """
    settings = load_agent_settings(config_path)
    state = StateFolder(settings.state_folder)
    enrolled = read_vehicle(state.root)
    if enrolled.vehicle_id != settings.vehicle_id:
        raise MisconfiguredError(
            f"{config_path}: vehicle_id is {settings.vehicle_id!r}; "
            f"it must be {enrolled.vehicle_id!r}, as enrolled"
        )
    state.make()
    closed = close_tree_to_others(state.root)
    clock = SystemClock()
    stop = StopSignal(None)
    stop.install()
    events = EventLog(state.events / "supervisor.jsonl", clock, "supervisor")
    if closed.changed:
        events.emit("closed_to_other_accounts", count=closed.changed)
    if closed.refused:
        events.emit("open_to_other_accounts", count=closed.refused, first=closed.first_refused)
    with FileLock(state.lock_path("supervisor"), wait_s=LOCK_WAIT_S, clock=clock):
        supervisor = Supervisor(settings, config_path.resolve(), clock, events, stop, until_source_ends)
        health = None
        if settings.health.enabled:
            pages = {
                "/healthz": supervisor.is_healthy,
                "/status": lambda: (True, build_status(state.root)),
            }
            port = settings.health.port
            try:
                health = HealthServer(state.health_socket if port is None else port, pages)
                supervisor.health_port = health.port
            except RetryLaterError as error:  # of no room for its socket; the agent works without the page
                events.emit("health_not_served", level="error", error=str(error))
        try:
            events.emit("started", pid=os.getpid(), health_port=supervisor.health_port)
            return supervisor.run()
        finally:
            if health is not None:
                health.close()

"""What perceive and deliver share as processes: stop signals, detection of a dead parent, one lock, exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from edge_agent.config import AgentSettings, load_agent_settings
from edge_agent.heartbeat import Activity, Heartbeat
from edge_agent.state_folder import StateFolder
from foundation.clock import Clock, SystemClock
from foundation.errors import FleetLoopError
from foundation.events import EventLog
from foundation.files import FileLock
from foundation.printable import printable_lines
from foundation.private import private_umask
from foundation.service_manager import print_threads_on_abort

LOCK_WAIT_S = 30.0
"""Why a wait: after SIGKILL of the supervisor its children end by themselves, within seconds, before the
next begin.
"""


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """The arguments of a process's main function."""

    settings: AgentSettings
    state: StateFolder
    clock: Clock
    events: EventLog
    stop: StopSignal
    until_source_ends: bool
    heartbeat: Heartbeat
    crashed_in: Activity | None = None
    """What the previous process was doing when a fault signal ended it, or when it hung; None when it did neither."""


class StopSignal:
    """Set by SIGTERM and SIGINT, and when the parent that started this process is gone."""

    def __init__(self, parent_pid: int | None) -> None:
        self.event = threading.Event()
        self._parent_pid = parent_pid

    def install(self) -> None:
        """Install the signal handlers; only in the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def is_set(self) -> bool:
        """Return whether this process must end cleanly now."""
        if self._parent_pid is not None and os.getppid() != self._parent_pid:
            self.event.set()
        return self.event.is_set()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.event.set()


def run_process(name: str, body: Callable[[ProcessContext], int], arguments: list[str] | None = None) -> int:
    """Read the arguments and settings, take the lock of this kind of process, run `body`, return the exit code.

    A FleetLoopError ends the process with its exit code and one line on stderr; any other error is a defect
    and keeps its traceback.
    """
    parser = argparse.ArgumentParser(prog=f"python -m edge_agent.{name}")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--parent-pid", type=int, default=None)
    parser.add_argument("--until-source-ends", action="store_true")
    parser.add_argument("--crashed-in", choices=[each.name.lower() for each in Activity])
    options = parser.parse_args(arguments)
    print_threads_on_abort()
    stop = StopSignal(options.parent_pid)
    stop.install()
    clock = SystemClock()
    private_umask()
    try:
        settings = load_agent_settings(options.config)
        state = StateFolder(settings.state_folder)
        state.make()
        events = EventLog(state.events / f"{name}.jsonl", clock, name)
        with FileLock(state.lock_path(name), wait_s=LOCK_WAIT_S, clock=clock):
            events.emit("started", pid=os.getpid(), vehicle_id=settings.vehicle_id)
            heartbeat = Heartbeat(state.beat_path(name), clock)
            if heartbeat.error:
                events.emit("not_watched", level="warning", error=heartbeat.error)
            context = ProcessContext(
                settings,
                state,
                clock,
                events,
                stop,
                options.until_source_ends,
                heartbeat,
                Activity[options.crashed_in.upper()] if options.crashed_in else None,
            )
            code = body(context)
            events.emit("ended", code=code)
    except FleetLoopError as error:
        sys.stderr.write(printable_lines(f"{name}: {type(error).__name__}: {error}") + "\n")
        return error.exit_code
    return code

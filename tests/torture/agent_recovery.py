"""From a SIGKILL to the next record: which process began anew, when it was done with imports, when work went on.

Times are of the monotonic clock, which the agent's events carry too. Beside the time by the clock stands what of it
was spent in the run queue of the kernel (/proc/PID/schedstat): other programs had the cores then, which no recovery
can help, and on a machine that is shared by many it is most of the time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLL_S = 0.02


class EventTail:
    """The events of one process from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = path.stat().st_size if path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines that were written since the last look."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


@dataclass(frozen=True, slots=True)
class Spent:
    """What the main thread of a process had so far: seconds on a core, and seconds of waiting for one."""

    on_core_s: float = 0.0
    waited_s: float = 0.0


def spent(pid: int) -> Spent:
    """As the kernel counts it; zeros for a process that is gone."""
    try:
        on_core_ns, waited_ns, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except (OSError, ValueError):
        return Spent()
    return Spent(int(on_core_ns) / 1e9, int(waited_ns) / 1e9)


@dataclass(slots=True)
class Comeback:
    """One process on its way back. `progress` counts what it does: receipts, or records in the broker's log.

    The count is taken when the new process says that it started, which is after its imports and after the old
    one let go of its lock: what grows beyond it is work of the new one.
    """

    name: str
    events: EventTail
    progress: Callable[[], int]
    gone: frozenset[int]
    pid: int = 0
    started_s: float = 0.0
    at_start: Spent = Spent()
    opening_s: float = 0.0
    base: int = 0
    working_s: float = 0.0
    at_work: Spent = Spent()

    @property
    def recovery_s(self) -> float:
        """From the end of the imports to the first work, without the waits for a core."""
        waited_s = self.at_work.waited_s - self.at_start.waited_s
        return max(0.0, self.working_s - self.started_s - waited_s)

    def look(self) -> bool:
        """Whether the new process works."""
        for event in self.events.new():
            if event["event"] == "started" and event["pid"] not in self.gone:
                self.pid, self.started_s = event["pid"], event["monotonic_ns"] / 1e9
                self.base, self.at_start = self.progress(), spent(self.pid)
            elif event["event"] in ("spool_opened", "spool_followed") and self.pid:
                self.opening_s = float(event["seconds"])
        if self.pid and not self.working_s and self.progress() > self.base:
            self.working_s, self.at_work = time.monotonic(), spent(self.pid)
        return bool(self.working_s)


@dataclass(slots=True)
class Recovery:
    """All that had to come back after one kill.

    `ending` are processes that end by themselves, because their supervisor was killed: the next ones wait for
    them.
    """

    killed_s: float
    comebacks: list[Comeback]
    supervisor_events: EventTail
    supervisor: int
    ending: dict[int, Spent] = field(default_factory=dict)
    spawned_s: dict[int, float] = field(default_factory=dict)
    supervisor_waited_s: float = 0.0
    ending_waited_s: float = 0.0

    def wait(self, timeout_s: float, supervisor_before: Spent) -> bool:
        """Whether everything works again within the time. `supervisor_before`: at the kill."""
        end_s = self.killed_s + timeout_s
        while True:
            work = [comeback.look() for comeback in self.comebacks]  # every one of them is looked at
            self._look_at_the_others(supervisor_before)
            if all(work):
                return True
            if time.monotonic() > end_s:
                return False
            time.sleep(POLL_S)

    def _look_at_the_others(self, supervisor_before: Spent) -> None:
        for event in self.supervisor_events.new():
            if event["event"] == "spawned":
                self.spawned_s[event["pid"]] = event["monotonic_ns"] / 1e9
                self.supervisor_waited_s = spent(self.supervisor).waited_s - supervisor_before.waited_s
        for pid, before in self.ending.items():
            self.ending_waited_s = max(self.ending_waited_s, spent(pid).waited_s - before.waited_s)

    def wall_s(self, comeback: Comeback) -> float:
        """From the kill to the first work, by the clock."""
        return comeback.working_s - self.killed_s

    def waited_s(self, comeback: Comeback) -> float:
        """What of that was spent waiting for a core: by the supervisor until it started the process, then by the
        process itself or, when that was longer, by those on whose end it waited.
        """
        return self.supervisor_waited_s + max(self.ending_waited_s, comeback.at_work.waited_s)

    def imports_s(self, comeback: Comeback) -> float:
        """From the start of the process until it said that it started, without its waits for a core."""
        begun_s = self.spawned_s.get(comeback.pid, comeback.started_s)
        return max(0.0, comeback.started_s - begun_s - comeback.at_start.waited_s)

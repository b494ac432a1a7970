"""The demo's environment: its folders, its progress, and the agents and stages that it starts as processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from devservers.child_process import ChildProcess
from fleetloop.terminal import Terminal, styled
from foundation.errors import FleetLoopError
from services.record import record_changes
from workspace.layout import Workspace

REPRO_DEADLINE_S = 900.0


class StepFailedError(FleetLoopError):
    """A stage of the demo failed; the message has the end of its output."""


@dataclass(slots=True)
class Lab:
    """Folders and settings of one demo run, the time of its steps and the equivalent commands."""

    out: Path
    seed: int
    scale: float
    console: Terminal
    """Shows the progress. It has its own file: what libraries print during a step goes to demo.log."""
    seconds: dict[str, float] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    under_way: str = "Starting"
    """The title of the current step."""

    @property
    def workspace(self) -> Path:
        """The user's own git and DVC repository."""
        return self.out / "workspace"

    @property
    def place(self) -> Workspace:
        """The workspace with its settings as they are now."""
        return Workspace.open(self.workspace)

    @property
    def drives(self) -> Path:
        """Recorded drives for the vehicles, and the labels."""
        return self.out / "drives"

    @property
    def labels(self) -> Path:
        """The file that takes the place of annotators."""
        return self.drives / "labels.jsonl"

    def vehicle(self, vehicle_id: str) -> Path:
        """Return the folder that is a vehicle's disk."""
        return self.out / "vehicles" / vehicle_id

    def state(self, vehicle_id: str) -> Path:
        """Return the state folder on that disk."""
        return self.vehicle(vehicle_id) / "state"

    def receipts(self, vehicle_id: str) -> Path:
        """Return the file in which a vehicle's spool writes a line per sample, after its fsync."""
        return self.vehicle(vehicle_id) / "receipts.txt"

    @contextmanager
    def step(self, name: str, title: str, *commands: str) -> Iterator[None]:
        """Time a step, show its progress, and commit what it wrote to the workspace's git.

        `commands` are the equivalent commands in the workspace, without `fleetloop`.
        """
        started = time.monotonic()
        self.under_way = title
        self.commands += commands
        with (
            self.console.status(styled("[bold]{title} ...", title=title)),
            (self.out / "demo.log").open("a") as log,
        ):
            with redirect_stdout(log), redirect_stderr(log):
                yield
            if self.workspace.is_dir():
                record_changes(self.place, title)
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 2)
        done = styled("[green]done[/] {title} [dim]({s:.1f} s)[/]", title=title, s=self.seconds[name])
        self.console.print(done)

    def say(self, text: str) -> None:
        """Print a line below the current step."""
        self.console.print(f"     {text}")

    def repro(self, *stages: str) -> None:
        """Run the stages that changed, in a process group that ends with the demo.

        Raises:
            StepFailedError: a stage failed, or took longer than REPRO_DEADLINE_S.
        """
        words = ["dataset", "repro", *stages]
        child = self.start(words, self.out / "demo.log", self.workspace)
        try:
            status: int | str = child.wait(REPRO_DEADLINE_S)
        except subprocess.TimeoutExpired:
            status = f"nothing within {REPRO_DEADLINE_S:.0f} s"
        finally:
            child.kill_group()
        if status != 0:
            raise StepFailedError(f"fleetloop {' '.join(words)} ended with {status}:\n{child.log_end(3000)}")

    def start(self, words: list[str], log: Path, folder: Path, **environment: str) -> ChildProcess:
        """Start `fleetloop WORDS`, with one thread per library so that three vehicles share two cores fairly."""
        return ChildProcess(
            [sys.executable, "-m", "fleetloop", *words],
            log,
            folder=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment},
        )

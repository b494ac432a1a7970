"""The demo's bench: its folders, its commands and its progress. Every command is run as a user would type it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from devservers.child_process import ChildProcess
from foundation.documents import parse_json
from foundation.errors import CorruptError, FleetLoopError, GuaranteeBrokenError

COMMAND_DEADLINE_S = 240.0
STOP_DEADLINE_S = 20.0


class StepFailedError(FleetLoopError):
    """A command of the demo failed; the message holds the command and the end of what it said."""


@dataclass(slots=True)
class Lab:
    """Folders and settings of one demo run, the time of its steps and the commands that it ran."""

    out: Path
    seed: int
    scale: float
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)
    transcript: list[str] = field(default_factory=list)
    under_way: str = "Starting"
    """The title of the step that began last."""

    @property
    def workspace(self) -> Path:
        """The user's own git and DVC repository."""
        return self.out / "workspace"

    @property
    def keys(self) -> Path:
        """Private keys of the release process: never in the workspace."""
        return self.out / "workspace.keys"

    @property
    def drives(self) -> Path:
        """Recorded drives for the vehicles, and what only the label desk knows."""
        return self.out / "drives"

    @property
    def labels(self) -> Path:
        """The file that stands for the annotators."""
        return self.drives / "labels.jsonl"

    def vehicle(self, vehicle_id: str) -> Path:
        """A vehicle's own disk."""
        return self.out / "vehicles" / vehicle_id

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Time a step and show that it is under way."""
        started = time.monotonic()
        self.under_way = title
        with self.console.status(f"[bold]{title} ..."):
            yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 2)
        self.console.print(f"[green]done[/] {title} [dim]({self.seconds[name]:.1f} s)[/]")

    def say(self, text: str) -> None:
        """A line under the current step."""
        self.console.print(f"     {text}")

    def run(self, *words: str | Path, may_fail: bool = False) -> dict[str, Any]:
        """Run `fleetloop WORDS --json` in the workspace; its document (with `exit_code` where it may fail)."""
        done = self._call(words, ["--json"], may_fail=may_fail)
        document = _only_document(done.stdout)
        if may_fail:
            document = {"exit_code": done.returncode, "stderr": done.stderr[-2000:], **document}
        return document

    def run_plain(self, *words: str | Path) -> None:
        """Run `fleetloop WORDS` in the workspace; what it says goes to demo.log."""
        self._call(words, [], may_fail=False)

    def _call(
        self, words: Sequence[str | Path], more: list[str], *, may_fail: bool
    ) -> subprocess.CompletedProcess[str]:
        arguments = [str(w) for w in words]
        self.note(arguments)
        where = self.workspace if self.workspace.is_dir() else self.out
        done = _run_whole_group([sys.executable, "-m", "fleetloop", *arguments, *more], where)
        self._log(arguments, done)
        if done.returncode != 0 and not may_fail:
            raise StepFailedError(
                f"fleetloop {shlex.join(arguments)} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-3000:]}"
            )
        return done

    def note(self, words: Sequence[str]) -> None:
        """Keep a command for the report, with paths as seen from the workspace."""
        self.transcript.append("fleetloop " + shlex.join(self._shown(word) for word in words))

    def receipts(self, vehicle_id: str) -> Path:
        """Where a vehicle's spool prints a line for each sample, after its fsync."""
        return self.vehicle(vehicle_id) / "receipts.txt"

    def _shown(self, word: str) -> str:
        return word.replace(str(self.workspace), ".").replace(str(self.out), "..")

    def _log(self, arguments: Sequence[str], done: subprocess.CompletedProcess[str]) -> None:
        with (self.out / "demo.log").open("a", encoding="utf-8") as log:
            log.write(
                f"$ fleetloop {shlex.join(arguments)}\n[{done.returncode}]\n{done.stdout}\n{done.stderr}\n"
            )


class AgentProcess:
    """One vehicle's agent: the real daemon in a process group of its own."""

    def __init__(self, lab: Lab, vehicle_id: str, config: Path, *, until_source_ends: bool) -> None:
        self.vehicle_id = vehicle_id
        words = [
            "agent",
            "run",
            "--config",
            str(config),
            *(["--until-source-ends"] if until_source_ends else []),
        ]
        lab.note(words)
        self._child = ChildProcess(
            [sys.executable, "-m", "fleetloop", *words],
            lab.vehicle(vehicle_id) / "agent.log",
            env={**child_environment(), "FLEETLOOP_RECEIPT_PATH": str(lab.receipts(vehicle_id))},
        )

    def kill(self) -> None:
        """SIGKILL to every process of this agent, as a power cut would do."""
        self._child.kill_group()

    def stop(self) -> int:
        """SIGTERM and wait; the agent stops cleanly or this raises."""
        self._child.signal(signal.SIGTERM)
        return self.wait(STOP_DEADLINE_S)

    def wait(self, deadline_s: float) -> int:
        """Wait for the end of the drive.

        Raises:
            GuaranteeBrokenError: the agent did not end in time (it was ended).
        """
        try:
            return self._child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise GuaranteeBrokenError(
                f"the agent of {self.vehicle_id} did not end within {deadline_s:.0f} s"
            ) from None

    def end(self) -> None:
        """Whatever happened, leave no process behind."""
        self._child.kill_group()


def _run_whole_group(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a group of its own; when this process is interrupted, nothing that it started goes on.

    Raises subprocess.TimeoutExpired after COMMAND_DEADLINE_S.
    """
    with subprocess.Popen(
        command, cwd=folder, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, complained = process.communicate(timeout=COMMAND_DEADLINE_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(command, process.returncode, said, complained)


def child_environment() -> dict[str, str]:
    """This process's environment with one thread per library, so that three vehicles share two cores fairly."""
    scripts = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    return {
        **os.environ,
        "PATH": path if path.split(os.pathsep, 1)[0] == scripts else scripts + os.pathsep + path,
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
    }


def _only_document(text: str) -> dict[str, Any]:
    text = text.strip()
    if not text:
        return {}
    try:
        document = parse_json(text, "output", max_bytes=len(text))
    except CorruptError as error:
        raise StepFailedError(
            f"a command printed something that is no JSON document: {text[:400]!r}"
        ) from error
    return document if isinstance(document, dict) else {"items": document}

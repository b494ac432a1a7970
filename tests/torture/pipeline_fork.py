"""One piece of work in a fork of this warm process, which a SIGKILL may end at a named step: cheap, and as final as any.

The parent only imports; it never starts threads of polars, Beam or delta-rs, because those do not survive a fork.
So everything that works runs in a child, also what prepares and what runs again.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Hook = Callable[[str], None]
Watch = Callable[[Hook], Any]
"""Makes a context in which the hook is called with the name of each step that is done."""
DEFAULT_LIMIT_S = 120.0
FILE_OPERATIONS = ("rename", "fsync", "unlink", "write_all")


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the child itself when the step `label` is done for the `number`-th time (from 1)."""

    label: str
    number: int = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: with a value, with what it raised, or by the kill."""

    was_killed: bool
    value: Any
    error: str
    steps: dict[str, int]
    """How often each step was done; empty for a killed child."""

    @property
    def has_worked(self) -> bool:
        """It came to its end and raised nothing."""
        return not self.was_killed and not self.error


class Child:
    """A fork that runs `action` (with a result that JSON holds) and ends; `result` waits for it."""

    def __init__(
        self, action: Callable[[], Any], *, kill: Kill | None = None, watch: Watch | None = None
    ) -> None:
        self._told = tempfile.NamedTemporaryFile(prefix="torture-fork-", suffix=".json")  # noqa: SIM115
        self.pid = os.fork()
        if self.pid == 0:
            _in_the_child(action, kill, watch, Path(self._told.name))

    def result(self, limit_s: float = DEFAULT_LIMIT_S) -> Ended:
        """Wait; a child that is not done within `limit_s` is killed and counts as an error."""
        end = time.monotonic() + limit_s
        is_late = False
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end and not is_late:
                os.kill(self.pid, signal.SIGKILL)
                is_late = True
            time.sleep(0.005)
        text = Path(self._told.name).read_bytes()
        self._told.close()
        if is_late:
            return Ended(False, None, f"was not over after {limit_s:.0f} s", {})
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return Ended(True, None, "", {})
        if not text:
            return Ended(False, None, f"ended with wait status {status} and no word", {})
        said = json.loads(text)
        return Ended(False, said["value"], said["error"], said["steps"])

    def end(self) -> None:
        """SIGKILL from outside, at whatever it does."""
        os.kill(self.pid, signal.SIGKILL)


def in_fork(
    action: Callable[[], Any],
    *,
    kill: Kill | None = None,
    watch: Watch | None = None,
    limit_s: float = DEFAULT_LIMIT_S,
) -> Ended:
    """`Child(...)` and its result."""
    return Child(action, kill=kill, watch=watch).result(limit_s)


def must(action: Callable[[], Any], *, watch: Watch | None = None, limit_s: float = DEFAULT_LIMIT_S) -> Ended:
    """As `in_fork`, of what must work for the try to mean anything. Raises RuntimeError with what was said."""
    ended = in_fork(action, watch=watch, limit_s=limit_s)
    if not ended.has_worked:
        raise RuntimeError(ended.error or "it was killed")
    return ended


def pipeline_steps(hook: Hook) -> Any:
    """The steps of ingest, curate, label, replay and dataset commit."""
    from pipelines.steps import watched

    return watched(hook)


@contextmanager
def file_operations(hook: Hook) -> Iterator[None]:
    """Every call through `foundation.syscalls` that changes a file, named, when it is done."""
    from foundation import syscalls

    def spoken(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = real(*arguments)
            hook(name)
            hook("operation")
            return result

        return call

    real = {name: getattr(syscalls, name) for name in FILE_OPERATIONS}
    for name, each in real.items():
        setattr(syscalls, name, spoken(name, each))
    try:
        yield
    finally:
        for name, each in real.items():
            setattr(syscalls, name, each)


def _in_the_child(action: Callable[[], Any], kill: Kill | None, watch: Watch | None, told: Path) -> None:
    """Never returns."""
    seen: Counter[str] = Counter()

    def hook(label: str) -> None:
        seen[label] += 1
        if kill is not None and (label, seen[label]) == (kill.label, kill.number):
            os.kill(os.getpid(), signal.SIGKILL)

    said: dict[str, Any] = {"value": None, "error": "", "steps": {}}
    try:
        with ExitStack() as stack:
            if watch is not None:
                stack.enter_context(watch(hook))
            said["value"] = action()
    except BaseException as error:
        last = traceback.format_exc().strip().splitlines()[-6:]
        said["error"] = (
            f"{type(error).__name__}: {error}"[:1500] + " | " + " ".join(map(str.strip, last))[:1500]
        )
    said["steps"] = dict(seen)
    told.write_text(json.dumps(said))
    os._exit(0)

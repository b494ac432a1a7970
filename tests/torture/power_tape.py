"""A tape of the real calls of `foundation.syscalls`, to be played back to a disk that loses power at any of them.

Recorded where the product makes them, under a lock, so that threads may write; every call is carried out for real.
Marks (a receipt was printed, a record was handed out) lie between the calls, where they happened.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation import syscalls
from tests.torture.power_disk import PowerLossDisk

CALLS = ("open", "write", "fsync", "rename", "unlink", "truncate", "close")


@dataclass(frozen=True, slots=True)
class Call:
    """One call that succeeded (or an fsync that failed): `arguments` are those of the disk's method `name`."""

    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something was told to the outside world; `what` is the teller's own."""

    what: tuple[Any, ...]


class Tape:
    """Calls and marks in the order in which they happened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[Call | Mark] = []
        self.before_call: Callable[[], None] = lambda: None

    def mark(self, *what: Any) -> None:
        """A mark, now."""
        self.steps.append(Mark(what))

    def add(self, name: str, *arguments: Any) -> None:
        """A call, now."""
        self.steps.append(Call(name, arguments))

    @property
    def calls(self) -> int:
        """How many calls are on the tape."""
        return sum(isinstance(step, Call) for step in self.steps)


class _Recorder:
    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._root = os.fspath(tape.root)
        self._lock = threading.RLock()
        self._real: dict[str, Any] = {name: getattr(syscalls, name) for name in CALLS}
        self._mkdir = os.mkdir
        self._appends: set[int] = set()

    def install(self) -> None:
        for name in CALLS:
            setattr(syscalls, name, getattr(self, f"_{name}_"))
        os.mkdir = self._mkdir_  # type: ignore[assignment]

    def remove(self) -> None:
        for name, call in self._real.items():
            setattr(syscalls, name, call)
        os.mkdir = self._mkdir

    def _add(self, name: str, path: str, *arguments: Any) -> None:
        if path == self._root or path.startswith(self._root + "/"):
            self._tape.add(name, path, *arguments)

    def _mkdir_(self, path: Any, *arguments: Any, **named: Any) -> None:
        with self._lock:
            self._mkdir(path, *arguments, **named)
            self._add("made_folder", os.path.abspath(os.fspath(path)))  # noqa: PTH100

    def _open_(self, path: Any, flags: int, mode: int = 0o644) -> int:
        with self._lock:
            self._tape.before_call()
            fd: int = self._real["open"](path, flags, mode)
            if flags & (os.O_CREAT | os.O_TRUNC):
                self._add("opened", os.path.abspath(os.fspath(path)), bool(flags & os.O_TRUNC))  # noqa: PTH100
            (self._appends.add if flags & os.O_APPEND else self._appends.discard)(fd)
            return fd

    def _write_(self, fd: int, data: Any) -> int:
        with self._lock:
            self._tape.before_call()
            begin = None if fd in self._appends else os.lseek(fd, 0, os.SEEK_CUR)
            written: int = self._real["write"](fd, data)
            self._add("wrote", _path(fd), bytes(data[:written]), begin)
            return written

    def _fsync_(self, fd: int) -> None:
        with self._lock:  # another thread's write waits, so that what is covered is known
            self._tape.before_call()
            self._real["fsync"](fd)
            self._add("synced", _path(fd))

    def _truncate_(self, fd: int, length_bytes: int) -> None:
        with self._lock:
            self._tape.before_call()
            self._real["truncate"](fd, length_bytes)
            self._add("truncated", _path(fd), length_bytes)

    def _rename_(self, source: Any, target: Any) -> None:
        with self._lock:
            self._tape.before_call()
            self._real["rename"](source, target)
            self._add("renamed", os.fspath(source), os.fspath(target))

    def _unlink_(self, path: Any) -> None:
        with self._lock:
            self._tape.before_call()
            self._real["unlink"](path)
            self._add("unlinked", os.fspath(path))

    def _close_(self, fd: int) -> None:
        with self._lock:
            self._tape.before_call()
            self._appends.discard(fd)
            self._real["close"](fd)


def _path(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115


@contextmanager
def recording(root: Path) -> Iterator[Tape]:
    """Record every call below `root` that the product makes inside the block."""
    tape = Tape(root)
    recorder = _Recorder(tape)
    recorder.install()
    try:
        yield tape
    finally:
        recorder.remove()


def play(disk: PowerLossDisk, step: Call) -> None:
    """Tell the disk of one call."""
    if step.name == "opened":
        path, truncates = step.arguments
        disk.opened(path, creates=True, truncates=truncates)
    elif step.name == "sync_failed":
        disk.synced(*step.arguments, failed=True)
    else:
        getattr(disk, step.name)(*step.arguments)


def moments(
    tape: Tape, disk: PowerLossDisk, wanted: list[int]
) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """Play the tape; stop after each wanted number of steps (ascending), with the marks until then."""
    marks: list[tuple[Any, ...]] = []
    at = 0
    for number in wanted:
        for step in tape.steps[at:number]:
            if isinstance(step, Mark):
                marks.append(step.what)
            else:
                play(disk, step)
        at = max(at, number)
        yield number, list(marks)

"""A disk that refuses: every change to files below a folder goes through a gate that counts it and can fail it.

The gate replaces the functions of `os`, `io` and `socket` by which Python code changes files, so that a write is counted
whether or not it goes through `foundation.files`. `seen` holds every path that came into being through the gate: a file
that lies on the disk and is not among them was written past it.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

NO_LIMIT = 1 << 62
_TESTS = str(Path(__file__).parent)


PAGE_BYTES = 4096
NAMES = frozenset({"create", "mkdir", "symlink", "link", "bind"})
"""Calls that need an inode."""


class Gate:
    """Counts the changes of files below `root` and fails some of them."""

    def __init__(self, root: Path) -> None:
        self.root = f"{root.resolve()}/"
        self.calls: list[str] = []
        self.places: list[tuple[str, ...]] = []
        """Of each call, the lines of the product by which it came about."""
        self.seen: set[str] = set()
        self.failed: list[str] = []
        self._first, self._what, self._code = NO_LIMIT, "", errno.ENOSPC
        self._pages = self._inodes = NO_LIMIT

    def fail_one(self, number: int, code: int) -> None:
        """Fail only the `number`-th call from now (1 is the next), whatever it is."""
        self._first, self._what, self._code = len(self.calls) + number, "one", code

    def fill(self, number: int, what: str = "pages", code: int = errno.ENOSPC) -> None:
        """Have no `what` (pages of 4 kB, or inodes) left from the `number`-th call on, but for what is removed since."""
        self._first, self._what, self._code = len(self.calls) + number, what, code

    def free(self) -> None:
        """From now on nothing fails."""
        self._first, self._what = NO_LIMIT, ""
        self._pages = self._inodes = NO_LIMIT

    def holds(self, path: Any) -> bool:
        """Whether a path, or an open descriptor, is below the root."""
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115
            except OSError:
                return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.root)  # noqa: PTH100 - resolves no link

    def pass_through(self, what: str, path: Any) -> None:
        """Count one call; raise OSError when it is to fail."""
        if not self.holds(path):
            return
        self.calls.append(f"{what} {path}")
        self.places.append(_product_frames())
        if len(self.calls) == self._first:
            if self._what == "one":
                self._refuse(path)
            elif self._what == "pages":
                self._pages = 0
            elif self._what == "inodes":
                self._inodes = 0
        if what in NAMES:
            if self._inodes <= 0:
                self._refuse(path)
            self._inodes -= 1

    def _refuse(self, path: Any) -> NoReturn:
        self.failed.append(self.calls[-1])
        raise OSError(self._code, os.strerror(self._code), None if isinstance(path, int) else str(path))

    def room(self, fd: int, begin: int, length: int) -> int:
        """How many of `length` bytes at `begin` the disk takes, at least 1. Raises OSError."""
        if self._pages >= NO_LIMIT // 2 or not length or not self.holds(fd):
            return length
        size = os.fstat(fd).st_size
        have = _pages(size)
        if begin + length > (have + self._pages) * PAGE_BYTES:
            length = (have + self._pages) * PAGE_BYTES - begin
            if length <= 0:
                self._refuse(fd)
            self.failed.append(self.calls[-1])
        self._pages -= max(0, _pages(begin + length) - have)
        return length

    def given_back(self, path: Any, left_bytes: int = 0, *, name: bool = True) -> None:
        """A file is about to be removed, or cut to `left_bytes`."""
        if not self.holds(path):
            return
        try:
            found = os.fstat(path) if isinstance(path, int) else os.lstat(path)
        except OSError:
            return
        self._pages += (
            max(0, _pages(found.st_size) - _pages(left_bytes)) if stat.S_ISREG(found.st_mode) else 0
        )
        self._inodes += name

    def first_of_each_place(self) -> list[int]:
        """The number of the first call of each place in the code, 1 for the first call."""
        first: dict[tuple[str, ...], int] = {}
        for number, place in enumerate(self.places, 1):
            first.setdefault(place, number)
        return sorted(first.values())

    def note(self, path: Any) -> None:
        """A file of this name may be there now."""
        if self.holds(path):
            self.seen.add(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100


def _product_frames() -> tuple[str, ...]:
    found, frame = [], sys._getframe(2)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_TESTS):
            found.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(found)


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES)


def _place(fd: int) -> int:
    """Where the next write goes."""
    is_append = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
    return os.fstat(fd).st_size if is_append else os.lseek(fd, 0, os.SEEK_CUR)


class _File(io.FileIO):
    gate: Gate

    def write(self, data: Any) -> int:
        self.gate.pass_through("write", self.fileno())
        view = memoryview(data).cast("B")
        took = self.gate.room(self.fileno(), _place(self.fileno()), len(view))
        return super().write(view[:took]) or 0

    def truncate(self, size: int | None = None) -> int:
        self.gate.pass_through("truncate", self.fileno())
        self.gate.given_back(self.fileno(), self.tell() if size is None else size, name=False)
        return super().truncate(size)


def _opener(gate: Gate, real: Callable[..., Any]) -> Callable[..., Any]:
    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wax+") or not gate.holds(file):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not isinstance(file, int):
            if not os.path.exists(file):  # noqa: PTH110
                gate.pass_through("create", file)
            gate.note(file)
        raw = type("_GatedFile", (_File,), {"gate": gate})(
            file, mode.replace("b", "").replace("t", ""), closefd, opener
        )
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        stream: Any = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding or "utf-8", errors, newline)

    return opened


@contextmanager
def failing_disk(root: Path) -> Iterator[Gate]:
    """The gate over `root`, while the context is open. In this process only; reading never fails."""
    gate = Gate(root)
    real = {
        name: getattr(os, name)
        for name in (
            "open", "write", "pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate",
            "rename", "replace", "link", "symlink", "mkdir", "unlink", "remove",
        )
    }  # fmt: skip

    def os_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and dir_fd is None:
            if not os.path.lexists(path):
                gate.pass_through("create", path)
            gate.note(path)
        return int(real["open"](path, flags, mode, dir_fd=dir_fd))

    def on_first(name: str) -> Callable[..., Any]:
        def call(target: Any, *arguments: Any, **options: Any) -> Any:
            if name != "mkdir" or not os.path.lexists(target):
                gate.pass_through(name, target)
            return real[name](target, *arguments, **options)

        return call

    def os_write(fd: int, data: Any) -> int:
        gate.pass_through("write", fd)
        view = memoryview(data).cast("B")
        is_ours = gate.holds(fd)
        return int(real["write"](fd, view[: gate.room(fd, _place(fd), len(view))] if is_ours else view))

    def os_pwrite(fd: int, data: Any, at: int) -> int:
        gate.pass_through("pwrite", fd)
        view = memoryview(data).cast("B")
        return int(real["pwrite"](fd, view[: gate.room(fd, at, len(view))], at))

    def os_ftruncate(fd: int, size: int) -> None:
        gate.pass_through("ftruncate", fd)
        gate.given_back(fd, size, name=False)
        real["ftruncate"](fd, size)

    def os_fallocate(fd: int, at: int, length: int) -> None:
        gate.pass_through("posix_fallocate", fd)
        if gate.room(fd, at, length) < length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real["posix_fallocate"](fd, at, length)

    def os_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if dir_fd is None:
            gate.given_back(path)
        real["unlink"](path, dir_fd=dir_fd)

    def to_second(name: str) -> Callable[..., Any]:
        def call(source: Any, target: Any, *arguments: Any, **options: Any) -> Any:
            gate.pass_through(name, target)
            gate.note(target)
            if name in ("rename", "replace"):
                gate.given_back(target)
            done = real[name](source, target, *arguments, **options)
            if name in ("rename", "replace") and os.path.isdir(target):  # noqa: PTH112
                for folder, _, files in os.walk(target):
                    for each in files:
                        gate.note(os.path.join(folder, each))  # noqa: PTH118
            return done

        return call

    real_bind = socket.socket.bind

    class Socket(socket.socket):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_UNIX and isinstance(address, str):
                place = os.path.realpath(os.path.dirname(address))  # noqa: PTH120
                name = os.path.join(place, os.path.basename(address))  # noqa: PTH118, PTH119
                gate.pass_through("bind", name)
                gate.note(name)
            real_bind(self, address)

    ours: dict[str, Callable[..., Any]] = {
        "open": os_open,
        "write": os_write,
        "pwrite": os_pwrite,
        "ftruncate": os_ftruncate,
        "posix_fallocate": os_fallocate,
        "unlink": os_unlink,
        "remove": os_unlink,
        **{name: on_first(name) for name in ("fsync", "fdatasync", "mkdir")},
        **{name: to_second(name) for name in ("rename", "replace", "link", "symlink")},
    }
    patches: list[Any] = [
        mock.patch.object(builtins, "open", _opener(gate, builtins.open)),
        mock.patch.object(io, "open", _opener(gate, io.open)),
        mock.patch.object(socket, "socket", Socket),
        *(mock.patch.object(os, name, call) for name, call in ours.items()),
    ]
    for patch in patches:
        patch.start()
    try:
        yield gate
    finally:
        for patch in reversed(patches):
            patch.stop()

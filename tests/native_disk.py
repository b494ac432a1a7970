"""A disk that refuses, also to native code: the control of `native_disk.c`, which a process has loaded before libc.

Where `failing_disk` sees what Python asks for in one process, this sees every call of every library (Arrow, Polars, Delta,
SQLite, git) in a process and its children. It is compiled where it is needed, so it needs a C compiler and Linux.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
_FIELDS = struct.Struct("=6q")  # calls, first, is_one, code, failed, is_logged
_CHANGING = re.compile(r"[0-9a-f]{6,}|\d+|tmp[a-z0-9_]{8}")
WRITES = frozenset({"write", "create", "mkdir", "link"})
"""What needs room; fsync, rename and a truncation that makes a file smaller only fail alone."""


def compiler_is_missing() -> str | None:
    """Why the disk cannot be made here, or None."""
    return None if shutil.which("cc") else "needs a C compiler (cc)"


@dataclass(frozen=True, slots=True)
class Change:
    """One call that changed a file: its number, whether it failed, what it did to which path."""

    number: int
    is_failed: bool
    what: str
    path: str

    def place(self, root: Path) -> str:
        """Kind of call and of file: numbers and random parts of names do not matter."""
        return f"{self.what} {_CHANGING.sub('#', self.path.removeprefix(f'{root}/'))}"


class NativeDisk:
    """The disk below `root`, for processes that are started with `environment`; kept in `folder`, elsewhere."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root.resolve()
        self._control, self._log = folder / "control", folder / "log"
        self._map: mmap.mmap | None = None

    def build(self) -> dict[str, str]:
        """Compile the library; return the environment for processes that have this disk."""
        library = self._control.with_name("disk.so")
        command = ["cc", "-shared", "-fPIC", "-O1", "-w", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        self._control.write_bytes(bytes(mmap.PAGESIZE))
        self._log.touch()
        words = {"DISK_CONTROL": self._control, "DISK_ROOT": self.root, "DISK_LOG": self._log}
        return {"LD_PRELOAD": str(library), **{name: str(value) for name, value in words.items()}}

    def fail(self, number: int, *, is_one: bool = False, code: int = errno.ENOSPC) -> None:
        """Count from 0 again; fail only call `number`, or everything that needs room from it on."""
        self._log.write_bytes(b"")
        self._set(0, number, int(is_one), code, 0, 0)

    def free(self) -> None:
        """From now on nothing fails and nothing is noted."""
        self._set(0, 0, 0, errno.ENOSPC, 0, 0)

    def note(self) -> None:
        """Nothing fails, and each call is noted."""
        self._log.write_bytes(b"")
        self._set(0, 0, 0, errno.ENOSPC, 0, 1)

    def changes(self) -> list[Change]:
        """Every call that was noted, or that failed, since."""
        found = []
        for line in self._log.read_text(errors="replace").splitlines():
            number, failed, what, path = line.split(" ", 3)
            found.append(Change(int(number), failed == "1", what, path))
        return found

    def _set(self, *values: int) -> None:
        if self._map is None:
            with self._control.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), _FIELDS.size)
        self._map[: _FIELDS.size] = _FIELDS.pack(*values)


def is_loaded() -> bool:
    """Whether this process has the disk."""
    return "DISK_CONTROL" in os.environ

"""The process of `modelkit.confined`: reads batches from standard input, answers each item on standard output.

    python -P -m modelkit.confined_worker MODULE:FUNCTION '{"memory_bytes": ..., "cpu_s": ..., "wall_s": ...}'

The limits are set once the task's own modules are loaded, and before the first byte of an item is read.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from foundation.documents import decode, plain
from modelkit.confined import ERROR, LENGTH, VALUE, ItemLimits

_FORBIDDEN_EVENTS = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.spawn",
    "os.posix_spawn",
    "ctypes.",
)
_OPEN_FILES = 64
_SHOWN_CHARS = 500


def main(arguments: list[str]) -> int:
    """Serve until standard input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    limits = decode(ItemLimits, arguments[1], "limits")
    try:
        module, _, name = arguments[0].partition(":")
        task: Callable[[bytes], object] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, MemoryError) as error:
        _write(answers, ERROR + f"{type(error).__name__}: {error}".encode())
        return 1
    _confine(limits)
    _write(answers, VALUE)
    while batch := _batch(sys.stdin.buffer):
        for data in batch:
            _write(answers, _done(task, data, limits))
    return 0


def _done(task: Callable[[bytes], object], data: bytes, limits: ItemLimits) -> bytes:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + limits.cpu_s + 1, hard))
    signal.alarm(limits.wall_s)  # ends this process also when nobody waits for it any more
    try:
        return VALUE + json.dumps(plain(task(data)), allow_nan=False).encode()
    except MemoryError:
        return (
            ERROR + f"it needs more than the {limits.memory_bytes} bytes of memory that it may use".encode()
        )
    except Exception as error:  # noqa: BLE001 - a decoder raises anything on untrusted bytes; each is the item's verdict
        return ERROR + _told(error).encode("utf-8", "replace")
    finally:
        signal.alarm(0)


def _told(error: Exception) -> str:
    from foundation.errors import RejectedError

    if isinstance(error, RejectedError):
        return str(error)[:_SHOWN_CHARS]
    return f"decoding failed with {type(error).__name__}: {error}"[:_SHOWN_CHARS]


def _batch(stream: BinaryIO) -> list[bytes]:
    """Read a whole batch before any item is looked at, so that neither side waits for the other to read."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return []
    items = []
    for _ in range(LENGTH.unpack(head)[0]):
        (length,) = LENGTH.unpack(stream.read(LENGTH.size))
        items.append(stream.read(length))
    return items


def _write(fd: int, answer: bytes) -> None:
    data = memoryview(LENGTH.pack(len(answer)) + answer)
    while data:
        data = data[os.write(fd, data) :]


def _confine(limits: ItemLimits) -> None:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + limits.memory_bytes)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)
    sys.addaudithook(_refuse)


def _lower(what: int, limit: int) -> None:
    _soft, hard = resource.getrlimit(what)
    bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(what, (bound, bound))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN_EVENTS) or (event == "open" and _is_for_writing(arguments)):
        raise PermissionError(f"{event} in a confined process")


def _is_for_writing(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

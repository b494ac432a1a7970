"""Do work on untrusted bytes in a process with limits, in batches: whatever it does there costs the item that did it.

    with Confined("pipelines.curate.picture:measured", Measured) as work:
        for name, found in work.each(pairs_of_name_and_payload):
            ...                                  # a Measured, or a Failed that says why

The process (`modelkit.confined_worker`) has bounds on memory, processor time and wall time per item, writes no file,
opens no socket and starts no program. An item that ends the process or exceeds a bound is tried once more alone in a
fresh process; if that fails too the result is `Failed`, and the items around it have theirs. So nothing that bytes can do
to a decoder ends a run. It is no sandbox against code that runs inside a decoder: it reads what its user may read.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final, Generic, Self, TypeVar

from foundation.documents import decode
from foundation.errors import CorruptError, RetryLaterError

T = TypeVar("T")
K = TypeVar("K")

BATCH_ITEMS: Final = 64
BATCH_BYTES: Final = 32_000_000
MAX_ANSWER_BYTES: Final = 65_536
START_WITHIN_S: Final = 120.0
"""An interpreter that imports numpy on a machine under load."""
VALUE, ERROR = b"=", b"!"
"""First byte of an answer: the result as JSON, or why there is none."""
LENGTH: Final = struct.Struct("<I")
_KEPT_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class ItemLimits:
    """Bounds of one item. `memory_bytes` is address space beyond that of the started process; times in seconds.

    Wall time is far above processor time, because a busy machine must not decide what becomes of an item.
    """

    memory_bytes: int = 1_500_000_000
    cpu_s: int = 10
    wall_s: int = 120


@dataclass(frozen=True, slots=True)
class Failed:
    """Why an item has no result."""

    why: str


class Confined(Generic[T]):
    """A task in a process with limits, started with the first item. One thread only; close it or use `with`.

    Args:
        task: "module:function"; the function takes bytes and returns a dataclass. What it raises is the item's `Failed`.
        kind: the dataclass; answers that are not of it are failures, for the process is not trusted.
    """

    def __init__(self, task: str, kind: type[T], limits: ItemLimits | None = None) -> None:
        self._task = task
        self._kind = kind
        self._limits = limits or ItemLimits()
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self.starts = 0
        """How many processes were started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def each(self, items: Iterable[tuple[K, bytes]]) -> Iterator[tuple[K, T | Failed]]:
        """Yield (name, result) for each (name, bytes), in order; at most `BATCH_BYTES` and one item are held.

        Raises:
            RetryLaterError: no process can be started here.
        """
        names: list[K] = []
        batch: list[bytes] = []
        held = 0
        for name, data in items:
            names.append(name)
            batch.append(data)
            held += len(data)
            if len(batch) >= BATCH_ITEMS or held >= BATCH_BYTES:
                yield from zip(names, self.run(batch), strict=True)
                names, batch, held = [], [], 0
        if batch:
            yield from zip(names, self.run(batch), strict=True)

    def run(self, batch: Sequence[bytes]) -> list[T | Failed]:
        """Return the result of each item. Raises RetryLaterError: no process can be started here."""
        results: list[T | Failed] = []
        while len(results) < len(batch):
            found, _how = self._attempt(batch[len(results) :])
            results += found
            if len(results) < len(batch):
                alone, how = self._attempt(batch[len(results) : len(results) + 1])
                results += alone or [Failed(f"the process that decoded it {how}, also alone")]
        return results

    def close(self) -> None:
        """End the process."""
        process, self._process, self._unread = self._process, None, b""
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _attempt(self, batch: Sequence[bytes]) -> tuple[list[T | Failed], str]:
        """Return the results until the process ended or was ended, and how; all of them when it did not."""
        process = self._process or self._start()
        results: list[T | Failed] = []
        try:
            self._send(process, batch)
            while len(results) < len(batch):
                results.append(self._result(self._answer(process, self._limits.wall_s)))
        except _EndedError as ended:
            how = str(ended)
            self.close()
            return results, how
        return results, ""

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parent.parent)
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        environment |= {"PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        limits = json.dumps(asdict(self._limits))
        try:
            process = self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelkit.confined_worker", self._task, limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except (OSError, MemoryError) as error:
            raise RetryLaterError(f"a process for {self._task} cannot be started: {error}") from error
        self.starts += 1
        try:
            ready = self._answer(process, START_WITHIN_S)
        except _EndedError as ended:
            self.close()
            raise RetryLaterError(f"the process for {self._task} {ended} while it started") from ended
        if ready[:1] == ERROR:
            self.close()
            raise RetryLaterError(f"the process for {self._task}: {ready[1:].decode('utf-8', 'replace')}")
        return process

    def _send(self, process: subprocess.Popen[bytes], batch: Sequence[bytes]) -> None:
        pipe = _open(process.stdin)
        try:
            pipe.write(LENGTH.pack(len(batch)))
            for data in batch:
                pipe.write(LENGTH.pack(len(data)))
                pipe.write(data)
            pipe.flush()
        except OSError as error:
            raise _EndedError(_how_it_ended(process)) from error

    def _answer(self, process: subprocess.Popen[bytes], within_s: float) -> bytes:
        """Return the next answer, of a bounded length."""
        deadline_s = time.monotonic() + within_s
        while True:
            if len(self._unread) >= LENGTH.size:
                (length,) = LENGTH.unpack_from(self._unread)
                if length > MAX_ANSWER_BYTES:
                    raise _EndedError(f"answered with {length} bytes, the limit is {MAX_ANSWER_BYTES}")
                end = LENGTH.size + length
                if len(self._unread) >= end:
                    answer, self._unread = self._unread[LENGTH.size : end], self._unread[end:]
                    return answer
            self._unread += self._read(process, deadline_s, within_s)

    def _read(self, process: subprocess.Popen[bytes], deadline_s: float, within_s: float) -> bytes:
        pipe = _open(process.stdout)
        waiting = select.poll()  # select.select refuses descriptors from 1,024 on
        waiting.register(pipe, select.POLLIN)
        if not waiting.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
            raise _EndedError(f"gave no answer for {within_s:g} s")
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            raise _EndedError(_how_it_ended(process))
        return data

    def _result(self, answer: bytes) -> T | Failed:
        if answer[:1] == ERROR:
            return Failed(answer[1:].decode("utf-8", "replace"))
        try:
            return decode(self._kind, answer[1:], "answer")
        except CorruptError as error:
            return Failed(f"the process that decoded it gave no readable answer: {error}"[:500])


class _EndedError(Exception):
    """The process ended, or must be ended; the text completes "the process ..."."""


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None or pipe.closed:
        raise _EndedError("has no pipe")
    return pipe


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(5.0)
    except subprocess.TimeoutExpired:
        return "closed its pipe"
    if code < 0:
        limits = {signal.SIGXCPU: " (processor time)", signal.SIGALRM: " (wall time)"}
        return f"was ended by {signal.Signals(-code).name}{limits.get(signal.Signals(-code), '')}"
    return f"ended with exit status {code}"

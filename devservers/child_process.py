"""Run a server as a child process that ends with this process."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from foundation.clock import Clock, SystemClock
from foundation.errors import RetryLaterError
from foundation.retry import Deadline

LOOPBACK: Final = "127.0.0.1"
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


def free_port() -> int:
    """Return a TCP port on loopback that is free at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Return whether a process accepts connections on `port` of loopback."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0):
            return True
    except OSError:
        return False


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Handlers written in Python run after this block: one that raises within a fork is ignored by Python, and its
    signal is lost (and the lock of `logging` with it).
    """
    came: list[int] = []
    kept: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if callable(signal.getsignal(number)):
                kept[number] = signal.signal(number, lambda each, _frame: came.append(each))
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    for each in came:
        signal.raise_signal(each)


class ChildProcess:
    """A child process, which the kernel kills when the thread that started it ends, even by SIGKILL (Linux).

    Its output is appended to `log_path`; with None it goes to an unnamed file, which is removed with this process.

    Start it from a thread that lives as long as the child should, such as the main thread, because the kernel's signal is
    sent at the end of the starting thread.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log_path: Path | None,
        *,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        with tempfile.TemporaryFile() if log_path is None else log_path.open("ab") as log:
            self._start(command, log, folder, env)
            if log_path is None:
                descriptor = os.dup(log.fileno())
                weakref.finalize(self, os.close, descriptor)
                log_path = Path(f"/proc/self/fd/{descriptor}")
        self.log_path = log_path

    def _start(
        self,
        command: Sequence[str | Path],
        log: IO[bytes],
        folder: Path | None,
        env: Mapping[str, str] | None,
    ) -> None:
        parent = os.getpid()

        def in_child() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # the parent died between fork and prctl
                os._exit(1)

        try:
            with _signals_wait():
                self._process = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=None if env is None else dict(env),
                    preexec_fn=in_child,
                    start_new_session=True,  # Ctrl-C goes to the parent only, which then stops the child
                )
        except KeyboardInterrupt:
            self.kill_group()  # nobody else will ever hold it
            raise

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the child is running."""
        return self._process.poll() is None

    def wait_ready(self, is_ready: Callable[[], bool], seconds: float, clock: Clock | None = None) -> None:
        """Return once `is_ready()` holds.

        Raises:
            RetryLaterError: the child ended, or was not ready in time; the message has the end of its log.
        """
        clock = clock or SystemClock()
        deadline = Deadline(clock, seconds)
        while not (self.is_alive and is_ready()):
            if not self.is_alive or deadline.remaining_s() <= 0:
                fate = (
                    f"ended with status {self._process.poll()}"
                    if not self.is_alive
                    else f"was not ready within {seconds:g} s"
                )
                raise RetryLaterError(f"{self._process.args!r} {fate}: {self.log_end()}")
            clock.sleep(0.02)

    def log_end(self, characters: int = 1500) -> str:
        """Return the last `characters` of the child's output."""
        return self.log_path.read_text("utf-8", "replace")[-characters:]

    def signal(self, number: int) -> None:
        """Send a signal (SIGSTOP, SIGCONT, SIGKILL, ...) to this child only."""
        self._process.send_signal(number)

    def stop(self, grace_s: float = 5.0) -> None:
        """Stop the child: SIGTERM, then SIGKILL after `grace_s` seconds."""
        if self.is_alive:
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """Kill the child with SIGKILL and wait for it."""
        self._process.kill()
        self._process.wait()

    def kill_group(self) -> None:
        """Send SIGKILL to the child and to all processes of its process group."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    def wait(self, seconds: float) -> int:
        """Wait for the exit status (negative: the signal that ended it). Raises subprocess.TimeoutExpired."""
        return self._process.wait(seconds)

"""Services that systemd watches: their sign of life comes from the work itself, and one that hangs is back in time."""

from __future__ import annotations

import configparser
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from foundation.clock import ManualClock
from foundation.errors import RetryLaterError
from foundation.service_manager import BEAT_EVERY_S
from pipelines import steps
from pipelines.ingest.run import Ingest
from rollout.service import RolloutService, watch
from tests.rollout.rollout_lab import Lab, fleet
from tests.rollout.test_rollout_commands import Desk

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
WATCHED = ("fleetloop-agent.service", "fleetloop-ingest.service", "fleetloop-rollout-watch.service")


def unit(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string((UNITS / name).read_text())
    return parser["Service"]


@pytest.mark.parametrize("name", WATCHED)
def test_a_unit_ends_a_service_that_hangs_and_starts_it_again(name: str) -> None:
    service = unit(name)
    assert service["Type"] == "notify"
    assert float(service["WatchdogSec"]) >= 3 * BEAT_EVERY_S
    assert service["Restart"] in ("always", "on-failure")


class Manager:
    """What systemd does with such a unit: hears signs of life, ends a silent service, starts it again."""

    def __init__(self, folder: Path, command: list[str], silent_s: float) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "notify"))
        self.socket.settimeout(0.2)
        self.environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        self.command = command
        self.silent_s = silent_s
        self.log = folder / "stderr"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, env=self.environment, stdout=subprocess.DEVNULL, stderr=log)

    def hear(self, within_s: float) -> bytes:
        """The next word; b"" when there is none in time."""
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            try:
                return self.socket.recv(100)
            except TimeoutError:
                assert self.process.poll() is None, self.log.read_text()
        return b""

    def end_if_silent(self) -> bool:
        while self.hear(self.silent_s):
            return False
        self.process.send_signal(signal.SIGABRT)
        self.process.send_signal(signal.SIGCONT)
        self.process.wait(30)
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while self.socket.recv(100):
                pass  # its last words
        self.socket.settimeout(0.2)
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close()


def command_of(name: str, desk: Desk) -> list[str]:
    """The command of the unit, with this interpreter and workspace."""
    words = shlex.split(unit(name)["ExecStart"].replace("${FLEETLOOP_WORKSPACE}", str(desk.root)))
    words = [{"60": "0.2", "30": "0.2"}.get(word, word) for word in words]  # the pauses
    return [sys.executable, "-P", "-m", "fleetloop.cli", *words[1:]]


@pytest.mark.parametrize("name", WATCHED[1:])
def test_a_service_that_hangs_is_ended_says_where_it_hung_and_starts_again(tmp_path: Path, name: str) -> None:
    desk = Desk(tmp_path)
    desk.enrol("car-1")
    desk.release()
    desk.run("rollout", "start", "r2")
    manager = Manager(tmp_path, command_of(name, desk), silent_s=1.0)
    try:
        assert manager.hear(120.0) == b"READY=1"
        manager.process.send_signal(signal.SIGSTOP)
        while not manager.end_if_silent():
            pass  # signs of life from before
        assert manager.process.returncode == -signal.SIGABRT
        assert "most recent call first" in manager.log.read_text(), "the journal shows where it hung"
        manager.process = manager.start()
        assert manager.hear(120.0) == b"READY=1"
    finally:
        manager.close()


@contextmanager
def heard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Signs of life so far; after each call none is left."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))

        def count() -> int:
            words = 0
            while True:
                try:
                    words += manager.recv(100) == b"WATCHDOG=1"
                except BlockingIOError:
                    return words

        yield count


def test_ingest_shows_life_with_each_step_and_while_it_waits_and_never_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, threads = threading.Event(), threading.active_count()
    counts: list[int] = []

    class Job(Ingest):
        def once(self) -> Any:
            count()
            clock.advance(100_000.0)  # a broker that never answers
            counts.append(count())
            steps.reached("ingest.read")
            steps.reached("ingest.commit")
            counts.append(count())
            assert threading.active_count() == threads
            raise RetryLaterError("no broker")

    clock = ManualClock()
    with heard(tmp_path, monkeypatch) as count:
        job = Job(*[None] * 5, clock)  # type: ignore[arg-type]
        waited: list[int] = []

        def on_report(_report: object) -> None:
            if counts[2:]:
                waited.append(counts[-1])
                stop.set()

        job.follow(stop, on_report, poll_s=60.0)
    assert counts[:2] == [0, 2]
    assert clock.monotonic_ns() > 200_000e9


def test_a_wait_of_an_hour_shows_life_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foundation.service_manager import wait_alive

    with heard(tmp_path, monkeypatch) as count:
        gaps: list[tuple[float, int]] = []
        wait_alive(lambda seconds: gaps.append((seconds, count())), 95.0)
        assert sum(seconds for seconds, _ in gaps) == 95.0
        assert all(seconds <= BEAT_EVERY_S and beats >= 1 for seconds, beats in gaps)


def test_watching_a_rollout_shows_life_with_each_decision_and_never_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path / "lab")
    lab.release()
    lab.service.start("r2", "rest", fleet(2))
    service: RolloutService = lab.service
    threads, counts = threading.active_count(), list[tuple[int, int]]()
    with heard(tmp_path, monkeypatch) as count:

        def listen() -> dict[str, Any]:
            before = count()
            lab.clock.advance(1_000.0)
            assert threading.active_count() == threads
            counts.append((before, count()))
            return {}

        watch(service, listen, lab.clock, timeout_s=3_000.0, every_s=30.0)
    assert [during for _, during in counts] == [0] * len(counts)
    assert all(before >= 3 for before, _ in counts[1:])

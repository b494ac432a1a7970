"""A ride: the real agent under load, its uplink disturbed, and what its books and an independent checker say after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.checker.ride_books import Disturbance, Ride, disturbance_violations, ride_violations
from tests.torture.fault import Tally
from tests.waiting import until

FRAMES = 150
RATE_HZ = 40.0
SAMPLE_S = 0.25
STEADY_S = 3.0
RATE_WINDOW_S = 2.0
DRAIN_PATIENCE_S = 120.0
PROCESSES = ("perceive", "deliver")
PACE = "sync_s = 0.2\n"


class Memory(threading.Thread):
    """Reads the resident size (VmRSS) of the agent's processes four times a second."""

    def __init__(self, pid_of: Callable[[str], int | None]) -> None:
        super().__init__(name="memory", daemon=True)
        self._pid_of = pid_of
        self._has_ended = threading.Event()
        self.sizes: dict[str, list[int]] = {name: [] for name in PROCESSES}

    def run(self) -> None:
        while not self._has_ended.wait(SAMPLE_S):
            for name in PROCESSES:
                pid = self._pid_of(name)
                size_bytes = resident_bytes(pid) if pid is not None else 0
                if size_bytes:
                    self.sizes[name].append(size_bytes)

    def end(self) -> None:
        self._has_ended.set()
        self.join(5.0)


def resident_bytes(pid: int) -> int:
    """VmRSS of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


class Ridden:
    """One vehicle, from its start to the verdict. `pace` and `kafka` are lines of its agent.toml."""

    def __init__(
        self,
        folder: Path,
        bootstrap: str,
        *,
        proxy_url: str = "",
        pace: str = "",
        kafka: str = "",
        rate_hz: float = RATE_HZ,
        frames: int = FRAMES,
    ) -> None:
        from tests.e2e.field import Vehicle, workspace

        proxy = f'proxy_url = "{proxy_url}"\n' if proxy_url else ""
        self.bootstrap = bootstrap
        self.vehicle = Vehicle(
            folder / "car",
            "car-1",
            bootstrap,
            frames,
            rate_hz=rate_hz,
            loop=True,
            kafka=proxy + kafka,
            pace=PACE + pace,
        )
        self.place = workspace(folder / "workspace", bootstrap, [self.vehicle])
        self.memory = Memory(self.vehicle.child)
        self.steady: dict[str, int] = {}
        self.disturbances: list[tuple[Disturbance, list[str]]] = []

    def start(self, *, delivers: bool = True) -> None:
        """The agent runs, perceives and (when there is a broker) delivers; its memory is measured at rest."""
        self.vehicle.start()
        self.memory.start()
        until(self._accepts, "perceive accepts")
        if delivers:
            until(lambda: self.delivered() > 0, "the first record is delivered")
            self.settle()

    def _accepts(self) -> bool:
        process = self.vehicle.process
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the agent ended: {self.vehicle.log_path.read_text()[-1000:]}")
        return self.vehicle.receipts() > RATE_HZ / 2

    def settle(self) -> None:
        """The steady level: the largest size while nothing is wrong."""
        before = {name: len(sizes) for name, sizes in self.memory.sizes.items()}
        time.sleep(STEADY_S)
        for name, sizes in self.memory.sizes.items():
            self.steady[name] = max(sizes[before[name] :] or sizes or [0])

    def status(self) -> dict[str, Any]:
        return self.vehicle.status()

    def delivered(self) -> int:
        return int(self.status()["ledger"]["delivered"])

    def uploader(self) -> dict[str, Any]:
        """What deliver published last about its uploader."""
        from edge_agent.state_folder import read_status

        return dict(read_status(self.vehicle.state.status_path("deliver")).get("uploader", {}))

    @contextmanager
    def disturbed(self, name: str) -> Iterator[None]:
        """The body disturbs and mends; then the backlog must go. A violation is kept for `judge`."""
        before_hz = self._rate_hz(RATE_WINDOW_S)
        begun_s, first = time.monotonic(), self.vehicle.receipts()
        yield
        during_hz = (self.vehicle.receipts() - first) / (time.monotonic() - begun_s)
        ledger = self.status()["ledger"]
        begun_s, wanted = time.monotonic(), int(ledger["accepted"])
        told = Disturbance(
            name,
            before_hz,
            during_hz,
            wanted - int(ledger["delivered"]),
            self._drained_s(wanted, begun_s),
        )
        self.disturbances.append((told, disturbance_violations(told)))

    def _rate_hz(self, seconds: float) -> float:
        begun_s, first = time.monotonic(), self.vehicle.receipts()
        time.sleep(seconds)
        return (self.vehicle.receipts() - first) / (time.monotonic() - begun_s)

    def _drained_s(self, wanted: int, begun_s: float) -> float | None:
        try:
            until(lambda: self.delivered() >= wanted, "it drains", DRAIN_PATIENCE_S, poll_s=0.2)
        except AssertionError:
            return None
        return time.monotonic() - begun_s

    def judge(
        self, tally: Tally, *, resends: bool = False, topic_id: str = "", also: Sequence[str] = ()
    ) -> None:
        """Stop, ingest, check, and count every disturbance as survived or not."""
        from tests.e2e.field import check, ingest

        self.memory.end()
        whole = [] if self.vehicle.stop() == 0 else ["the agent did not stop cleanly"]
        exported, status = self.vehicle.export_ledger(), self.status()
        restarts = {name: child.get("restarts", 0) for name, child in status["processes"].items()}
        growth = {
            name: max(sizes, default=0) - self.steady.get(name, 0)
            for name, sizes in self.memory.sizes.items()
        }
        ride = Ride(
            status["frames_seen"],
            self.vehicle.receipts(),
            exported["accepted"],
            exported["not_accepted"],
            restarts.get("perceive", 0),
            growth,
        )
        whole += ride_violations(ride)
        whole += also
        ingest(self.place)
        told = [*self.vehicle.told(), *(["--topic-id", topic_id] if topic_id else [])]
        _, verdict = check(self.bootstrap, self.place, told)
        whole += [
            f"{rule}: {found['count']}, {found['examples'][:2]}"
            for rule, found in verdict["violations"].items()
        ]
        rows = verdict["counts"]["rows"]
        if resends and not rows.get("resent", 0):
            whole.append("no record was resent, though acknowledgements were lost")
        for told_of, violations in self.disturbances:
            tally.judge(violations + whole, told_of.name)
            tally.measure("drain_s", told_of.drained_s or DRAIN_PATIENCE_S)
            tally.measure(
                "rate_kept_percent", 100 * told_of.rate_during_hz / max(1e-9, told_of.rate_before_hz)
            )
            tally.count("max_backlog_records", told_of.backlog)
        tally.count("frames_offered", ride.frames_seen)
        tally.count("records_accepted", ride.accepted)
        tally.count("records_landed", rows.get("landed", 0))
        tally.count("records_resent", max(rows.get("resent", 0), int(exported.get("resent", 0))))
        tally.count("landed_twice", verdict["violations"].get("landed_twice", {}).get("count", 0))
        tally.count("frames_missed", ride.frames_seen - ride.accepted)
        for name, grown in growth.items():
            tally.count(f"max_memory_growth_{name}_mb", max(0, round(grown / 1e6)))

    def clean_up(self) -> None:
        self.memory.end()
        self.vehicle.clean_up()


@contextmanager
def ridden(folder: Path, bootstrap: str, **changes: Any) -> Iterator[Ridden]:
    """A vehicle that is ended at the end, whatever happens."""
    ride = Ridden(folder, bootstrap, **changes)
    try:
        yield ride
    finally:
        ride.clean_up()

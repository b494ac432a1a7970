"""A vehicle whose clock and power come and go, and a fleet that speaks or is silenced: both in simulated time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from edge_agent.models.http import BoundedFetcher, UrlTransport
from edge_agent.models.settings import DownloadSettings
from edge_agent.models.trust import OnlineTrust, SavedTrust
from edge_agent.models.trust_folder import TrustFolder
from foundation.clock import ManualClock
from foundation.errors import FleetLoopError, RetryLaterError
from tests.checker.freeze_story import Look, read_word
from tests.edge_agent.agent_bench import WALL_NS
from tests.edge_agent.models.model_bench import Bench

DAY_S = 86_400.0
HOLD_S = 1_800.0
TO_1970_S = -WALL_NS / 1e9
OFFS_S = (TO_1970_S, TO_1970_S, TO_1970_S, -DAY_S, 0.0, 0.0, DAY_S, 3650 * DAY_S)
STEPS = 20
WHAT = ("runs",) * 5 + ("jumps",) * 2 + ("boots",) * 2 + ("fleet speaks",)


@dataclass
class FrozenFleet:
    """`looks` is what the checker is told."""

    folder: Path
    rng: random.Random
    off_s: float = 0.0
    boots: int = 0
    ran_s: float = 0.0
    looks: list[Look] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.true = ManualClock(WALL_NS)
        self.bench = Bench(self.folder, self.true)
        self.bench.plan("none")
        self.trust = TrustFolder(self.bench.state)
        self._boot()

    def _boot(self) -> None:
        self.boots += 1
        self.clock = ManualClock(self.true.now_ns() + round(self.off_s * 1e9), 1_000_000_000)

    def play(self) -> None:
        self._look("at first")
        for number in range(STEPS):
            what = self.rng.choice(WHAT)
            if what == "runs":
                self._run(self.rng.uniform(0.2, 4.0) * DAY_S)
            elif what == "jumps":
                self._jump(self.rng.choice(OFFS_S))
            elif what == "boots":
                self.true.advance(self.rng.uniform(0.0, 0.5) * DAY_S)
                self.off_s = self.rng.choice(OFFS_S)
                self._boot()
            else:
                self.bench.repository.refresh()
            self._look(f"step {number}, {what}, clock {self.off_s / DAY_S:.0f} days off")

    def _jump(self, off_s: float) -> None:
        self.clock.jump_wall(off_s - self.off_s)
        self.off_s = off_s

    def _run(self, seconds: float) -> None:
        """Run on, and write down from time to time how far time is, as the fetcher does at each poll."""
        while seconds > 0:
            step_s = min(HOLD_S, seconds)
            seconds -= step_s
            for clock in (self.true, self.clock):
                clock.advance(step_s)
            self.ran_s += step_s
            self.trust.hold_floor(self.clock)

    def _look(self, what: str) -> None:
        word = read_word(self.bench.repository.path / "metadata")
        wall_ns, ran_ns = self.clock.now_ns(), round(self.ran_s * 1e9)
        settings = DownloadSettings()
        port = BoundedFetcher(UrlTransport(settings), settings, self.clock)
        online = True
        try:
            OnlineTrust(self.trust, str(self.bench.repository.path), port, self.clock).refresh()
        except RetryLaterError:
            raise
        except FleetLoopError:
            online = False
        self.looks.append(Look(word, wall_ns, ran_ns, online, f"{what}, asked"))
        if online:  # what was saved is what was just accepted: perceive must think the same of it
            saved = True
            try:
                SavedTrust.load(self.trust, self.clock)
            except FleetLoopError:
                saved = False
            self.looks.append(Look(word, wall_ns, ran_ns, saved, f"{what}, saved"))

    @contextmanager
    def booted(self) -> Iterator[None]:
        with patch("edge_agent.models.trust_folder.boot_id", lambda: f"{self.boots:032d}"):
            yield

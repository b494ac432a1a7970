"""A drive in simulated time: the real frame loop, spool, uploader and telemetry, a sink in memory, a clock that jumps."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

from connectors.kafka.ports import RecordSink
from edge_agent.config import (
    BudgetSettings,
    RandomSettings,
    SelectionSettings,
    UncertaintySettings,
)
from edge_agent.jobs import Job, JobRunner
from edge_agent.key_file import load_key
from edge_agent.spool.reader import SpoolReader
from edge_agent.telemetry import TelemetryJob
from edge_agent.uploader import Uploader, UploaderSettings
from foundation.clock import ManualClock
from foundation.errors import RetryLaterError
from foundation.events import EventLog
from schemas.reasons import Provenance
from schemas.wire import TOPICS
from tests.checker.clock_story import Moment
from tests.edge_agent.agent_bench import VEHICLE, WALL_NS, Vehicle1, make_frame, settings_for
from tests.fakes.kafka import FakeBroker, FakeSink

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S
TO_1970_S = -WALL_NS / 1e9 + 60.0
FRAME_S = 0.5
TELEMETRY_S = 10.0
DRAIN_BOUND_S = 60.0
BOOT_ID_IS_READ_IN = ("observation_loop", "durable_progress", "telemetry", "models.trust_folder")


@dataclass(frozen=True, slots=True)
class Act:
    """Before frame `at`: the wall clock is `off_s` off from now on; the machine boots; or the broker goes and comes."""

    at: int
    what: str
    off_s: float = 0.0


@dataclass
class ClockDrive:
    """One vehicle and its broker; `moments` is what the checker is told of the frames."""

    folder: Path
    rng: random.Random
    off_s: float = 0.0
    boots: int = 0
    frames: int = 0
    elapsed_s: float = 0.0
    has_jumped: bool = False
    is_reachable: bool = True
    moments: dict[str, Moment] = field(default_factory=dict)
    drained_s: float = 0.0
    sinks: list[FakeSink] = field(default_factory=list)
    reachable_s: float = 0.0

    def __post_init__(self) -> None:
        chosen = SelectionSettings(
            uncertainty=UncertaintySettings(enabled=False),
            random=RandomSettings(probability=0.7),
            budget=BudgetSettings(per_hour_bytes=10**9),
        )
        base = settings_for(self.folder, selection=chosen)
        self.receipts = self.folder / "receipts"
        spool = replace(
            base.spool, commit_interval_s=1.0, segment_bytes=50_000, receipt_path=str(self.receipts)
        )
        self.clock = self._new_clock()
        self.vehicle = Vehicle1(replace(base, spool=spool), clock=self.clock)
        self.broker = FakeBroker(clock=self.clock)
        self._deliver_starts()

    @property
    def true_ns(self) -> int:
        return WALL_NS + round(self.elapsed_s * 1e9)

    def _new_clock(self) -> ManualClock:
        return ManualClock(self.true_ns + round(self.off_s * 1e9), 5_000_000_000)

    def _deliver_starts(self) -> None:
        state, clock = self.vehicle.state, self.clock
        events = EventLog(state.events / "deliver.jsonl", clock, "deliver")
        key = load_key(state.key_path)
        self.reader = SpoolReader.open(state.spool, self.vehicle.settings.spool, VEHICLE, clock, events)
        pace = UploaderSettings(backoff_max_s=20.0)
        self.uploader = Uploader(self.reader, self._sink, pace, clock, events, rng=self.rng)
        telemetry = TelemetryJob(state, VEHICLE, key, self._sink, clock, other_roles=())
        self.runner = JobRunner(
            [
                Job("upload", self.uploader.step, lambda: True, 0.0),
                Job("telemetry", telemetry.step, lambda: True, TELEMETRY_S),
            ],
            clock,
            events,
        )

    def _sink(self) -> RecordSink:
        if not self.is_reachable:
            raise RetryLaterError("no network")
        self.sinks.append(FakeSink(self.broker, clock=self.clock))
        return self.sinks[-1]

    def act(self, act: Act) -> None:
        if act.what == "jump":
            self.clock.jump_wall(act.off_s - self.off_s)
            self.has_jumped = self.has_jumped or abs(act.off_s - self.off_s) > 2.0
            self.off_s = act.off_s
        elif act.what == "boot":
            self.off_s = act.off_s
            self.restart(is_boot=True)
        elif act.what == "restart":
            self.restart(is_boot=False)
        else:
            self.is_reachable = self.broker.is_up = act.what == "network comes"
            for sink in self.sinks:
                sink.fail_next(RetryLaterError("the connection was lost"))

    def restart(self, *, is_boot: bool) -> None:
        """Both processes are killed and begin anew, after a boot with another monotonic clock."""
        self.vehicle.kill()
        self.sinks.clear()
        self.reader._log.close()
        self.reader._ledger.close()
        self.reader._lock.__exit__(None, None, None)
        self.has_jumped = False
        if is_boot:
            self.boots += 1
            self.clock = self._new_clock()
            self.vehicle.clock = self.clock
        self.vehicle.start()
        self._deliver_starts()
        self.frames = self._resume_at()

    def _resume_at(self) -> int:
        frame_id = self.vehicle.frame_id
        return 0 if frame_id is None else int(frame_id[-5:]) + 1

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.elapsed_s += seconds
        self.reachable_s += seconds if self.is_reachable else 0.0
        self.sinks = [sink for sink in self.sinks if not sink.is_closed]
        for sink in self.sinks:
            sink.pump()  # a client tries again by itself
        self.runner.run_due()

    def play(self, frames: int, acts: list[Act]) -> None:
        """Every frame, each act before its frame; then everything is delivered."""
        for act in acts:
            self._play_to(act.at)
            self.act(act)
        self._play_to(frames)
        self.vehicle.end_source()
        self.is_reachable = self.broker.is_up = True
        begun_s = self.elapsed_s
        while not self.uploader.is_drained and self.elapsed_s - begun_s < 2 * DRAIN_BOUND_S:
            self.pass_time(0.1)
        self.drained_s = self.elapsed_s - begun_s
        self.uploader.close()

    def _play_to(self, end: int) -> None:
        while self.frames < end:
            self.pass_time(FRAME_S)
            frame = make_frame(self.frames)
            wall_ns = self.clock.now_ns()
            frame = replace(frame, capture_time_ns=wall_ns, provenance=Provenance.RECORDED)
            self.moments[frame.frame_id] = Moment(frame.frame_id, wall_ns, self.true_ns, self.has_jumped)
            self.frames += 1
            self.vehicle.play(frame)

    def told_receipts(self) -> list[tuple[str, int]]:
        lines = self.receipts.read_text().splitlines() if self.receipts.exists() else []
        return [(line.split()[1], int(line.split()[2])) for line in lines]

    def log(self, topic: str = TOPICS.samples) -> list[bytes]:
        return [record.value or b"" for record in self.broker.records(topic)]

    @contextmanager
    def booted(self) -> Iterator[None]:
        """The kernel's boot id is that of this simulated machine."""
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:24]
        with ExitStack() as stack:
            for module in BOOT_ID_IS_READ_IN:
                stack.enter_context(patch(f"edge_agent.{module}.boot_id", lambda: f"{name}{self.boots:08d}"))
            yield


FRAMES = 80


def story(number: int, rng: random.Random) -> tuple[str, float, list[Act]]:
    """Its name, how far the clock is off at boot, and what happens in it."""
    middle = rng.randrange(20, 60)
    gone, back = middle - rng.randrange(1, 10), middle + rng.randrange(2, 15)
    outage = [Act(gone, "network goes"), Act(back, "network comes")]
    decade = 10 * YEAR_S
    stories: list[tuple[str, float, list[Act]]] = [
        ("1970 at boot, then right", TO_1970_S, [Act(middle, "jump", 0.0)]),
        ("1970 at boot, never right", TO_1970_S, [Act(middle, "restart")]),
        ("ten years ahead at boot, then right", decade, [Act(middle, "jump", 0.0)]),
        ("ten years ahead in the middle", 0.0, [Act(middle, "jump", decade)]),
        ("back by a day in the middle", 0.0, [Act(middle, "jump", -DAY_S)]),
        (
            "three boots in 1970",
            TO_1970_S,
            [Act(middle, "boot", TO_1970_S), Act(middle + 10, "boot", TO_1970_S)],
        ),
        (
            "a boot ten years ahead, then one in 1970",
            0.0,
            [Act(middle, "boot", decade), Act(middle + 10, "boot", TO_1970_S)],
        ),
        ("to and fro", 0.0, _to_and_fro(rng)),
    ]
    name, off_s, acts = stories[number % len(stories)]
    return name, off_s, sorted([*acts, *outage], key=lambda act: act.at)


def _to_and_fro(rng: random.Random) -> list[Act]:
    offs = [TO_1970_S, 0.0, -DAY_S, DAY_S, 10 * YEAR_S, -3.0]
    acts = [Act(at, "jump", rng.choice(offs)) for at in rng.sample(range(5, 75), 6)]
    return [*acts, Act(rng.randrange(30, 50), rng.choice(["boot", "restart"]), rng.choice(offs))]

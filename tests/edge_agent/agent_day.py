"""A vehicle's day on a disk that may refuse: the real supervisor, perceive and deliver, one life after the other.

Real: settings, locks, spool, ledger, model slots, trust and TUF, the fetcher, telemetry, status. Fakes: the broker, the
inference runtime, the trial's process, time. The processes run in this one, so that every write goes through one gate.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import BaseServer
from unittest import mock

from connectors.kafka.ports import RecordSink
from edge_agent import daemon, perceive
from edge_agent.deliver import Deliver
from edge_agent.health_http import _Bounded
from edge_agent.jobs import JobRunner
from edge_agent.key_file import save_key
from edge_agent.models.fetch import ModelFetcher
from edge_agent.models.status import read_model_status
from edge_agent.models.trial import TrialResult
from edge_agent.process import ProcessContext, StopSignal, run_process
from edge_agent.spool.snapshot import read_ledger
from edge_agent.spool.writer import SpoolWriter
from edge_agent.state_folder import StateFolder
from edge_agent.status import build_status
from foundation.clock import ManualClock
from foundation.errors import RetryLaterError
from schemas.reasons import RefuseReason
from schemas.signing import VehicleKey
from schemas.wire import FL_EPOCH, FL_SEQ, FL_SHA256, TOPICS
from tests.edge_agent.agent_bench import WALL_NS, png
from tests.edge_agent.models.model_bench import Bench, FakeTrial
from tests.failing_disk import failing_disk
from tests.fakes.kafka import FakeBroker, FakeSink
from tests.fakes.models import FakeBackend

EARLY, LATE = 6, 6
"""Frames of the first and of the second perceive."""
DELIVER_ROUNDS = 10
ROUND_S = 1.5


class _OnceTrial(FakeTrial):
    """Says its result once, as the pipe of a real trial does."""

    def poll(self) -> TrialResult | None:
        told, self.result = self.result, TrialResult(False, RefuseReason.CRASHED, "it gave its answer before")
        return told


@dataclass
class Day:
    """One vehicle: `disk` is what may refuse; broker, repository, recording and receipts are elsewhere."""

    folder: Path
    clock: ManualClock
    broker: FakeBroker
    ends: list[str] = field(default_factory=list)
    """Every end of a process that was not in order: name, code or error."""

    @property
    def disk(self) -> Path:
        return self.folder / "vehicle"

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def state(self) -> StateFolder:
        return StateFolder(self.disk)

    # The processes.

    def perceive(self) -> bool:
        return self._life("perceive", lambda context: perceive.Perceive(context).run(), "--until-source-ends")

    def deliver(self) -> bool:
        return self._life("deliver", self._deliver)

    def supervise(self) -> bool:
        """A supervisor that looks a few times and is stopped; it starts nothing real."""

        def run(supervisor: daemon.Supervisor) -> int:
            supervisor.spawn = _no_child
            for _ in range(3):
                supervisor.step()
                supervisor.clock.sleep(1.0)
            supervisor.stop.event.set()
            return _RUN(supervisor)

        with self._fakes(), mock.patch.object(daemon.Supervisor, "run", run):
            try:
                code = daemon.run_agent(self.config)
            except Exception as error:
                self.ends.append(f"supervisor: {type(error).__name__}: {error}")
                return False
        if code:
            self.ends.append(f"supervisor: {code}")
        return code == 0

    def _life(self, name: str, body: Callable[[ProcessContext], int], *words: str) -> bool:
        with self._fakes():
            try:
                code = run_process(name, body, ["--config", str(self.config), *words])
            except Exception as error:
                self.ends.append(f"{name}: {type(error).__name__}: {error}")
                return False
        if code:
            self.ends.append(f"{name}: {code}")
        return code == 0

    def _deliver(self, context: ProcessContext) -> int:
        """Its table of jobs, with both lanes in this thread; then its orderly end."""
        deliver = Deliver(context)
        runner = JobRunner(deliver.jobs, self.clock, context.events)
        for _ in range(DELIVER_ROUNDS):
            context.heartbeat.beat()
            runner.run_due()
            self.clock.advance(ROUND_S)
        context.stop.event.set()
        return deliver.run()

    @contextmanager
    def _fakes(self) -> Iterator[None]:
        def sink(_deliver: Deliver) -> RecordSink:
            return FakeSink(self.broker, clock=self.clock)

        def trial(_fetcher: ModelFetcher, _slot: Path, _digest: str, _frames: Path) -> FakeTrial:
            return _OnceTrial(TrialResult(True, "", frames=1, latency_p50_ns=1000))

        with (
            mock.patch("edge_agent.process.SystemClock", lambda: self.clock),
            mock.patch("edge_agent.daemon.SystemClock", lambda: self.clock),
            mock.patch.object(_Bounded, "serve_forever", lambda server: _SERVE(server, 0.01)),
            mock.patch.object(StopSignal, "install", lambda _signal: None),
            mock.patch("edge_agent.process.print_threads_on_abort"),
            mock.patch("edge_agent.perceive.open_runtime", FakeBackend),
            mock.patch.object(SpoolWriter, "start_committer", lambda _writer: None),
            mock.patch.object(Deliver, "_make_sink", sink),
            mock.patch.object(ModelFetcher, "_start_real_trial", trial),
        ):
            yield

    # The world.

    def add_frames(self, first: int, count: int) -> None:
        """The recorder, which writes to another disk."""
        drive = self.folder / "recording" / "drive-1"
        drive.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            (drive / f"{number:05d}.png").write_bytes(png(number))

    def receipts(self) -> set[tuple[str, int, str]]:
        """(epoch, seq, sha256) of all that was accepted."""
        path = self.folder / "receipts"
        rows = (line.split() for line in path.read_text().splitlines()) if path.exists() else ()
        return {(epoch, int(number), digest) for _, epoch, number, digest in rows}

    def landed(self) -> list[tuple[str, int, str]]:
        """(epoch, seq, sha256) of all samples in the broker, resends included."""
        found = []
        for record in self.broker.records(TOPICS.samples):
            headers = dict(record.headers)
            epoch, digest = headers[FL_EPOCH].decode(), headers[FL_SHA256].decode()
            found.append((epoch, int(headers[FL_SEQ]), digest))
        return found

    def copy(self, to: Path) -> Day:
        """The same vehicle with everything around it, in another folder."""
        shutil.copytree(self.folder, to, symlinks=True)
        broker = FakeBroker(clock=self.clock)
        for topic in (TOPICS.samples, TOPICS.telemetry):
            for record in self.broker.records(topic):
                broker.append(topic, record.key, record.value, record.headers, partition=record.partition)
        clock = ManualClock(self.clock.now_ns(), self.clock.monotonic_ns())
        day = Day(to, clock, broker)
        day.configure()
        return day

    def configure(self) -> None:
        self.config.write_text(f"""
vehicle_id = "car-1"
state_folder = "vehicle"
[source]
kind = "image_folder"
path = "recording"
frame_interval_s = 0.1
[selection]
limits_tracks = false
[selection.uncertainty]
enabled = false
[selection.novelty]
enabled = true
threshold = 0.0
[selection.random]
probability = 1.0
[serving]
prediction_log = "vehicle/predictions.jsonl"
[serving.model]
poll_interval_s = 0.0
probation_frames = 3
[spool]
receipt_path = "{self.folder}/receipts"
segment_bytes = 16384
reserve_bytes = 65536
commit_count = 2
[updates]
base_url = "{self.folder}/tuf"
poll_interval_s = 5.0
backoff_first_s = 0.5
backoff_max_s = 1.0
listen_for_notices = false
min_free_bytes = 0
[telemetry]
interval_s = 5.0
[supervisor]
stop_s = 1.0
""")


_RUN, _SERVE = daemon.Supervisor.run, BaseServer.serve_forever


def _no_child(_arguments: object) -> object:
    raise OSError(11, "no process is started here")


def begin(folder: Path) -> Day:
    """A vehicle that kept frames which were not delivered yet, and is offered the release r2."""
    clock = ManualClock(WALL_NS)
    folder.mkdir()
    bench = Bench(folder, clock)
    key = VehicleKey.generate()
    save_key(key, bench.state / "key.pem")
    day = Day(folder, clock, FakeBroker(clock=clock))
    day.configure()
    day.add_frames(0, EARLY)
    if not (day.supervise() and day.perceive() and day.deliver()):
        raise RuntimeError(f"the first life ended: {day.ends}")
    bench.release("r2", 2)
    bench.plan("r2")
    day.add_frames(EARLY, EARLY)
    if not day.perceive():
        raise RuntimeError(f"the second life ended: {day.ends}")
    day.add_frames(2 * EARLY, LATE)
    (day.disk / "predictions.jsonl").unlink()  # somebody took it away to read it
    return day


STAGES = (Day.supervise, Day.deliver, Day.perceive, Day.deliver)
"""The rest of the day: samples are delivered, r2 is fetched and tried; it is swapped in, and more frames are kept."""


def live(day: Day, stages: tuple[Callable[[Day], bool], ...] = STAGES) -> None:
    """Live through stages; a process that ended is started once more, as the supervisor does."""
    for stage in stages:
        if not stage(day):
            day.clock.advance(1.0)
            stage(day)


@dataclass(frozen=True, slots=True)
class Call:
    """One change of the disk in an undisturbed day: its number within its stage, what changes, whether its place is new."""

    stage: int
    number: int
    what: str
    path: str
    """A path, or the number of an open file."""
    is_first_of_its_place: bool


class Course:
    """An undisturbed day, kept as it was before each stage, with every call that changed the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = [begin(folder / "before-0")]
        self.calls: list[Call] = []
        self.unseen: list[str] = []
        known: set[tuple[str, ...]] = set()
        there = set(_files(self._before[0]))
        for stage in range(len(STAGES)):
            day = self._before[stage].copy(folder / f"before-{stage + 1}")
            with failing_disk(day.disk) as gate:
                live(day, STAGES[stage : stage + 1])
            if day.ends:
                raise RuntimeError(f"an undisturbed day ended: {day.ends}")
            for number, (call, place) in enumerate(zip(gate.calls, gate.places, strict=True), 1):
                what, path = call.split(" ", 1)
                self.calls.append(Call(stage, number, what, path, place not in known))
                known.add(place)
            seen = {Path(path).relative_to(day.disk.resolve()) for path in gate.seen}
            self.unseen += [str(path) for path in _files(day) if path not in seen and path not in there]
            there |= set(_files(day))
            self._before.append(day)

    def attempt(self, call: Call, how: str, code: int) -> list[str]:
        """Live that day on a disk that fails at `call`; then it works again. Returns what is wrong.

        `how`: only this call fails (`one`), or no `pages` or no `inodes` are left from it on.
        """
        day = self._before[call.stage].copy(self._folder / "attempt")
        try:
            with failing_disk(day.disk) as gate:
                if how == "one":
                    gate.fail_one(call.number, code)
                else:
                    gate.fill(call.number, how, code)
                live(day, STAGES[call.stage :])
                wrong = _wrong_while_full(day, how)
                gate.free()
            where = gate.failed[0].replace(str(day.disk), "") if gate.failed else "nothing failed"
            day.ends.clear()
            day.clock.advance(30.0)
            day.add_frames(10 * EARLY, EARLY)
            live(day)
            wrong += _wrong_afterwards(day)
        finally:
            shutil.rmtree(day.folder)
        return [f"{how} {errno.errorcode[code]} at {where}: {each}" for each in wrong]


def _files(day: Day) -> list[Path]:
    return [
        path.relative_to(day.disk)
        for path in day.disk.rglob("*")
        if path.is_file() or path.is_socket() or path.is_symlink()
    ]


def _wrong_while_full(day: Day, how: str) -> list[str]:
    """Nothing ends but by one failed call, once, to begin again; all that was accepted goes out; the status is told."""
    wrong = [f"refused: {read_model_status(day.disk).refused}"] if read_model_status(day.disk).refused else []
    if how == "one":
        again = f": {RetryLaterError.exit_code}"
        if len(day.ends) > 1 or any(not end.endswith(again) for end in day.ends):
            wrong.append(f"ended: {day.ends}")
    elif day.ends:
        wrong.append(f"ended: {day.ends}")
    if undelivered := day.receipts() - set(day.landed()):
        wrong.append(f"{len(undelivered)} of {len(day.receipts())} accepted samples are not delivered")
    build_status(day.disk, day.clock)
    return wrong


def _wrong_afterwards(day: Day) -> list[str]:
    """All is delivered, the books balance, and r2 serves."""
    wrong = [f"ended with room again: {day.ends}"] if day.ends else []
    models = read_model_status(day.disk)
    if models.refused or models.blocked or models.release_id != "r2":
        wrong.append(f"serves {models.release_id!r}; refused {models.refused}, blocked {models.blocked}")
    if lost := day.receipts() - set(day.landed()):
        wrong.append(f"{len(lost)} accepted samples are lost")
    if len(day.receipts()) < 2 * EARLY:
        wrong.append(f"only {len(day.receipts())} samples were ever accepted")
    ledger = read_ledger(day.state.spool).to_json()
    if not ledger["balances"] or ledger["pending"] or ledger["evicted"]:
        wrong.append(f"the ledger: {ledger}")
    if left := [path for path in _files(day) if path.suffix == ".tmp" and path.parent.name != "run"]:
        wrong.append(f"temporary files stay: {left}")
    return wrong

"""The real daemon as real processes against the embedded broker: what it promises when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.source import KafkaSource
from devservers.embedded_broker import EmbeddedBroker
from edge_agent.state_folder import StateFolder, read_status
from edge_agent.status import build_status, is_alive
from schemas.codec import decode_sample
from schemas.records import Sample
from schemas.wire import TOPICS
from tests.conditions import needs_embedded_broker
from tests.edge_agent.agent_bench import enrol, png
from tests.waiting import until

pytestmark = [
    pytest.mark.slow,
    needs_embedded_broker,
]
ROOT = Path(__file__).parents[2]
FRAMES = 120


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        ensure_topics(KafkaSettings(bootstrap=running.bootstrap))
        yield running


class Agent:
    """One vehicle's agent, driven by its command line and judged by its files and by the broker's log."""

    def __init__(self, root: Path, bootstrap: str, *, rate_hz: float = 0.0, extra: str = "") -> None:
        self.root = root
        self.state = StateFolder(root / "state")
        self.bootstrap = bootstrap
        if not self.state.key_path.exists():
            enrol(self.state.root)
            drive = root / "recording" / "drive-1"
            drive.mkdir(parents=True)
            for number in range(FRAMES):
                (drive / f"{number:05d}.png").write_bytes(png(number))
        self.config = root / "agent.toml"
        self.config.write_text(
            f"""
vehicle_id = "car-1"
state_folder = "state"
[source]
kind = "image_folder"
path = "recording"
rate_hz = {rate_hz}
[selection]
limits_tracks = false
[selection.uncertainty]
enabled = false
[selection.random]
probability = 0.5
[serving]
prediction_log = "predictions.jsonl"
[upload.kafka]
bootstrap = "{bootstrap}"
[upload.pace]
backoff_first_s = 0.1
backoff_max_s = 0.5
stall_s = 5.0
[telemetry]
interval_s = 0.5
[supervisor]
backoff_first_s = 0.1
backoff_max_s = 0.5
stop_s = 16.0
{extra}
"""
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = ROOT

    def start(self, *arguments: str) -> None:
        command = [
            sys.executable,
            "-m",
            "fleetloop",
            "agent",
            "run",
            "--config",
            str(self.config),
            *arguments,
        ]
        self.process = subprocess.Popen(command, cwd=self.folder)

    def end(self, timeout_s: float = 60.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def clean_up(self) -> None:
        """End what is left of this agent, by the ids it told."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def child(self, name: str) -> int | None:
        children = read_status(self.state.status_path("supervisor")).get("children", {})
        return children.get(name, {}).get("pid")

    def seen(self) -> int:
        return int(read_status(self.state.status_path("perceive")).get("frames_seen", 0))

    def status(self) -> dict[str, object]:
        return build_status(self.state.root)

    def delivered(self) -> int:
        return self.status()["ledger"]["delivered"]

    def landed(self) -> list[Sample]:
        """Every record in the broker's log of samples."""
        source = KafkaSource(KafkaSettings(bootstrap=self.bootstrap))
        try:
            found = []
            for partition in source.describe(TOPICS.samples).partitions:
                begin, end = source.bounds(TOPICS.samples, partition)
                for batch in source.read(TOPICS.samples, partition, begin, end):
                    found += [decode_sample(record.value) for record in batch]
            return found
        finally:
            source.close()

    def predicted(self) -> list[str]:
        lines = (self.root / "predictions.jsonl").read_text().splitlines()
        return [json.loads(line)["frame_id"] for line in lines]


@pytest.fixture
def agents() -> Iterator[list[Agent]]:
    made: list[Agent] = []
    yield made
    for agent in made:
        agent.clean_up()


def make(agents: list[Agent], *arguments: object, **named: object) -> Agent:
    agents.append(Agent(*arguments, **named))
    return agents[-1]


def assert_each_kept_frame_landed_once(agent: Agent) -> None:
    """Every accepted sample is in the broker's log, and no frame was captured twice."""
    ledger = agent.status()["ledger"]
    assert ledger["balances"]
    assert ledger["pending"] == ledger["in_doubt"] == 0
    records = agent.landed()
    identities = {(s.epoch, s.seq) for s in records}
    assert len(identities) == ledger["accepted"] == ledger["delivered"]
    frames = Counter(frame for frame, _, _ in {(s.frame_id, s.epoch, s.seq) for s in records})
    assert set(frames.values()) == {1}
    refused = sum(ledger["not_accepted"].values())
    assert abs(ledger["accepted"] + refused - FRAMES) <= 1, ledger  # a kill may fall into one commit


def test_an_agent_runs_to_the_end_of_its_source_and_delivers_everything(tmp_path, broker, agents):
    agent = make(agents, tmp_path, broker.bootstrap)
    agent.folder = tmp_path / "app"  # a working folder with modules of our names, as web projects have them
    agent.folder.mkdir()
    for name in ("schemas", "edge_agent", "services", "connectors"):
        (agent.folder / f"{name}.py").write_text("raise SystemExit('the module of somebody else')\n")
    agent.start("--until-source-ends")
    assert agent.end() == 0
    assert_each_kept_frame_landed_once(agent)
    assert agent.status()["state"] == "finished"
    assert agent.status()["frames_seen"] == FRAMES == len(agent.predicted())
    assert agent.status()["telemetry"]["acknowledged"] >= 1
    agent.start("--until-source-ends")  # the same recording again: nothing is left of it
    assert agent.end() == 0
    assert_each_kept_frame_landed_once(agent)
    placement = agent.status()["placement"]
    assert placement["wanted"] == ["CPUExecutionProvider"]
    assert set(placement["nodes"]) == {"CPUExecutionProvider"}
    assert (placement["is_fallen_back"], placement["cpu_fallback"]) == (False, "allow")


def test_sigterm_stops_it_cleanly_within_its_time(tmp_path, broker, agents):
    agent = make(agents, tmp_path, broker.bootstrap, rate_hz=20.0)
    agent.start()
    until(lambda: agent.seen() > 10, "frames are perceived")
    children = [agent.child("perceive"), agent.child("deliver")]
    begun = time.monotonic()
    agent.process.send_signal(signal.SIGTERM)
    assert agent.end(20) == 0
    assert time.monotonic() - begun < 16
    assert not any(is_alive(pid) for pid in children)
    document = agent.status()
    assert (document["state"], document["processes"]["perceive"]["last_exit"]) == ("stopped", 0)
    assert document["processes"]["deliver"]["last_exit"] == 0
    assert document["ledger"]["balances"]
    agent.start("--until-source-ends")
    assert agent.end() == 0
    assert_each_kept_frame_landed_once(agent)
    assert agent.status()["resent"] == 0


@pytest.mark.parametrize("victim", ["perceive", "deliver"])
def test_sigkill_of_either_process_is_survived_and_nothing_is_lost_or_doubled(
    tmp_path, broker, agents, victim
):
    agent = make(agents, tmp_path, broker.bootstrap, rate_hz=25.0)
    agent.start("--until-source-ends")
    for target in (15, 45, 75):
        until(lambda target=target: agent.seen() >= target, "frames are perceived again")
        pid = agent.child(victim)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: agent.child(victim) not in (pid, None), "the supervisor starts it again")
    assert agent.end() == 0
    assert agent.status()["processes"][victim]["restarts"] == 3
    other = "deliver" if victim == "perceive" else "perceive"
    assert agent.status()["processes"][other]["restarts"] == 0
    assert_each_kept_frame_landed_once(agent)


@pytest.mark.parametrize("name", ["perceive", "deliver"])
def test_a_process_that_hangs_is_ended_and_started_again_and_nothing_is_lost_or_doubled(
    tmp_path, broker, agents, name
):
    limits = "perceive_hung_after_s = 2.0\ndeliver_hung_after_s = 6.0\n"
    agent = make(agents, tmp_path, broker.bootstrap, rate_hz=25.0, extra=limits)
    agent.start("--until-source-ends")
    until(lambda: agent.seen() > FRAMES // 4, "frames are seen", 60)
    hung = agent.child(name)
    os.kill(hung, signal.SIGSTOP)
    until(lambda: agent.child(name) not in (None, hung), f"{name} is started again", 40)
    assert not is_alive(hung)
    assert agent.end() == 0
    events = (agent.state.events / "supervisor.jsonl").read_text()
    assert '"hung"' in events
    assert_each_kept_frame_landed_once(agent)


def test_sigkill_of_the_supervisor_leaves_no_orphans_and_a_new_one_goes_on(tmp_path, broker, agents):
    agent = make(agents, tmp_path, broker.bootstrap, rate_hz=25.0)
    agent.start("--until-source-ends")
    until(lambda: agent.seen() >= 20, "frames are perceived")
    children = [agent.child("perceive"), agent.child("deliver")]
    agent.process.kill()
    agent.end()
    agent.start("--until-source-ends")
    until(lambda: not any(is_alive(pid) for pid in children), "the children end")
    assert agent.end() == 0
    assert_each_kept_frame_landed_once(agent)


def test_a_start_without_a_broker_is_normal(tmp_path, agents):
    broker = EmbeddedBroker()
    bootstrap = broker.start()
    broker.stop()
    agent = make(agents, tmp_path, bootstrap)
    agent.start("--until-source-ends")
    until(lambda: agent.seen() == FRAMES, "every frame is perceived")
    assert agent.process.poll() is None
    assert agent.status()["ledger"]["pending"] == agent.status()["ledger"]["accepted"] > 0
    assert agent.status()["broker"]["connected"] is False
    try:
        broker.start()
        ensure_topics(KafkaSettings(bootstrap=bootstrap))
        assert agent.end(90) == 0
        assert_each_kept_frame_landed_once(agent)
    finally:
        broker.stop()


def test_a_wrong_setting_or_an_unknown_vehicle_ends_with_a_clear_line(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fleetloop", "agent", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    agent = Agent(tmp_path, "127.0.0.1:9")
    text = agent.config.read_text()
    agent.config.write_text(text.replace("probability = 0.5", "probability = 5"))
    done = run("run", "--config", str(agent.config))
    assert done.returncode == 78
    assert "selection.random.probability is 5" in done.stderr
    agent.config.write_text(text.replace('"car-1"', '"car-2"'))
    done = run("run", "--config", str(agent.config))
    assert done.returncode == 78
    assert "'car-2'; it must be 'car-1'" in done.stderr
    agent.config.write_text(text)
    done = run("run", "--config", str(agent.config), "--print-config")
    assert done.returncode == 0
    assert "probability = 0.5" in done.stdout
    done = run("ledger", "--config", str(agent.config), "--json")
    assert (done.returncode, json.loads(done.stdout)["accepted"]) == (0, 0)
    done = run("status", "--state", str(tmp_path / "none"), "--json")
    assert (done.returncode, done.stdout) == (78, "")

"""A model under which perceive hangs, in real processes: it gives way to the one before it, and the fleet is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connectors.kafka.settings import KafkaSettings
from connectors.kafka.source import KafkaSource
from edge_agent.key_file import save_key
from edge_agent.models.status import read_model_status
from edge_agent.models.vehicle import Vehicle, write_vehicle
from foundation.clock import SystemClock
from schemas.codec import decode_telemetry
from schemas.records import ModelEvent
from schemas.signing import VehicleKey
from schemas.wire import TOPICS
from tests.conditions import needs_embedded_broker
from tests.edge_agent.agent_bench import png
from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.test_agent_processes import Agent, agents, broker, make
from tests.waiting import until

pytestmark = [pytest.mark.slow, needs_embedded_broker]
__all__ = ["agents", "broker"]
SHIM = Path(__file__).parent / "hang_shim"
FRAMES = 600
RELEASE = "r2-never-answers"


def events_told(bootstrap: str) -> list[ModelEvent]:
    """The model events of the newest telemetry."""
    source = KafkaSource(KafkaSettings(bootstrap=bootstrap))
    try:
        records = []
        for partition in source.describe(TOPICS.telemetry).partitions:
            begin, end = source.bounds(TOPICS.telemetry, partition)
            for batch in source.read(TOPICS.telemetry, partition, begin, end):
                records += [decode_telemetry(record.value) for record in batch]
        return list(max(records, key=lambda record: record.telemetry_time_ns).model_events) if records else []
    finally:
        source.close()


def test_a_model_under_which_perceive_hangs_is_rolled_back_told_and_never_taken_again(
    tmp_path, broker, agents, monkeypatch
):
    bench = Bench(tmp_path, SystemClock())
    key = VehicleKey.generate()
    save_key(key, bench.state / "key.pem")
    write_vehicle(bench.state, Vehicle("car-1", key.key_id, 0))
    bench.state.rename(tmp_path / "state")
    drive = tmp_path / "recording" / "drive-1"
    drive.mkdir(parents=True)
    for number in range(FRAMES):
        (drive / f"{number:05d}.png").write_bytes(png(number % 20))
    extra = f"""perceive_hung_after_s = 2.0
[updates]
base_url = "{tmp_path}/tuf"
poll_interval_s = 0.5
listen_for_notices = false
[serving.model]
poll_interval_s = 0.2
probation_frames = 100000
"""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SHIM), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HANGING_MODEL", RELEASE)
    monkeypatch.setenv("HANGS_AT", "12")
    agent: Agent = make(agents, tmp_path, broker.bootstrap, rate_hz=10.0, extra=extra)
    agent.start()
    until(lambda: agent.seen() > 5, "frames are seen", 60)
    bench.release(RELEASE, 2)
    bench.plan(RELEASE)
    until(lambda: read_model_status(agent.state.root).release_id == RELEASE, "the release is swapped in", 60)
    until(lambda: read_model_status(agent.state.root).rollbacks == 1, "it is rolled back", 120)
    models = read_model_status(agent.state.root)
    assert models.name == "v1"
    assert RELEASE in models.blocked
    seen = agent.seen()
    until(lambda: agent.seen() > seen + 10, "the model before it answers", 60)
    until(
        lambda: any(
            event.event == "rolled_back" and event.release_id == RELEASE
            for event in events_told(broker.bootstrap)
        ),
        "the fleet is told",
        60,
    )
    assert read_model_status(agent.state.root).name == "v1"
    assert '"hung"' in (agent.state.events / "supervisor.jsonl").read_text()

"""The commands over a real broker process: ingest, deadletter list and replay, ingest --follow."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.ports import Acknowledgement
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.sink import KafkaSink
from connectors.lake.table import LakeTable
from devservers.embedded_broker import EmbeddedBroker
from schemas.wire import WireRecord
from tests.pipelines.ingest.ingest_lab import Fleet
from workspace.enrolment_file import save_enrolment

pytestmark = [pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        ensure_topics(broker.bootstrap)
        yield broker.bootstrap


def produce(bootstrap: str, records: list[WireRecord]) -> None:
    outcomes: list[object] = []
    sink = KafkaSink(KafkaSettings(bootstrap=bootstrap))
    for record in records:
        sink.send(record, outcomes.append)
    sink.close(30.0)
    assert all(isinstance(outcome, Acknowledgement) for outcome in outcomes), outcomes
    assert len(outcomes) == len(records)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fleetloop", *words]


def answer(*words: str, status: int = 0) -> Any:
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr[-3000:]
    return json.loads(done.stdout) if status == 0 else done.stderr


def test_the_commands_bring_every_offset_of_a_broker_into_the_lake(bootstrap: str, tmp_path: Path) -> None:
    fleet = Fleet().enrol("v1", "v2")
    (tmp_path / "fleetloop.toml").write_text(f'bootstrap = "{bootstrap}"\n')
    workspace = ("--workspace", str(tmp_path))
    assert "no vehicle is enrolled" in answer("ingest", *workspace, status=78)
    (tmp_path / "registry").mkdir()
    save_enrolment(fleet.enrolment, tmp_path / "registry" / "vehicles.json")
    records = [fleet.record(vehicle, seq) for seq in range(30) for vehicle in ("v1", "v2", "v9")]
    produce(bootstrap, [*records, records[0]])

    report = answer("ingest", *workspace, "--workers", "2", "--processes", "--json")
    assert (report["offsets"], report["landed"], report["resent"]) == (91, 60, 1)
    assert report["rejected"] == {"unknown_vehicle": 30}
    letters = answer("deadletter", "list", *workspace, "--reason", "unknown_vehicle", "--json")
    assert letters["by_reason"] == {"unknown_vehicle": 30}
    assert letters["letters"][0]["value_bytes"] > 0
    assert "no reason 'typo'" in answer("deadletter", "list", *workspace, "--reason", "typo", status=78)

    save_enrolment(fleet.enrol("v9").enrolment, tmp_path / "registry" / "vehicles.json")
    assert answer("deadletter", "replay", *workspace, "--json")["landed"] == 30
    assert answer("deadletter", "replay", *workspace, "--json")["tried"] == 0

    followed = subprocess.Popen(
        command("ingest", *workspace, "--follow", "--poll-s", "0.2", "--fresh-s", "0", "--json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    produce(bootstrap, [fleet.record("v1", 30)])
    assert followed.stderr is not None
    line = next(line for line in followed.stderr if line.startswith("{"))
    assert json.loads(line)["landed"] == 1
    followed.send_signal(signal.SIGTERM)
    out, _ = followed.communicate(timeout=60)
    assert followed.returncode == 0
    assert json.loads(out)["landed"] == 1
    snapshot = LakeTable.open(tmp_path / "lake" / "arrivals").snapshot()
    assert snapshot.count(pc.field("origin") == "log") == 92
    assert snapshot.count(pc.field("outcome") == "landed") == 91

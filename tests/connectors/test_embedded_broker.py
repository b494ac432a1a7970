"""The child broker runs on loopback, restarts on its port, and ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.kafka.admin import administration, ensure_topics
from connectors.kafka.settings import KafkaSettings
from devservers.child_process import ChildProcess, is_listening
from devservers.embedded_broker import EmbeddedBroker
from foundation.errors import RejectedError, RetryLaterError
from schemas.topics import TOPIC_TABLE, Topic
from tests.waiting import is_gone, until

ROOT = Path(__file__).parents[2]


def test_topics_are_made_once_as_the_table_says() -> None:
    with EmbeddedBroker() as broker:
        first, second = ensure_topics(broker.bootstrap), ensure_topics(broker.bootstrap)
        assert [(s.info.topic, len(s.info.partitions), s.is_new) for s in first] == [
            (topic.name, topic.partitions, True) for topic in TOPIC_TABLE
        ]
        assert [(s.info, s.is_new) for s in second] == [(s.info, False) for s in first]
        with pytest.raises(RejectedError, match="has 4 partitions; it needs 9"):
            ensure_topics(broker.bootstrap, [Topic(TOPIC_TABLE[0].name, 9, 60)])
        with administration(KafkaSettings(bootstrap=broker.bootstrap)) as admin:
            assert set(admin.list_topics()) >= {topic.name for topic in TOPIC_TABLE}


def test_a_restart_keeps_the_port_and_gives_every_topic_another_id() -> None:
    with EmbeddedBroker() as broker:
        before, bootstrap = ensure_topics(broker.bootstrap), broker.bootstrap
        broker.kill()
        assert not broker.is_alive
        assert broker.start() == bootstrap
        after = ensure_topics(bootstrap)
    assert not {s.info.topic_id for s in before} & {s.info.topic_id for s in after}
    assert before[0].info.cluster_id != after[0].info.cluster_id


def test_a_stopped_broker_leaves_no_process() -> None:
    broker = EmbeddedBroker()
    broker.start()
    port = int(broker.bootstrap.rsplit(":", 1)[1])
    broker.stop()
    assert not is_listening(port)


def test_the_log_of_a_child_without_a_path_is_told_when_it_fails() -> None:
    child = ChildProcess(["/bin/sh", "-c", "echo no such luck; exit 3"], None)
    with pytest.raises(RetryLaterError, match=r"ended with status 3: no such luck"):
        child.wait_ready(lambda: False, 10.0)


def test_the_broker_dies_with_a_parent_that_is_killed_and_leaves_no_file(tmp_path: Path) -> None:
    code = (
        "import signal\nfrom devservers.embedded_broker import EmbeddedBroker\n"
        "b = EmbeddedBroker(); b.start(); print(b._child.pid, flush=True); signal.pause()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: is_gone(child), f"process {child} ends with its parent")
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    child = ChildProcess(["/bin/sh", "-c", "echo no such luck; exit 3"], tmp_path / "log")
    with pytest.raises(RetryLaterError, match=r"ended with status 3: no such luck"):
        child.wait_ready(lambda: False, 10.0)


def test_a_port_that_is_taken_is_an_error_and_not_another_broker() -> None:
    with EmbeddedBroker() as broker:
        port = int(broker.bootstrap.rsplit(":", 1)[1])
        with pytest.raises(RetryLaterError, match=f"port {port} .* in use"):
            EmbeddedBroker(port).start()


@pytest.mark.slow
def test_the_command_prints_its_address_makes_topics_and_stops_on_a_signal() -> None:
    import json

    run = subprocess.Popen(
        [sys.executable, "-m", "fleetloop", "broker", "run", "--port", "0", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    told = json.loads(run.stdout.readline())
    listed = subprocess.run(
        [sys.executable, "-m", "fleetloop", "broker", "topics", "--bootstrap", told["bootstrap"], "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert {row["topic"]: row["topic_id"] for row in json.loads(listed.stdout)["topics"]} == {
        name: topic["topic_id"] for name, topic in told["topics"].items()
    }
    run.send_signal(signal.SIGTERM)
    assert run.wait(15) == 0
    run.stdout.close()
    assert not is_listening(int(told["bootstrap"].rsplit(":", 1)[1]))

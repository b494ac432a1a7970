"""A broker for the faults of topics: the embedded one where it can, Apache Kafka where it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.checker.offered_records import Offered, Place
from tests.torture.topic_load import TOPIC, Fleet, places, produce, without_schema_1

ROOT = Path(__file__).resolve().parents[2]
KAFKA_HOME = ROOT / ".cache" / "kafka"
DEADLINE_S = 60.0


def warm() -> None:
    """Import what the forks need, and start nothing."""
    import kafka
    import polars
    import pyarrow.dataset

    import connectors.kafka.sink
    import connectors.kafka.source
    import pipelines.curate.labelling
    import pipelines.dataset.lock
    import pipelines.ingest.deadletter
    import pipelines.ingest.run
    import tests.checker.__main__
    import tests.checker.dataset_files
    import tests.checker.lake_state

    _ = (kafka, polars, pyarrow, connectors, pipelines, tests)


def kafka_is_missing() -> str | None:
    """Why Apache Kafka cannot run here, or None."""
    from devservers.apache_kafka import missing

    why = missing(KAFKA_HOME)
    return f"Apache Kafka: {why}" if why else None


@contextmanager
def embedded() -> Iterator[str]:
    """An embedded broker in a process of its own."""
    from devservers.embedded_broker import EmbeddedBroker

    with EmbeddedBroker() as broker:
        yield broker.bootstrap


@contextmanager
def apache() -> Iterator[str]:
    """One node of Apache Kafka in a process of its own."""
    from devservers.apache_kafka import ApacheKafka

    with ApacheKafka(home=KAFKA_HOME) as broker:
        yield broker.bootstrap


def settings(bootstrap: str) -> Any:
    from connectors.kafka.settings import KafkaSettings

    return KafkaSettings(bootstrap=bootstrap, progress_deadline_s=DEADLINE_S)


def make_topic(bootstrap: str, partitions: int, topic: str = TOPIC) -> None:
    """As the product makes it. In a fork: the client has threads."""
    from connectors.kafka.admin import administration
    from schemas.topics import Topic

    with administration(settings(bootstrap)) as admin:
        admin.create(Topic(topic, partitions, 7 * 86_400))


def filled_topic(
    bootstrap: str, log: Sequence[Sequence[Offered]], topic: str = TOPIC
) -> dict[Place, Offered]:
    """Make the topic and append the log, in a fork. Returns where each record is."""
    from tests.torture.pipeline_fork import must

    def fill() -> int:
        make_topic(bootstrap, len(log), topic)
        return produce(bootstrap, topic, log)

    must(fill, limit_s=600.0)
    return places(log)


def ingest(
    bootstrap: str,
    lake: Path,
    fleet: Fleet,
    *,
    topic: str = TOPIC,
    is_fixed: bool = False,
    workers: int = 1,
    before: Callable[[], object] = lambda: None,
    **changes: Any,
) -> dict[str, Any]:
    """One ingest by the product into `lake/arrivals`, in this process; its report. Before the fix, by an old build."""
    from connectors.kafka.source import KafkaSource
    from connectors.lake.schema import ARRIVALS
    from connectors.lake.table import LakeTable
    from foundation.clock import SystemClock
    from pipelines.ingest.run import Ingest
    from pipelines.ingest.settings import IngestSettings
    from pipelines.runner import RunnerSettings

    if not is_fixed:
        without_schema_1()
    job = Ingest(
        table=LakeTable.create(lake / "arrivals", ARRIVALS),
        open_source=partial(KafkaSource, settings(bootstrap)),
        load_enrolment=lambda: fleet.enrolment(is_fixed=is_fixed),
        settings=replace(IngestSettings(topic=topic, commit_wait_s=30.0), **changes),
        runner=RunnerSettings(workers=workers),
        clock=SystemClock(),
    )
    before()
    return job.once().to_json()


def replay(lake: Path, fleet: Fleet, before: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """One replay of the dead letters after the fix, in this process; its report."""
    from connectors.lake.table import LakeTable
    from foundation.clock import SystemClock
    from pipelines.ingest import deadletter
    from pipelines.ingest.settings import IngestSettings

    table = LakeTable.open(lake / "arrivals")
    before()
    done = deadletter.replay(
        table, fleet.enrolment(is_fixed=True), IngestSettings(commit_wait_s=30.0), SystemClock()
    )
    return done.to_json()


def checked(
    bootstrap: str, lake: Path, topic_id: str = "", *, topic: str = TOPIC, deadline_s: float = 300.0
) -> list[str]:
    """The verdict of the checker on log and lake, in this process: rules broken, with an example each."""
    from tests.checker.__main__ import only_topic_id
    from tests.checker.broker_log import read_log, read_schemas
    from tests.checker.lake_files import read_rows
    from tests.checker.told import InputError
    from tests.checker.verdict import Evidence, judge

    try:
        rows = read_rows(str(lake / "arrivals"), topic)
        log = read_log(bootstrap, topic, read_schemas(ROOT / "schemas" / "avro"), deadline_s=deadline_s)
        verdict: Any = judge(Evidence(log, rows, [], {}, topic_id or only_topic_id(rows)))
    except InputError as error:
        return [f"no verdict: {error}"]
    return [f"{rule} x{each['count']}: {each['examples'][0]}" for rule, each in verdict["violations"].items()]

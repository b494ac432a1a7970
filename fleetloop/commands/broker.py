"""`fleetloop broker`: a broker on this machine for trying things, and the topics of any broker."""

from __future__ import annotations

import json
import signal
import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Run a broker on this machine, or list and make topics."
)


class Kind(StrEnum):
    """Which broker."""

    EMBEDDED = "embedded"
    KAFKA = "kafka"


@app.command()
def run(
    kind: Annotated[
        Kind, typer.Option(help="embedded: in memory. kafka: Apache Kafka (make kafka).")
    ] = Kind.EMBEDDED,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port on loopback; 0 takes a free one.")
    ] = 9092,
    folder: Annotated[
        Path | None, typer.Option(help="Where Apache Kafka keeps its log; temporary by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Run a broker in the foreground with FleetLoop's topics, until SIGINT or SIGTERM."""
    from connectors.kafka.admin import ensure_topics
    from devservers.apache_kafka import ApacheKafka
    from devservers.embedded_broker import EmbeddedBroker
    from foundation.errors import MisconfiguredError, RetryLaterError

    if folder is not None and kind is Kind.EMBEDDED:
        raise MisconfiguredError(f"--folder {folder} needs --kind kafka: the embedded broker keeps nothing")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    broker = EmbeddedBroker(port) if kind is Kind.EMBEDDED else ApacheKafka(port=port, folder=folder)
    with broker:
        topics = [state.info for state in ensure_topics(broker.bootstrap)]
        if as_json:
            names = {
                info.topic: {"topic_id": info.topic_id, "partitions": len(info.partitions)} for info in topics
            }
            cluster_id = topics[0].cluster_id
            told = {
                "bootstrap": broker.bootstrap,
                "kind": kind.value,
                "cluster_id": cluster_id,
                "topics": names,
            }
            print(json.dumps(told), flush=True)
        else:
            print(f"{kind.value} broker at {broker.bootstrap} (stop it with Ctrl-C)", flush=True)
        while not stop.wait(0.5):
            if not broker.is_alive:
                raise RetryLaterError(f"the {kind.value} broker at {broker.bootstrap} ended by itself")


@app.command()
def topics(
    bootstrap: Annotated[str, typer.Option(help="host:port of a broker, several with commas.")] = "",
    workspace: Annotated[
        Path | None, typer.Option("--workspace", help="Its broker and how to be let in there.")
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make FleetLoop's topics that are missing.")
    ] = False,
    replicas: Annotated[
        int, typer.Option(min=-1, max=9, help="Copies of a new topic; -1: the broker's default.")
    ] = -1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """List the topics of a broker with their ids and partitions; `--create` makes the missing ones first.

    Settings of FleetLoop's topics under which accepted records get lost are named on standard error.
    """
    from connectors.kafka.admin import administration, ensure_topics
    from connectors.kafka.cluster_names import EMBEDDED_CLUSTER
    from connectors.kafka.settings import KafkaSettings
    from foundation.errors import MisconfiguredError
    from schemas.topics import TOPIC_TABLE
    from workspace.layout import Workspace

    if workspace is not None:
        settings = Workspace.open(workspace).kafka(bootstrap)
    elif bootstrap:
        settings = KafkaSettings(bootstrap=bootstrap)
    else:
        raise MisconfiguredError("no broker is named: give --bootstrap HOST:PORT or --workspace FOLDER")
    bootstrap = settings.bootstrap
    made = [s.info.topic for s in ensure_topics(settings, replicas=replicas) if s.is_new] if create else []
    with administration(settings) as admin:
        found = [admin.describe(name) for name in admin.list_topics() if not name.startswith("__")]
        ours = {topic.name for topic in TOPIC_TABLE}
        told = [
            str(difference)
            for info in found
            if info.topic in ours and not info.cluster_id.startswith(EMBEDDED_CLUSTER)
            for difference in admin.differences(info.topic)
        ]
    for line in told:
        print(f"warning: {line}", file=sys.stderr)
    if as_json:
        rows = [
            {
                "topic": i.topic,
                "topic_id": i.topic_id,
                "partitions": len(i.partitions),
                "made": i.topic in made,
            }
            for i in found
        ]
        cluster_id = found[0].cluster_id if found else None
        print(
            json.dumps(
                {"bootstrap": bootstrap, "cluster_id": cluster_id, "topics": rows, "warnings": told},
                indent=2,
                sort_keys=True,
            )
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Topics of {bootstrap}", title_justify="left")
    for heading in ("topic", "partitions", "topic id", ""):
        table.add_column(heading)
    for info in found:
        table.add_row(
            info.topic, str(len(info.partitions)), info.topic_id, "made" if info.topic in made else ""
        )
    Console().print(table)

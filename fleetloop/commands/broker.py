"""`fleetloop broker`: run a broker on this machine for trials, and list the topics of any broker."""

from __future__ import annotations

import dataclasses
import signal
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fleetloop.options import AsJson, MaybePlace
from fleetloop.terminal import print_json, say, show_table

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Run a broker on this machine, or list and create topics.",
)


class Kind(StrEnum):
    """The kinds of broker."""

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
    as_json: AsJson = False,
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
            names = {i.topic: {"topic_id": i.topic_id, "partitions": len(i.partitions)} for i in topics}
            told = {"kind": kind.value, "cluster_id": topics[0].cluster_id, "topics": names}
            print_json({"bootstrap": broker.bootstrap, **told}, indent=None)
        else:
            say(f"{kind.value} broker at {broker.bootstrap} (stop it with Ctrl-C)")
        while not stop.wait(0.5):
            if not broker.is_alive:
                raise RetryLaterError(f"the {kind.value} broker at {broker.bootstrap} ended by itself")


@app.command()
def topics(
    bootstrap: Annotated[str, typer.Option(help="host:port of a broker, several with commas.")] = "",
    place: MaybePlace = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create FleetLoop's topics that are missing.")
    ] = False,
    replicas: Annotated[
        int, typer.Option(min=-1, max=9, help="Copies of a new topic; -1: the broker's default.")
    ] = -1,
    as_json: AsJson = False,
) -> None:
    """List the topics of a broker with their ids and partitions; `--create` creates the missing ones first.

    Settings of FleetLoop's topics that can lose accepted records are reported on standard error.
    """
    from connectors.kafka.settings import KafkaSettings
    from foundation.errors import MisconfiguredError
    from services.topics import list_topics

    if place is None and not bootstrap:
        raise MisconfiguredError("no broker is named: give --bootstrap HOST:PORT or --workspace FOLDER")
    settings = KafkaSettings(bootstrap=bootstrap) if place is None else place.kafka(bootstrap)
    found = list_topics(settings, creates=create, replicas=replicas)
    warnings = [str(each) for each in found.differences]
    for line in warnings:
        say(f"warning: {line}", err=True)
    if as_json:
        document = dataclasses.asdict(found)
        del document["differences"]
        print_json(document | {"warnings": warnings})
        return
    rows = [
        (each.topic, each.partitions, each.topic_id, "created" if each.made else "") for each in found.topics
    ]
    show_table(f"Topics of {found.bootstrap}", ("topic", "partitions", "topic id", ""), rows)

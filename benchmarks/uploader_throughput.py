"""How fast the real uploader drains a full spool into a broker, beside bare kafka-python loops that send the same bytes.

    python -m benchmarks.uploader_throughput [--kind embedded|kafka] [--size-bytes 50000] [--records 4000] [--rounds 7]

Four sides take turns on one broker, each with the options of `producer_options`, each from the making of its producer
to the last acknowledgement:

    product     SpoolReader + Uploader + KafkaSink under the job runner, as in the deliver process with its own defaults:
                every lease is journalled and synced, every record checked, the last acknowledgement made durable
    memory      KafkaProducer.send of records that are in memory, one flush at the end: no callback, no cap
    files       the same, but each value is read from a plain file just before it is sent
    sink        KafkaSink alone, records in memory: what of the difference is the sink's

The records are signed samples, put into a spool once; each round starts with nothing delivered. Never a timed test.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from benchmarks.port import Measure, Step, paired_ratio
from benchmarks.spool_append import VEHICLE, make_sample
from connectors.kafka.admin import ensure_topics
from connectors.kafka.ports import Acknowledgement
from connectors.kafka.settings import KafkaSettings, producer_options
from connectors.kafka.sink import KafkaSink
from devservers.apache_kafka import ApacheKafka, missing
from devservers.embedded_broker import EmbeddedBroker
from edge_agent.jobs import Job, JobRunner
from edge_agent.spool.reader import SpoolReader
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.writer import SpoolWriter
from edge_agent.uploader import Uploader, UploaderSettings
from foundation.clock import SystemClock
from foundation.errors import BackPressureError
from foundation.events import EventLog
from schemas.signing import VehicleKey
from schemas.wire import WireRecord

AIM = 0.80
UPLOADER_NOTE = (
    "the uploader reads each record from its segment, checks it by its CRCs, and journals and syncs each lease: 70 to"
    " 110 us of CPU per record, beside the 150 us of the client in the same process. On two cores that client and broker"
    " fill, this CPU is what it costs; waits for answers and fsyncs go on while the rest is in flight"
)
SINK_NOTE = "KafkaSink with a callback per record and its cap on bytes in flight; the spool is not in it"
DEADLINE_S = 300.0
SPOOL = SpoolSettings(quota_bytes=10_000_000_000)


class Load:
    """The same signed records three times: in a spool, in plain files, and in memory."""

    def __init__(self, folder: Path, size_bytes: int, count: int, seed: int) -> None:
        self.spool, self.files = folder / "spool", folder / "files"
        self.files.mkdir()
        key, clock = VehicleKey.generate(), SystemClock()
        samples = [make_sample(size_bytes, seed + number) for number in range(16)]
        with SpoolWriter.open(self.spool, SPOOL, VEHICLE, key, clock, EventLog(None)) as writer:
            for number in range(count):
                writer.append(samples[number % len(samples)])
                if writer.is_commit_due:
                    writer.commit()
        self.records = self._lease_all(clock)
        if len(self.records) != count:
            raise RuntimeError(f"{len(self.records)} of {count} records are in the spool")
        self.value_bytes = sum(len(record.value) for record in self.records)
        for number, record in enumerate(self.records):
            (self.files / str(number)).write_bytes(record.value)
        self.heads = [(record.topic, record.key, list(record.headers)) for record in self.records]

    def _lease_all(self, clock: SystemClock) -> list[WireRecord]:
        with SpoolReader.open(self.spool, SPOOL, VEHICLE, clock, EventLog(None)) as reader:
            found: list[WireRecord] = []
            while part := reader.lease(8_000_000):
                found += [record.wire for record in part]
        return found

    def nothing_delivered(self) -> None:
        """Forget what the reader wrote: the spool is as the writer left it."""
        for path in self.spool.glob("delivery.*"):
            path.unlink()


def with_the_uploader(settings: KafkaSettings, load: Load) -> float:
    """Seconds until every record of the spool is acknowledged and that is durable."""
    load.nothing_delivered()
    clock, events, stop = SystemClock(), EventLog(None), threading.Event()
    with SpoolReader.open(load.spool, SPOOL, VEHICLE, clock, events) as reader:
        begin = time.perf_counter()
        uploader = Uploader(reader, lambda: KafkaSink(settings, clock), UploaderSettings(), clock, events)
        runner = JobRunner([Job("upload", uploader.step, lambda: True, 0.0)], clock, events)
        while reader.bytes_uploaded < load.value_bytes:
            if time.perf_counter() - begin > DEADLINE_S:
                raise RuntimeError(f"not delivered within {DEADLINE_S} s: {uploader.status()}")
            clock.wait(stop, runner.run_due())
        if not reader.sync():
            raise RuntimeError(reader.last_error)
        taken = time.perf_counter() - begin
        if reader.resent:
            raise RuntimeError(f"{reader.resent} records were sent again")
        uploader.close()
    return taken


def with_the_sink(settings: KafkaSettings, load: Load) -> float:
    """Seconds until every record is acknowledged, refused sends tried again."""
    done, acknowledged, failures = threading.Event(), 0, []

    def on_done(outcome: Any) -> None:
        nonlocal acknowledged
        acknowledged += isinstance(outcome, Acknowledgement)
        if not isinstance(outcome, Acknowledgement):
            failures.append(outcome)
        if failures or acknowledged == len(load.records):
            done.set()

    begin = time.perf_counter()
    sink = KafkaSink(settings)
    for record in load.records:
        while True:
            try:
                sink.send(record, on_done)
                break
            except BackPressureError:
                time.sleep(0.002)
    if not done.wait(DEADLINE_S) or failures:
        raise RuntimeError(f"not delivered within {DEADLINE_S} s: {failures[:1]} {sink.last_error}")
    taken = time.perf_counter() - begin
    sink.close(10)
    return taken


def with_a_bare_loop(settings: KafkaSettings, load: Load) -> float:
    """Seconds until flush returns; the values are in memory."""
    values = (record.value for record in load.records)
    return _bare(settings, load, values)


def with_a_bare_loop_from_files(settings: KafkaSettings, load: Load) -> float:
    """Seconds until flush returns; each value is read from its file just before it is sent."""
    values = ((load.files / str(number)).read_bytes() for number in range(len(load.records)))
    return _bare(settings, load, values)


def _bare(settings: KafkaSettings, load: Load, values: Iterator[bytes]) -> float:
    begin = time.perf_counter()
    producer = KafkaProducer(**producer_options(settings))
    for value, (topic, key, headers) in zip(values, load.heads, strict=True):
        producer.send(topic, value=value, key=key, headers=headers)
    producer.flush(DEADLINE_S)
    taken = time.perf_counter() - begin
    producer.close(10)
    return taken


SIDES: dict[str, Callable[[KafkaSettings, Load], float]] = {
    "product": with_the_uploader,
    "memory": with_a_bare_loop,
    "files": with_a_bare_loop_from_files,
    "sink": with_the_sink,
}


@contextmanager
def bootstraps(kind: str) -> Iterator[Callable[[], str]]:
    """Where to send: a fresh embedded broker whenever it is asked (it keeps all in memory), or one Apache Kafka."""
    if kind == "kafka":
        with ApacheKafka() as kafka:
            yield lambda: kafka.bootstrap
        return
    embedded = EmbeddedBroker()

    def fresh() -> str:
        embedded.stop()
        return embedded.start()

    try:
        yield fresh
    finally:
        embedded.stop()


def measure(kind: str, size_bytes: int, count: int, rounds: int, seed: int) -> list[Measure]:
    """Three rows: the uploader beside both bare loops, and the sink alone."""
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    order = list(SIDES.items())
    with tempfile.TemporaryDirectory() as name, bootstraps(kind) as bootstrap:
        load = Load(Path(name), size_bytes, count, seed)
        for number in range(rounds + 1):  # the first round warms up and does not count
            random.Random(seed * 1000 + number).shuffle(order)  # noqa: S311 - the same order at every run
            settings = KafkaSettings(bootstrap=bootstrap())
            ensure_topics(settings)
            for side, run_one in order:
                taken_s = run_one(settings, load)
                if number:
                    rates[side].append(count / taken_s)
    where = f"{size_bytes // 1000} kB, {'embedded broker' if kind == 'embedded' else 'Apache Kafka'}"
    return [
        _row(
            f"uploader with its spool, {where}",
            "a bare kafka-python loop, records in memory",
            rates,
            "memory",
        ),
        _row(
            f"uploader with its spool, {where}",
            "a bare kafka-python loop, records read from files",
            rates,
            "files",
        ),
        _row(
            f"the uploader's sink alone, {where}",
            "a bare kafka-python loop, records in memory",
            rates,
            "memory",
            "sink",
        ),
    ]


def _row(
    step: str, beside: str, rates: dict[str, list[float]], limit: str, product: str = "product"
) -> Measure:
    ratio, spread = paired_ratio(rates[product], rates[limit])
    return Measure(
        step=step,
        beside=beside,
        ratio=ratio,
        aim=f">= {AIM:.2f}",
        met=ratio >= AIM,
        spread=spread,
        figures={
            "product_records_per_s": statistics.median(rates[product]),
            "bare_records_per_s": statistics.median(rates[limit]),
        },
        note=UPLOADER_NOTE if product == "product" else SINK_NOTE,
    )


def run_embedded(seed: int, quick: bool) -> Sequence[Measure]:
    """The embedded broker."""
    return measure("embedded", 50_000, 400 if quick else 4000, 1 if quick else 7, seed)


def run_kafka(seed: int, quick: bool) -> Sequence[Measure]:
    """One node of the real Apache Kafka."""
    return measure("kafka", 50_000, 400 if quick else 4000, 1 if quick else 7, seed)


STEPS = (
    Step("uploader-embedded", run_embedded),
    Step("uploader-kafka", run_kafka, lambda: missing() or None),
)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kind", choices=("embedded", "kafka"), default="embedded")
    parser.add_argument("--size-bytes", type=int, default=50_000)
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    for row in measure(asked.kind, asked.size_bytes, asked.records, asked.rounds, asked.seed):
        print(row)


if __name__ == "__main__":
    main()

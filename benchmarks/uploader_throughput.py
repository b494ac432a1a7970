"""How many records a second the sink delivers, beside a bare kafka-python loop on the same broker.

    python -m benchmarks.uploader_throughput [--kind embedded|kafka] [--size-bytes 50000] [--records 3000]

The bare loop is KafkaProducer.send with the same options and one flush at the end,
without a callback, a byte cap or a queue of ours: what they cost is the difference.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer

from benchmarks.port import Measure, Step, paired_ratio
from connectors.apache_kafka import ApacheKafka, missing
from connectors.embedded_broker import EmbeddedBroker
from connectors.kafka_admin import ensure_topics
from connectors.kafka_settings import KafkaSettings, producer_options
from connectors.kafka_sink import KafkaSink
from connectors.ports import Acknowledgement
from foundation.errors import BackPressureError
from schemas.topics import Topic
from schemas.wire import WireRecord

AIM = 0.80
HEADERS = (("fl_vehicle", b"v-1"), ("fl_sha256", b"0" * 64), ("fl_signature", b"s" * 64))


def with_the_sink(settings: KafkaSettings, records: list[WireRecord]) -> float:
    """Seconds until every record is acknowledged, refused sends tried again."""
    done, acknowledged, sink = threading.Event(), 0, KafkaSink(settings)

    def on_done(outcome: Any) -> None:
        nonlocal acknowledged
        assert isinstance(outcome, Acknowledgement), outcome
        acknowledged += 1
        if acknowledged == len(records):
            done.set()

    begin = time.perf_counter()
    for record in records:
        while True:
            try:
                sink.send(record, on_done)
                break
            except BackPressureError:
                time.sleep(0.002)
    assert done.wait(300)
    taken = time.perf_counter() - begin
    sink.close(10)
    return taken


def with_a_bare_loop(settings: KafkaSettings, records: list[WireRecord]) -> float:
    """Seconds until flush returns."""
    producer = KafkaProducer(**producer_options(settings))
    begin = time.perf_counter()
    for record in records:
        producer.send(record.topic, value=record.value, key=record.key, headers=list(record.headers))
    producer.flush(300)
    taken = time.perf_counter() - begin
    producer.close(10)
    return taken


def measure(kind: str, size_bytes: int, count: int, rounds: int) -> Measure:
    """One row: a fresh topic each round, both sides in turn on one broker."""
    broker = EmbeddedBroker() if kind == "embedded" else ApacheKafka()
    rates: dict[str, list[float]] = {"sink": [], "bare": []}
    with broker:
        settings = KafkaSettings(bootstrap=broker.bootstrap)
        for number in range(rounds + 1):  # the first round warms up and does not count
            for name, run_one in (("sink", with_the_sink), ("bare", with_a_bare_loop)):
                topic = Topic(f"bench-{name}-{number}", 4, 3600)
                ensure_topics(settings, [topic])
                records = [
                    WireRecord(topic.name, b"v-%d" % (n % 8), os.urandom(size_bytes), HEADERS)
                    for n in range(count)
                ]
                taken_s = run_one(settings, records)
                if number:
                    rates[name].append(count / taken_s)
    ratio, spread = paired_ratio(rates["sink"], rates["bare"])
    return Measure(
        step=f"uploader, {size_bytes // 1000} kB, {'embedded broker' if kind == 'embedded' else 'Apache Kafka'}",
        beside="a bare kafka-python loop, same settings",
        ratio=ratio,
        aim=f">= {AIM:.2f}",
        met=ratio >= AIM,
        spread=spread,
        figures={
            "product_records_per_s": statistics.median(rates["sink"]),
            "bare_records_per_s": statistics.median(rates["bare"]),
        },
        note="KafkaSink with a callback a record and its cap on bytes in flight; the spool is not in it",
    )


def run_embedded(_seed: int, quick: bool) -> Sequence[Measure]:
    """The embedded broker."""
    return [measure("embedded", 50_000, 200 if quick else 2000, 1 if quick else 7)]


def run_kafka(_seed: int, quick: bool) -> Sequence[Measure]:
    """One node of the real Apache Kafka."""
    return [measure("kafka", 50_000, 200 if quick else 2000, 1 if quick else 7)]


STEPS = (
    Step("uploader-embedded", run_embedded),
    Step("uploader-kafka", run_kafka, lambda: missing() or None),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kind", choices=("embedded", "kafka"), default="embedded")
    parser.add_argument("--size-bytes", type=int, default=50_000)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    print(measure(asked.kind, asked.size_bytes, asked.records, asked.rounds))


if __name__ == "__main__":
    main()

"""How many records a second the sink delivers, beside a bare kafka-python loop on the same broker.

    python benchmarks/uploader_throughput.py [--kind embedded|kafka] [--size-bytes 50000] [--records 3000]

Prints one JSON document. The bare loop is KafkaProducer.send with the same options and one flush at the end,
without a callback, a byte cap or a queue of ours: what they cost is the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from typing import Any

from kafka import KafkaProducer

from connectors.apache_kafka import ApacheKafka
from connectors.embedded_broker import EmbeddedBroker
from connectors.kafka_admin import ensure_topics
from connectors.kafka_settings import KafkaSettings, producer_options
from connectors.kafka_sink import KafkaSink
from connectors.ports import Acknowledgement
from foundation.errors import BackPressureError
from schemas.topics import Topic
from schemas.wire import WireRecord

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kind", choices=("embedded", "kafka"), default="embedded")
    parser.add_argument("--size-bytes", type=int, default=50_000)
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    broker = EmbeddedBroker() if asked.kind == "embedded" else ApacheKafka()
    rates: dict[str, list[float]] = {"sink": [], "bare_loop": []}
    with broker:
        settings = KafkaSettings(bootstrap=broker.bootstrap)
        for round_number in range(asked.rounds):
            for name, run in (("sink", with_the_sink), ("bare_loop", with_a_bare_loop)):
                topic = Topic(f"bench-{name}-{round_number}", 4, 3600)
                ensure_topics(settings, [topic])
                records = [
                    WireRecord(topic.name, b"v-%d" % (n % 8), os.urandom(asked.size_bytes), HEADERS)
                    for n in range(asked.records)
                ]
                rates[name].append(asked.records / run(settings, records))
    result = {
        "kind": asked.kind,
        "size_bytes": asked.size_bytes,
        "records": asked.records,
        "records_per_s": {name: [round(rate) for rate in each] for name, each in rates.items()},
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

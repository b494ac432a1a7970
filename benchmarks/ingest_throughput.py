"""Ingest beside a plain loop that consumes, verifies, parses and writes the same records in one process.

    python benchmarks/ingest_throughput.py [--records 4000] [--payload-bytes 20000] [--rounds 3] [--workers 1]
    [--json]

Both read the same records from the embedded broker over the same connector, check every signature, decode
every sample with the same codec and write Parquet with the same settings. The plain loop does nothing else:
no rows by offset, no resend marks, no dead letters, no commit. Prints records a second (median of the
rounds), their spread, and the ratio; and the ratio by processor time, which a busy machine disturbs less
(only with one worker, which runs in this process).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from connectors.embedded_broker import EmbeddedBroker
from connectors.kafka_admin import ensure_topics
from connectors.kafka_settings import KafkaSettings
from connectors.kafka_sink import KafkaSink
from connectors.kafka_source import KafkaSource
from connectors.lake import LakeTable, write_parquet
from connectors.lake_schema import ARRIVALS, SAMPLE_FIELDS
from connectors.ports import Acknowledgement
from foundation.clock import SystemClock
from foundation.errors import BackPressureError, FleetLoopError
from pipelines.ingest.columns import sample_columns
from pipelines.ingest.run import Ingest
from pipelines.ingest.settings import IngestSettings
from pipelines.runner import RunnerSettings
from schemas.codec import decode_sample, encode_sample
from schemas.records import Sample
from schemas.signing import EnrolledKey, Enrolment, VehicleKey, seal, verify
from schemas.wire import KIND_SAMPLE, TOPICS

SEED = 7
BATCH_BYTES = 32_000_000
VEHICLES = 8


def fill(settings: KafkaSettings, records: int, payload_bytes: int) -> Enrolment:
    """Put signed samples with random payloads on the samples topic and return who may sign."""
    rng = np.random.default_rng(SEED)
    keys = {f"car-{n}": VehicleKey.generate() for n in range(VEHICLES)}
    enrolment = Enrolment.of(*(EnrolledKey(name, k.key_id, k.public_b64, 1) for name, k in keys.items()))
    sink = KafkaSink(settings, SystemClock())
    left = threading.Semaphore(0)
    failed: list[FleetLoopError] = []

    def on_done(outcome: Acknowledgement | FleetLoopError) -> None:
        if isinstance(outcome, FleetLoopError):
            failed.append(outcome)
        left.release()

    for n in range(records):
        vehicle = f"car-{n % VEHICLES}"
        payload = rng.bytes(payload_bytes)
        sample = Sample(
            vehicle_id=vehicle, epoch="0123456789abcdef", previous_epoch="", seq=n // VEHICLES, drive_id="d",
            sensor_id="front", capture_time_ns=n, capture_time_uncertainty_ns=1, monotonic_ns=n, boot_id="b",
            spool_time_ns=n, frame_id=str(n), model_name="m", model_digest="0" * 64, predicted_class="stop",
            probabilities=tuple([0.1] * 10), embedding=tuple(rng.random(64).astype(np.float32).tolist()),
            payload_sha256=hashlib.sha256(payload).hexdigest(), payload_bytes=payload_bytes, payload=payload,
        )  # fmt: skip
        record = seal(TOPICS.samples, KIND_SAMPLE, sample.identity, encode_sample(sample), keys[vehicle])
        while True:
            try:
                sink.send(record, on_done)
                break
            except BackPressureError:
                time.sleep(0.002)
    for _ in range(records):
        left.acquire()
    sink.close(10.0)
    if failed:
        raise failed[0]
    return enrolment


def plain_loop(settings: KafkaSettings, enrolment: Enrolment, folder: Path) -> int:
    """Consume, verify, parse, write; nothing else. Returns the records."""
    source = KafkaSource(settings)
    schema = pa.schema(SAMPLE_FIELDS)
    samples: list[Sample] = []
    held_bytes = written = files = 0

    def write() -> None:
        nonlocal files, held_bytes
        columns = sample_columns(samples)
        arrays = [
            c if isinstance(c := columns[field.name], pa.Array) else pa.array(c, field.type)
            for field in schema
        ]
        write_parquet(folder, f"{files}.parquet", pa.Table.from_arrays(arrays, schema=schema))
        files, held_bytes = files + 1, 0
        samples.clear()

    try:
        for partition in source.describe(TOPICS.samples).partitions:
            begin, end = source.bounds(TOPICS.samples, partition)
            for records in source.read(TOPICS.samples, partition, begin, end):
                for record in records:
                    verify(record.headers, record.key, record.value, KIND_SAMPLE, enrolment)
                    samples.append(decode_sample(record.value or b""))
                    held_bytes += len(record.value or b"")
                    written += 1
                    if held_bytes >= BATCH_BYTES:
                        write()
        if samples:
            write()
    finally:
        source.close()
    return written


def ingest(settings: KafkaSettings, enrolment: Enrolment, folder: Path, workers: int) -> int:
    """The real thing, into a new lake. Returns the records."""
    job = Ingest(
        table=LakeTable.create(folder / "arrivals", ARRIVALS),
        open_source=partial(KafkaSource, settings),
        load_enrolment=lambda: enrolment,
        settings=IngestSettings(batch_bytes=BATCH_BYTES, range_offsets=4_000),
        runner=RunnerSettings(workers=workers, multi_processing=workers > 1),
        clock=SystemClock(),
    )
    return job.once().landed


def main() -> None:
    """Run both in turn and print one table, or one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--payload-bytes", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    logging.disable(logging.WARNING)
    rates: dict[str, list[float]] = {"plain": [], "ingest": []}
    cpu_s: dict[str, list[float]] = {"plain": [], "ingest": []}
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory() as scratch:
        settings = KafkaSettings(bootstrap=broker.bootstrap)
        ensure_topics(broker.bootstrap)
        enrolment = fill(settings, wanted.records, wanted.payload_bytes)
        for n in range(wanted.rounds):
            for name, run in (
                ("plain", lambda folder: plain_loop(settings, enrolment, folder)),
                ("ingest", lambda folder: ingest(settings, enrolment, folder, wanted.workers)),
            ):
                folder = Path(scratch) / f"{name}-{n}"
                folder.mkdir()
                started, started_cpu = time.perf_counter(), time.process_time()
                done = run(folder)
                rates[name].append(done / (time.perf_counter() - started))
                cpu_s[name].append(time.process_time() - started_cpu)
                assert done == wanted.records, (name, done)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    document = {
        "records": wanted.records,
        "payload_bytes": wanted.payload_bytes,
        "workers": wanted.workers,
        "seed": SEED,
        "records_per_s": {name: round(value, 1) for name, value in middle.items()},
        "spread": {name: [round(min(found), 1), round(max(found), 1)] for name, found in rates.items()},
        "ratio": round(middle["ingest"] / middle["plain"], 3),
        "cpu_ratio": round(statistics.median(cpu_s["plain"]) / statistics.median(cpu_s["ingest"]), 3)
        if wanted.workers == 1
        else None,
    }
    if wanted.json:
        print(json.dumps(document, indent=2, sort_keys=True))
        return
    for name, value in middle.items():
        print(f"{name:>7}: {value:9,.0f} records/s  ({min(rates[name]):,.0f} to {max(rates[name]):,.0f})")
    print(f"  ratio: {document['ratio']:.2f} of the plain loop (aim 0.60)")
    print(f"  ratio by processor time: {document['cpu_ratio']}")


if __name__ == "__main__":
    main()

"""Ingest beside a plain loop that consumes, verifies, parses and writes the same records in one process, and beside Beam
with one Python element per record.

All three read the same records from the embedded broker over the same connector, check every signature, decode every
sample with the same codec and write Parquet with the same settings. The plain loop does nothing else: no rows by offset,
no resend marks, no dead letters, no commit. The Beam peer does the plain loop's work as Beam pipelines are usually
written: offsets -> one element per record -> verify -> decode -> a row -> the first row of each identity -> WriteToParquet;
on Beam's own local runner, as the product is. It is measured on fewer records and compared by records per second.
"""

from __future__ import annotations

import hashlib
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.parquetio import WriteToParquet

from benchmarks.port import Measure, Step, paired_ratio
from connectors.kafka.admin import ensure_topics
from connectors.kafka.ports import Acknowledgement
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from connectors.lake.schema import ARRIVALS, SAMPLE_FIELDS
from connectors.lake.table import LakeTable, write_parquet
from devservers.embedded_broker import EmbeddedBroker
from foundation.clock import SystemClock
from foundation.errors import BackPressureError, FleetLoopError
from pipelines.ingest.columns import sample_columns
from pipelines.ingest.run import Ingest
from pipelines.ingest.settings import IngestSettings
from pipelines.runner import RunnerSettings
from pipelines.runner import run as run_pipeline
from schemas.codec import decode_sample, encode_sample
from schemas.predictions import ClassificationOutput, ModelPrediction
from schemas.records import Sample
from schemas.signing import EnrolledKey, Enrolment, VehicleKey, sign_record, verify
from schemas.wire import KIND_SAMPLE, TOPICS, StoredRecord

BATCH_BYTES = 32_000_000
VEHICLES = 8


def fill(settings: KafkaSettings, records: int, payload_bytes: int, seed: int) -> Enrolment:
    """Put signed samples with random payloads on the samples topic and return who may sign."""
    rng = np.random.default_rng(seed)
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
            spool_time_ns=n, frame_id=str(n),
            predictions=(ModelPrediction(
                "serving", "classification", "m", "0" * 64,
                embedding=tuple(rng.random(64).astype(np.float32).tolist()),
                classification=ClassificationOutput("stop", tuple([0.1] * 10)),
            ),),
            payload_sha256=hashlib.sha256(payload).hexdigest(), payload_bytes=payload_bytes, payload=payload,
        )  # fmt: skip
        record = sign_record(
            TOPICS.samples, KIND_SAMPLE, sample.identity, encode_sample(sample), keys[vehicle]
        )
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


class _ReadRecords(beam.DoFn):
    """(partition, begin, end) -> one StoredRecord an element."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    def process(self, element: tuple[int, int, int]) -> Iterator[StoredRecord]:
        """Every record of the range."""
        source = KafkaSource(self._settings)
        try:
            for records in source.read(TOPICS.samples, *element):
                yield from records
        finally:
            source.close()


class _VerifyRecord(beam.DoFn):
    """A record -> itself, when its signature holds."""

    def __init__(self, enrolment_json: str) -> None:
        self._text = enrolment_json

    def setup(self) -> None:
        """The enrolment, once a worker."""
        self._enrolment = Enrolment.from_json(self._text)

    def process(self, element: StoredRecord) -> Iterator[tuple[int, bytes]]:
        """Offset and value."""
        verify(element.headers, element.key, element.value, KIND_SAMPLE, self._enrolment)
        yield element.offset, element.value or b""


def _first(element: tuple[str, Iterable[tuple[int, dict[str, Any]]]]) -> dict[str, Any]:
    """Of the rows with one identity the one with the smallest offset lands."""
    return min(element[1], key=lambda found: found[0])[1]


def _row(sample: Sample) -> dict[str, Any]:
    columns = sample_columns([sample])
    return {
        name: (values.to_pylist() if isinstance(values, pa.Array) else list(values))[0]
        for name, values in columns.items()
    }  # type: ignore[call-overload]


def beam_a_row_an_element(settings: KafkaSettings, enrolment: Enrolment, folder: Path, limit: int) -> int:
    """The peer, over the first `limit` records of the topic. Returns the records."""
    source = KafkaSource(settings)
    ranges, left = [], limit
    for partition in source.describe(TOPICS.samples).partitions:
        begin, end = source.bounds(TOPICS.samples, partition)
        end = min(end, begin + left)
        left -= end - begin
        if end > begin:
            ranges.append((partition, begin, end))
    source.close()

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Ranges" >> beam.Create(ranges)
            | "Spread ranges" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(_ReadRecords(settings))
            | "Verify" >> beam.ParDo(_VerifyRecord(enrolment.to_json()))
            | "Decode" >> beam.Map(lambda found: (found[0], decode_sample(found[1])))
            | "Rows" >> beam.Map(lambda found: (str(found[1].identity), (found[0], _row(found[1]))))
            | "By identity" >> beam.GroupByKey()
            | "First" >> beam.Map(_first)
            | "Write" >> WriteToParquet(str(folder / "rows"), pa.schema(SAMPLE_FIELDS), codec="zstd")
        )

    run_pipeline(build, RunnerSettings())
    return sum(pq.read_metadata(path).num_rows for path in folder.glob("rows*"))


def run(seed: int, quick: bool) -> Sequence[Measure]:
    """Small records (2 kB, where what a record costs decides) and those of 20 kB."""
    told: list[Measure] = []
    share = 10 if quick else 1
    for payload_bytes, records, peer_records in ((20_000, 4000, 0), (2_000, 16_000, 2_000)):
        told += _of_size(seed, payload_bytes, records // share, peer_records // share, 1 if quick else 3)
    return told


def _of_size(seed: int, payload_bytes: int, records: int, peer_records: int, rounds: int) -> list[Measure]:
    logging.disable(logging.WARNING)
    rates: dict[str, list[float]] = {"plain": [], "ingest": [], "beam": []}
    cpu_s: dict[str, list[float]] = {"plain": [], "ingest": [], "beam": []}
    try:
        with EmbeddedBroker() as broker, tempfile.TemporaryDirectory() as scratch:
            settings = KafkaSettings(bootstrap=broker.bootstrap)
            ensure_topics(broker.bootstrap)
            enrolment = fill(settings, records, payload_bytes, seed)
            sides: dict[str, Callable[[Path], int]] = {
                "plain": lambda folder: plain_loop(settings, enrolment, folder),
                "ingest": lambda folder: ingest(settings, enrolment, folder, 1),
            }
            if peer_records:
                sides["beam"] = lambda folder: beam_a_row_an_element(
                    settings, enrolment, folder, peer_records
                )
            for n in range(rounds):
                for name, side in sides.items():
                    folder = Path(scratch) / f"{name}-{n}"
                    folder.mkdir()
                    started, started_cpu = time.perf_counter(), time.process_time()
                    done = side(folder)
                    rates[name].append(done / (time.perf_counter() - started))
                    cpu_s[name].append((time.process_time() - started_cpu) / done)
                    expected = peer_records if name == "beam" else records
                    if done != expected:
                        raise RuntimeError(f"{name} took {done} of {expected} records")
    finally:
        logging.disable(logging.NOTSET)
    return _measures(payload_bytes, rates, cpu_s)


def _measures(
    payload_bytes: int, rates: dict[str, list[float]], cpu_s: dict[str, list[float]]
) -> list[Measure]:
    figures = {f"{name}_records_per_s": statistics.median(found) for name, found in rates.items() if found}
    cpu = {name: statistics.median(found) for name, found in cpu_s.items() if found}
    ratio, spread = paired_ratio(rates["ingest"], rates["plain"])
    told = [
        Measure(
            f"ingest, signatures verified, {payload_bytes // 1000} kB, one worker",
            "plain consume-verify-parse-write loop",
            ratio,
            ">= 0.60",
            ratio >= 0.60,
            spread,
            {name: value for name, value in figures.items() if not name.startswith("beam")},
            f"by processor time {cpu['plain'] / cpu['ingest']:.2f}",
        )
    ]
    if rates["beam"]:
        ratio, spread = paired_ratio(rates["ingest"], rates["beam"])
        over = (cpu["beam"] - cpu["plain"]) / max(cpu["ingest"] - cpu["plain"], 1e-9)
        told.append(
            Measure(
                f"ingest, signatures verified, {payload_bytes // 1000} kB, one worker",
                "Beam's local runner, one Python element per record, same work",
                ratio,
                ">= 50",
                ratio >= 50,
                spread,
                {name: value for name, value in figures.items() if not name.startswith("plain")},
                f"by processor time {cpu['beam'] / cpu['ingest']:.1f}; of the processor time beyond the plain loop's, the peer"
                f" takes {over:.1f} times as much. The signature check and the decoding of a record cost both sides the same,"
                " and bound this ratio: the plain loop, without any Beam, is the bound",
            )
        )
    return told


STEPS = (Step("ingest", run),)

"""A fleet of test vehicles, a broker in memory and an ingest over both, for the tests beside this file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from connectors.kafka.ports import RecordSource
from connectors.lake.outcomes import count_outcomes
from connectors.lake.schema import ARRIVALS
from connectors.lake.table import LakeTable
from foundation.clock import Clock, SystemClock
from pipelines.ingest.holes import find_holes
from pipelines.ingest.run import Ingest
from pipelines.ingest.settings import IngestSettings
from pipelines.runner import RunnerSettings
from schemas.codec import encode_sample
from schemas.identity import Identity
from schemas.predictions import ClassificationOutput, ModelPrediction
from schemas.records import Sample
from schemas.signing import EnrolledKey, Enrolment, VehicleKey, sign_record
from schemas.wire import KIND_SAMPLE, TOPICS, StoredRecord, WireRecord
from tests.fakes.kafka import FakeBroker, FakeSource

TOPIC = TOPICS.samples
EPOCH = "00000000000000aa"
_BROKERS: dict[str, FakeBroker] = {}


def fake_source(name: str) -> RecordSource:
    """Opened inside pipeline steps, which get only this function's name and its argument."""
    return FakeSource(_BROKERS[name], batch_records=7)


def a_sample(
    vehicle: str, seq: int, *, epoch: str = EPOCH, payload: bytes | None = None, **fields: Any
) -> Sample:
    payload = f"picture {vehicle} {epoch} {seq}".encode() if payload is None else payload
    base = Sample(
        vehicle_id=vehicle,
        epoch=epoch,
        previous_epoch="",
        seq=seq,
        drive_id=f"drive-{vehicle}",
        sensor_id="front",
        capture_time_ns=1_000 + seq,
        capture_time_uncertainty_ns=5,
        monotonic_ns=seq,
        boot_id="boot",
        spool_time_ns=2_000 + seq,
        frame_id=f"frame-{seq}",
        predictions=(
            ModelPrediction(
                "serving",
                "classification",
                "m",
                "0" * 64,
                classification=ClassificationOutput("stop", (0.25, 0.75)),
            ),
        ),
        payload_sha256=hashlib.sha256(payload).hexdigest(),
        payload_bytes=len(payload),
        payload=payload,
    )
    return replace(base, **fields)


@dataclass
class Fleet:
    """Vehicles with keys; `enrolment` trusts those that were enrolled."""

    keys: dict[str, VehicleKey] = field(default_factory=dict)
    enrolment: Enrolment = field(default_factory=Enrolment)

    def key(self, vehicle: str) -> VehicleKey:
        if vehicle not in self.keys:
            self.keys[vehicle] = VehicleKey.generate()
        return self.keys[vehicle]

    def enrol(self, *vehicles: str) -> Fleet:
        for vehicle in vehicles:
            key = self.key(vehicle)
            self.enrolment = self.enrolment.with_key(EnrolledKey(vehicle, key.key_id, key.public_b64, 1))
        return self

    def record(self, vehicle: str, seq: int, *, signer: str | None = None, **fields: Any) -> WireRecord:
        sample = a_sample(vehicle, seq, **fields)
        return sign_record(
            TOPIC, KIND_SAMPLE, sample.identity, encode_sample(sample), self.key(signer or vehicle)
        )

    def signed(self, identity: Identity, value: bytes) -> WireRecord:
        """A well signed record whose content is whatever is given."""
        return sign_record(TOPIC, KIND_SAMPLE, identity, value, self.key(identity.vehicle_id))


class Lab:
    """One broker, one lake, one ingest."""

    def __init__(self, folder: Path, *, partitions: int = 2, **settings: Any) -> None:
        self.name = str(folder)
        self.broker = FakeBroker({TOPIC: partitions})
        _BROKERS[self.name] = self.broker
        self.fleet = Fleet().enrol("v1", "v2", "v3")
        self.settings = IngestSettings(
            **{"range_offsets": 10, "batch_records": 4, "commit_wait_s": 5.0, **settings}
        )
        self.lake = folder / "lake"
        self.table = LakeTable.create(self.lake / "arrivals", ARRIVALS)
        self.clock: Clock = SystemClock()

    def ingest(self, **changed: Any) -> Ingest:
        parts: dict[str, Any] = {
            "table": self.table,
            "open_source": partial(fake_source, self.name),
            "load_enrolment": lambda: self.fleet.enrolment,
            "settings": self.settings,
            "runner": RunnerSettings(),
            "clock": self.clock,
        }
        return Ingest(**(parts | changed))

    def produce(self, record: WireRecord, partition: int | None = None) -> int:
        return self.broker.append(TOPIC, record.key, record.value, record.headers, partition=partition).offset

    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.table.snapshot().read())

    def outcomes(self) -> Mapping[tuple[int, int], str]:
        """(partition, offset) of the log to its outcome."""
        return {(r["partition"], r["offset"]): r["outcome"] for r in self.rows() if r["origin"] == "log"}


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    found = table.to_pylist()
    return sorted(found, key=lambda r: (r["topic_id"], r["partition"], r["offset"], r["origin"]))


def assert_one_row_per_offset(lab: Lab) -> None:
    """Every record of the log has one row with its bytes or its hash; no identity landed twice."""
    rows = lab.rows()
    info = lab.broker.describe(TOPIC)
    of_log = [r for r in rows if r["origin"] == "log" and r["topic_id"] == info.topic_id]
    stored = {(r.partition, r.offset): r for r in lab.broker.records(TOPIC)}
    counted = Counter(r["outcome"] for r in rows if r["origin"] == "log")
    assert count_outcomes(lab.table.snapshot()) == counted, (
        "what status counts from the log is what the rows say"
    )
    assert find_holes(lab.table.snapshot()) == []
    places = [(r["partition"], r["offset"]) for r in of_log]
    assert len(places) == len(set(places)), "an offset has two rows"
    assert set(places) >= set(stored), "an offset has no row"
    landed = [(r["vehicle_id"], r["epoch"], r["seq"]) for r in rows if r["outcome"] == "landed"]
    assert len(landed) == len(set(landed)), "an identity landed twice"
    where = {(r["vehicle_id"], r["epoch"], r["seq"]): r for r in rows if r["outcome"] == "landed"}
    for row in of_log:
        record = stored.get((row["partition"], row["offset"]))
        if record is None:
            continue
        if record.value is not None:
            assert row["value_sha256"] == hashlib.sha256(record.value).hexdigest()
        if row["outcome"] == "rejected":
            assert (row["raw_value"], row["raw_key"]) == (record.value, record.key)
            assert row["reason"]
            assert row["detail"]
        if row["outcome"] == "landed":
            assert hashlib.sha256(row["payload"]).hexdigest() == row["payload_sha256"]
        if row["outcome"] == "resent":
            first = where[(row["vehicle_id"], row["epoch"], row["seq"])]
            assert row["resend_of"] == f"{first['topic_id']}/{first['partition']}/{first['offset']}"
            assert row["value_sha256"] == first["value_sha256"]
    for partition in info.partitions:
        covered = sorted(
            (r["offset"], r["offset_end"])
            for r in rows
            if r["topic_id"] == info.topic_id and r["partition"] == partition and r["origin"] != "replay"
        )
        end = 0
        for begin, stop in covered:
            assert begin == end, f"partition {partition} has a hole or an overlap at {begin}"
            end = stop


def mixed_log(lab: Lab) -> None:
    """Good records, resends within and across partitions, a conflict, poison, a loss and a gap."""
    for seq in range(12):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
        lab.produce(lab.fleet.record("v2", seq), partition=1)
    for seq in (3, 4):
        lab.produce(lab.fleet.record("v1", seq), partition=0)
        lab.produce(lab.fleet.record("v1", seq), partition=1)
    lab.produce(lab.fleet.record("v2", 5, frame_id="other"), partition=1)
    lab.broker.append(TOPIC, b"v1", b"garbage", (), partition=0)
    lab.produce(lab.fleet.record("v9", 0), partition=1)
    lab.produce(lab.fleet.record("v3", 0), partition=0)
    lab.broker.delete_records(TOPIC, 0, 2)
    lab.broker.abort(TOPIC, 0, [7])


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "ingest_time_ns"} for row in rows]


def save(lab: Lab, folder: Path) -> None:
    """Keep the log and the enrolment in a file, so that another process can have the same."""
    records = [
        {
            "partition": r.partition,
            "offset": r.offset,
            "timestamp_ms": r.timestamp_ms,
            "key": r.key.hex() if r.key is not None else None,
            "value": r.value.hex() if r.value is not None else None,
            "headers": [[name, content.hex()] for name, content in r.headers],
        }
        for r in lab.broker.records(TOPIC)
    ]
    partitions = lab.broker.describe(TOPIC).partitions
    document = {
        "records": records,
        "bounds": [lab.broker.bounds(TOPIC, partition) for partition in partitions],
        "hidden": [sorted(lab.broker.hidden(TOPIC, partition)) for partition in partitions],
        "enrolment": lab.fleet.enrolment.to_json(),
    }
    (folder / "log.json").write_text(json.dumps(document))


def load(folder: Path) -> Lab:
    """The lab that `save` kept, over the lake in `folder`."""
    document = json.loads((folder / "log.json").read_text())
    lab = Lab(folder, partitions=len(document["bounds"]))
    lab.fleet.enrolment = Enrolment.from_json(document["enrolment"])
    logs = lab.broker._topics[TOPIC].partitions
    for log, (begin, end), hidden in zip(logs, document["bounds"], document["hidden"], strict=True):
        log.begin, log.end, log.hidden = begin, end, set(hidden)
    for r in document["records"]:
        headers = tuple((name, bytes.fromhex(content)) for name, content in r["headers"])
        key = None if r["key"] is None else bytes.fromhex(r["key"])
        value = None if r["value"] is None else bytes.fromhex(r["value"])
        logs[r["partition"]].records.append(
            StoredRecord(r["partition"], r["offset"], r["timestamp_ms"], key, value, headers)
        )
    return lab

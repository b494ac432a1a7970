"""Two honest vehicles with and without a hostile one beside them: what they must have in common, and who checks it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import yaml

from connectors.labels.ports import Label
from connectors.lake.lock import write_lake_lock
from connectors.lake.schema import LABELS, REFERENCE
from connectors.lake.table import LakeTable
from foundation.clock import ManualClock
from pipelines.curate.labelling import label
from pipelines.dataset.make import curate
from pipelines.dataset.manifest import read_rows
from pipelines.ingest.settings import IngestSettings
from pipelines.validate.stage import validate
from rollout.reports import FleetReports
from schemas.codec import encode_telemetry
from schemas.records import ModelEvent, Telemetry
from schemas.signing import EnrolledKey, Enrolment, VehicleKey, sign_record
from schemas.topics import TOPICS
from schemas.wire import KIND_TELEMETRY, WireRecord
from tests.fakes.kafka import FakeBroker, FakeSource
from tests.pipelines.curate_lake import CLASSES, PARAMS
from tests.pipelines.ingest.ingest_lab import Lab, assert_one_row_per_offset
from tests.torture.fault import Batch, Tally
from tests.torture.hostile_load import DRIVES, FRAMES, HONEST, HOSTILE, Hostile, honest_record
from workspace.layout import Workspace

BUDGET = 24
QUOTA = IngestSettings(commit_wait_s=5.0, vehicle_records_per_day=60, vehicle_bytes_per_day=10**6)
"""An honest vehicle sends 48 records."""


@dataclass
class Ended:
    """What the two honest vehicles got, and what was wrong beside that."""

    landed: list[dict[str, Any]] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    rows: pl.DataFrame = field(default_factory=pl.DataFrame)
    telemetry: object = None
    wrong: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)


class Desk:
    """Answers by the payload's hash, so that no order of questions matters."""

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        return [Label(sha, _class_of(sha), "desk", 9, 1.0) for sha in payload_sha256s]


def _class_of(sha: str) -> str:
    return CLASSES[int(sha[:4], 16) % len(CLASSES)]


@cache
def _fleet_keys() -> dict[str, VehicleKey]:
    return {name: VehicleKey.generate() for name in (*HONEST, HOSTILE)}


def run(batch: Batch) -> Tally:
    """Each try: one mixture of attacks, between what the honest vehicles sent before it and after it."""
    tally = Tally()
    (batch.folder / "alone").mkdir()
    alone = story(batch.folder / "alone", None)
    for number in batch.in_time():
        folder = batch.folder / str(number)
        folder.mkdir()
        beside = story(folder, batch.rng(number))
        tally.judge(alone.wrong + violations(alone, beside), f"mixture {number}")
        for name, count in beside.counted.items():
            tally.count(name, count)
    return tally


def violations(alone: Ended, beside: Ended) -> list[str]:
    """Name what the honest vehicles lost by the hostile one."""
    found = list(beside.wrong)
    if beside.wrong:
        return found
    if beside.landed != alone.landed:
        missing = len([row for row in alone.landed if row not in beside.landed])
        found.append(f"{missing} of {len(alone.landed)} honest samples are not in the lake as they were")
    for vehicle in HONEST:
        least = BUDGET // (len(HONEST) + 1)
        if beside.labels[vehicle] < min(least, alone.labels[vehicle]):
            found.append(f"{vehicle} got {beside.labels[vehicle]} labels of {BUDGET}, its share is {least}")
    if not beside.rows.equals(alone.rows):
        gone = alone.rows.join(beside.rows, on="identity", how="anti")
        found.append(f"{gone.height} of {alone.rows.height} honest rows left the dataset, or changed")
    if beside.telemetry != alone.telemetry:
        found.append(
            f"what is known of the honest vehicles changed: {beside.telemetry} was {alone.telemetry}"
        )
    return found


def story(root: Path, rng: random.Random | None) -> Ended:
    """Send, ingest, label, curate and validate; without `rng` nothing hostile is sent."""
    ended = Ended()
    step = "ingest"
    try:
        lab = _ingested(root, rng, ended)
        step = "label"
        place = _workspace(root)
        label(place, Desk(), BUDGET)
        _count_labels(place, ended)
        step = "curate"
        _label_everything(lab, place)
        curate(place)
        step = "validate"
        validate(place, with_expectations=False)
        every = read_rows(place.dataset_path)
        ended.rows = every.filter(pl.col("vehicle_id") != HOSTILE).sort("identity")
        ended.counted["hostile_rows_in_a_dataset"] += every.height - ended.rows.height
        step = "telemetry"
        ended.telemetry = _telemetry(root / "rollouts", rng)
    except Exception as error:
        ended.wrong.append(f"{step} stopped: {type(error).__name__}: {str(error)[:300]}")
    return ended


def _ingested(root: Path, rng: random.Random | None, ended: Ended) -> Lab:
    lab = Lab(root, partitions=2)
    lab.settings = replace(QUOTA)
    lab.fleet.keys |= _fleet_keys()
    lab.fleet.enrol(*HONEST, HOSTILE)
    records = {
        vehicle: [honest_record(lab.fleet, vehicle, n) for n in range(DRIVES * FRAMES)] for vehicle in HONEST
    }
    half = DRIVES * FRAMES // 2
    for number, vehicle in enumerate(HONEST):
        for record in records[vehicle][:half]:
            lab.produce(record, number)
    lab.ingest().once()
    seen = [record for vehicle in HONEST for record in records[vehicle][:half]]
    hostile = Hostile(lab.fleet, rng, seen) if rng is not None else None
    for part in (0, 1):
        later = [
            (n, record) for n, vehicle in enumerate(HONEST) for record in records[vehicle][half:] if part
        ]
        if hostile is not None and rng is not None:
            sent = hostile.records(rng.randrange(17, 70))
            ended.counted.update(f"sent_{attack}" for attack, _ in sent)
            # Somewhere between the records of the others, each of which stays in its order.
            places = sorted(rng.randrange(len(later) + 1) for _ in sent)
            for at, (_, record) in reversed([*zip(places, sent, strict=True)]):
                later.insert(at, (rng.randrange(2), record))
        for partition, record in later:
            lab.produce(record, partition)
        report = lab.ingest().once()
        ended.counted.update({f"rejected_{reason}": count for reason, count in report.rejected.items()})
    assert_one_row_per_offset(lab)
    rows = [row for row in lab.rows() if row["outcome"] == "landed" and row["vehicle_id"] in HONEST]
    ended.landed = sorted(
        (
            {name: row[name] for name in ("vehicle_id", "epoch", "seq", "value_sha256", "payload_sha256")}
            for row in rows
        ),
        key=lambda row: (row["vehicle_id"], row["seq"]),
    )
    return lab


def _workspace(root: Path) -> Workspace:
    (root / "fleetloop.toml").write_text('name = "t"\n')
    (root / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "label": {"strategy": "entropy"}}))
    return Workspace.open(root)


def _count_labels(place: Workspace, ended: Ended) -> None:
    owners = [
        str(row["identity"]).split("/")[0]
        for row in LakeTable.open(place.labels_uri).snapshot().read().to_pylist()
    ]
    ended.labels = Counter(owners)


def _label_everything(lab: Lab, place: Workspace) -> None:
    """Label what is left, the hostile frames too: more than its share of labels would reach."""
    labels = LakeTable.open(place.labels_uri)
    asked = set(labels.snapshot().read(["payload_sha256"])["payload_sha256"].to_pylist())
    wanted: dict[str, str] = {}
    landed = [row for row in lab.rows() if row["outcome"] == "landed"]
    for row in sorted(
        landed, key=lambda row: (row["ingest_time_ns"], row["vehicle_id"] == HOSTILE, row["seq"])
    ):
        if row["payload_sha256"] not in asked:
            wanted.setdefault(row["payload_sha256"], f"{row['vehicle_id']}/{row['epoch']}/{row['seq']}")
    paid = {"labeller": "desk", "labelled_time_ns": 9, "cost": 1.0, "request_id": "r", "boxes": None}
    rows = [
        {**paid, "payload_sha256": sha, "class_name": _class_of(sha), "identity": identity}
        for sha, identity in wanted.items()
    ]
    labels.append(pa.Table.from_pylist(rows, LABELS))
    tables = {"arrivals": lab.table, "reference": LakeTable.create(place.lake_path / "reference", REFERENCE)}
    write_lake_lock(place.lake_lock_path, {**tables, "labels": LakeTable.open(place.labels_uri)})


def _telemetry(folder: Path, rng: random.Random | None) -> object:
    """What the cloud knows of the honest vehicles from telemetry, among which the hostile one's is strewn."""
    clock, keys = ManualClock(), _fleet_keys()
    folder.mkdir()
    broker = FakeBroker(clock=clock)
    enrolment = Enrolment.of(
        *(EnrolledKey(name, key.key_id, key.public_b64, 0) for name, key in keys.items())
    )
    said: list[WireRecord] = []
    for seq in range(6):
        for vehicle in HONEST:
            said.append(_report(vehicle, keys[vehicle], seq))
            broker.produce(said[-1])
        for _ in range(rng.randrange(4) if rng is not None else 0):
            broker.produce(_hostile_report(rng or random.Random(), keys[HOSTILE], said))
    reports = FleetReports(folder, clock)
    reports.listen(FakeSource(broker), enrolment)
    runs = [run for run in reports.history.runs() if run.vehicle_id in HONEST]
    return [reports.newest.get(vehicle) for vehicle in HONEST], runs


def _report(vehicle: str, key: VehicleKey, seq: int, **fields: Any) -> WireRecord:
    says: dict[str, Any] = {
        "vehicle_id": vehicle, "epoch": "1" * 16, "previous_epoch": "", "seq": seq, "telemetry_time_ns": seq,
        "monotonic_ns": seq, "boot_id": "boot", "agent_version": "0", "model_digest": "a" * 64, "model_name": "v1",
        "frames_seen": 10 * seq, "model_events": (ModelEvent(10, "a" * 64, "v1", "installed"),),
    }  # fmt: skip
    record = Telemetry(**(says | fields))
    return sign_record(TOPICS.telemetry, KIND_TELEMETRY, record.identity, encode_telemetry(record), key)


def _hostile_report(rng: random.Random, key: VehicleKey, said: Sequence[WireRecord]) -> WireRecord:
    seq = rng.randrange(100)
    events = tuple(
        ModelEvent(rng.randrange(10**6), "b" * 64, "[/red]\x1b[2J", "rolled_back", "x" * 200, f"r{n}")
        for n in range(rng.randrange(200))
    )
    kinds = (
        lambda: _report(HOSTILE, key, seq, model_events=events, boot_id="\x1b[31m"),
        lambda: _report(rng.choice(HONEST), key, seq + 100, model_digest="b" * 64),  # another's name
        lambda: rng.choice(said),
        lambda: replace(rng.choice(said), value=bytes(rng.randrange(256) for _ in range(50))),
    )
    return rng.choice(kinds)()

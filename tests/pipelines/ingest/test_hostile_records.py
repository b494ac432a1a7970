"""What one vehicle, or anybody who may write to the topic, puts into records costs a bounded share and stops nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from connectors.labels.ports import Label
from connectors.lake.lock import write_lake_lock
from connectors.lake.schema import LABELS, REFERENCE
from connectors.lake.table import LakeTable
from pipelines.curate.labelling import label
from pipelines.dataset.make import curate
from pipelines.ingest.decode import MAX_HEADER_BYTES
from pipelines.ingest.elements import LogBatch, OffsetRange
from pipelines.ingest.read import read_range
from pipelines.validate.stage import validate
from schemas.predictions import ClassificationOutput, ModelPrediction
from schemas.wire import WireRecord
from tests.pipelines.curate_lake import CLASSES, PARAMS, picture
from tests.pipelines.ingest.ingest_lab import TOPIC, Lab, assert_one_row_per_offset, fake_source
from workspace.layout import Workspace

LARGEST = 2**63 - 1


def said(
    class_name: str, *, name: str = "m", embedding: tuple[float, ...] = (), **scores: float
) -> tuple[ModelPrediction, ...]:
    answer = ClassificationOutput(class_name, (0.25, 0.75))
    return (
        ModelPrediction(
            "serving", "classification", name, "0" * 64, scores, embedding, classification=answer
        ),
    )


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def with_headers(record: WireRecord, *more: tuple[str, bytes]) -> WireRecord:
    return dataclasses.replace(record, headers=(*record.headers, *more))


@pytest.mark.parametrize("more", [(("h", b"x" * 100_000),), tuple((f"h{n}", b"") for n in range(500))])
def test_headers_hold_no_more_memory_than_any_other_bytes(
    lab: Lab, more: tuple[tuple[str, bytes], ...]
) -> None:
    lab.settings = dataclasses.replace(lab.settings, batch_records=10_000, batch_bytes=500_000)
    for seq in range(40):
        lab.produce(with_headers(lab.fleet.record("v1", seq, payload=b"x"), *more), partition=0)
    info = lab.broker.describe(TOPIC)
    wanted = OffsetRange(info.cluster_id, TOPIC, info.topic_id, 0, 0, 40, is_lost=False)
    batches = list(read_range(fake_source(lab.name), wanted, lab.settings))
    assert all(isinstance(batch, LogBatch) for batch in batches)
    assert next(iter(batches)).begin == 0
    assert max(len(batch.records) for batch in batches if isinstance(batch, LogBatch)) <= 6
    assert sum(len(batch.records) for batch in batches if isinstance(batch, LogBatch)) == 40


def test_a_header_block_beyond_its_bound_is_a_dead_letter_with_its_bytes(lab: Lab) -> None:
    honest = lab.fleet.record("v1", 0)
    lab.produce(honest, partition=0)
    lab.produce(with_headers(lab.fleet.record("v2", 0), ("h", b"x" * MAX_HEADER_BYTES)), partition=0)
    lab.produce(with_headers(lab.fleet.record("v1", 1), ("gateway", b"x" * 100)), partition=0)
    report = lab.ingest().once()
    assert (report.landed, report.rejected) == (2, {"oversize": 1})
    assert_one_row_per_offset(lab)
    (dead,) = [row for row in lab.rows() if row["outcome"] == "rejected"]
    assert f"the bound is {MAX_HEADER_BYTES} bytes" in dead["detail"]
    assert len(dead["headers_json"]) > MAX_HEADER_BYTES


EXTREMES: dict[str, dict[str, object]] = {
    "seq": {"seq": LARGEST, "capture_time_ns": 5, "spool_time_ns": 5, "monotonic_ns": 5},
    "times": {
        "capture_time_ns": LARGEST - 2, "spool_time_ns": -LARGEST + 2, "monotonic_ns": LARGEST - 2,
        "capture_time_uncertainty_ns": LARGEST - 2,
    },
    "nul": {"drive_id": "a\0b", "track_id": "\0", "predictions": said("\0")},
    "characters": {
        "drive_id": "\u202e\U0010ffff" * 60, "sensor_id": "../../etc",
        "predictions": said("\x1b[2J", name="=cmd|calc"),
    },
    "embedding": {"predictions": said("red", embedding=(3.4e38,) * 4096)},
    "zero": {"predictions": said("red", embedding=(0.0,))},
    "subjects": {"subject_refs": ("x" * 256,) * 1000},
    "content type": {"content_type": "text/html"},
    "probability": {"selection_probability": 5e-324},
    "rule score": {"rule_score": 1.7e308},
}  # fmt: skip


class Desk:
    def request(self, payload_sha256s: object) -> list[Label]:
        return [Label(sha, "red", "desk", 1, 1.0) for sha in payload_sha256s]  # type: ignore[attr-defined]


def test_extremes_in_every_field_of_one_vehicle_stop_neither_ingest_nor_curate_nor_label_nor_validate(
    lab: Lab, tmp_path: Path
) -> None:
    honest = [
        lab.fleet.record(
            "v1", n, payload=picture(n), drive_id=f"d{n // 5}",
            predictions=said(CLASSES[n % 3], embedding=(1.0, float(n)), entropy=0.5),
            content_type="image/png", capture_time_ns=1_000 + n,
        )
        for n in range(40)
    ]  # fmt: skip
    for record in honest:
        lab.produce(record, partition=0)
    for n, fields in enumerate(EXTREMES.values()):
        changed = {"content_type": "image/png", **fields}
        seq = int(str(changed.pop("seq", 100 + n)))
        lab.produce(lab.fleet.record("v2", seq, payload=picture(500 + n), **changed), partition=1)
    report = lab.ingest().once()
    assert report.landed + sum(report.rejected.values()) == report.offsets == 40 + len(EXTREMES)
    rows = [row for row in lab.rows() if row["outcome"] == "landed"]
    assert sum(row["vehicle_id"] == "v1" for row in rows) == 40
    (tmp_path / "fleetloop.toml").write_text('name = "t"\n')
    place = Workspace.open(tmp_path)
    answers = LakeTable.create(place.labels_uri, LABELS)
    answers.append(
        pa.Table.from_pylist(
            [
                {
                    "payload_sha256": row["payload_sha256"], "class_name": CLASSES[n % 3], "labeller": "l",
                    "labelled_time_ns": 5, "cost": 1.0, "request_id": "r", "boxes": None, "identity": None,
                }
                for n, row in enumerate(rows)
                if n % 2
            ],
            LABELS,
        )
    )  # fmt: skip
    tables = {
        "arrivals": lab.table, "labels": answers,
        "reference": LakeTable.create(place.lake_path / "reference", REFERENCE),
    }  # fmt: skip
    write_lake_lock(place.lake_lock_path, tables)
    for strategy in ("coverage", "diverse", "class_balanced"):
        place.params_path.write_text(yaml.safe_dump({**PARAMS, "label": {"strategy": strategy}}))
        assert label(place, Desk(), 2).asked == 2
    counts = curate(place).manifest["counts"]
    assert counts["read"] == report.offsets  # type: ignore[index]
    assert validate(place, with_expectations=False)["success"]

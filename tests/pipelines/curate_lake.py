"""A small lake for tests: synthetic frames (simulated, drawn from a seed) in real Delta tables."""

from __future__ import annotations

import hashlib
import io
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image

from connectors.lake.lock import write_lake_lock
from connectors.lake.schema import ARRIVALS, LABELS, REFERENCE
from connectors.lake.table import LakeTable
from workspace.layout import Workspace

CLASSES = ("green", "red", "yellow")
PARAMS = {
    "classes": list(CLASSES),
    "split": {"validation_ratio": 0.2, "test_ratio": 0.3},
    "curate": {
        "quality": {"min_sharpness": 0.0},
        "shards": {"target_bytes": 1_048_576, "row_group_rows": 16},
    },
    "label": {},
    "validate": {},
}


def picture(seed: int, *, light: float = 1.0) -> bytes:
    """A PNG of blobs with grain; another seed is another picture, another light a near-duplicate of it."""
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, 14, (32, 32, 1))
    coarse = Image.fromarray(rng.integers(30, 220, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float64)
    out = io.BytesIO()
    Image.fromarray(np.clip((pixels + grain) * light, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def arrival(
    payload: bytes,
    *,
    vehicle: str = "car-1",
    seq: int = 0,
    drive: str = "drive-0",
    offset: int = 0,
    **changes: object,
) -> dict[str, object]:
    """One landed row; `changes` replaces columns."""
    row: dict[str, object] = dict.fromkeys(ARRIVALS.names)
    row |= {
        "origin": "log",
        "cluster": "c",
        "topic": "fleetloop.samples",
        "topic_id": "t",
        "partition": 0,
        "offset": offset,
        "offset_end": offset + 1,
        "kafka_time_ms": 0,
        "ingest_time_ns": offset,
        "outcome": "landed",
        "vehicle_id": vehicle,
        "epoch": "00000000000000aa",
        "seq": seq,
        "value_sha256": "0" * 64,
        "drive_id": drive,
        "sensor_id": "front",
        "modality": "image",
        "content_type": "image/png",
        "capture_time_ns": 1_000 + seq * 10,
        "capture_time_uncertainty_ns": 1,
        "time_quality": "ok",
        "frame_id": f"{drive}-{seq}",
        "track_id": f"track-{seq // 3}",
        "model_name": "m",
        "model_digest": "d" * 64,
        "predicted_class": CLASSES[seq % 3],
        "probabilities": [0.5, 0.3, 0.2],
        "embedding": [float(seq % 5), 1.0, 0.5],
        "score_entropy": (seq % 7) / 7,
        "score_margin": (seq % 11) / 11,
        "score_least_confidence": 0.5,
        "score_novelty": None,
        "rule_id": "uncertain",
        "value_class": "normal",
        "selection_probability": 1.0,
        "provenance": "simulated",
        "payload": payload,
        "payload_bytes": len(payload),
        "payload_uri": "",
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "subject_refs": [],
    }
    return row | changes


def fleet_rows(drives: int = 12, frames: int = 8, *, first_seed: int = 0) -> list[dict[str, object]]:
    """Distinct frames in drives of three vehicles."""
    rows = []
    for drive in range(drives):
        for frame in range(frames):
            number = drive * frames + frame
            rows.append(
                arrival(
                    picture(first_seed + number),
                    vehicle=f"car-{drive % 3}",
                    seq=number,
                    drive=f"drive-{drive}",
                    offset=number,
                )
            )
    return rows


def label_rows(rows: list[dict[str, object]], *, every: int = 1) -> list[dict[str, object]]:
    """An answer for every n-th row: its class follows from its seq."""
    return [
        {
            "payload_sha256": row["payload_sha256"],
            "class_name": CLASSES[int(str(row["seq"])) % 3],
            "labeller": "desk",
            "labelled_time_ns": 5,
            "cost": 1.0,
            "request_id": "r1",
        }
        for row in [row for row in rows if row["payload_sha256"]][::every]
    ]


def reference_rows(count: int = 6, *, first_seed: int = 10_000) -> list[dict[str, object]]:
    """Labelled frames that did not come through a vehicle."""
    rows: list[dict[str, object]] = []
    for number in range(count):
        payload = picture(first_seed + number)
        rows.append(
            {
                "payload_sha256": hashlib.sha256(payload).hexdigest(),
                "payload": payload,
                "class_name": CLASSES[number % 3],
                "drive_id": f"reference-{number % 3}",
                "track_id": None,
                "condition": "normal",
                "origin": "bootstrap",
            }
        )
    return rows


def make_workspace(
    root: Path,
    arrivals: list[dict[str, object]],
    labels: list[dict[str, object]] | None = None,
    reference: list[dict[str, object]] | None = None,
    *,
    files: int = 2,
    params: dict[str, object] | None = None,
) -> Workspace:
    """A workspace with a lake (arrivals in `files` commits), a lock and parameters; no git, no DVC."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "fleetloop.toml").write_text('name = "test fleet"\nlock_wait_s = 5\n')
    (root / "params.yaml").write_text(yaml.safe_dump(params or PARAMS))
    workspace = Workspace.open(root)
    tables = {}
    for name, schema, rows in (
        ("arrivals", ARRIVALS, arrivals),
        ("labels", LABELS, labels or []),
        ("reference", REFERENCE, reference or []),
    ):
        table = tables[name] = LakeTable.create(workspace.lake_path / name, schema)
        step = max(1, -(-len(rows) // files))
        for begin in range(0, len(rows), step):
            table.append(pa.Table.from_pylist(rows[begin : begin + step], schema))
    write_lake_lock(workspace.lake_lock_path, tables)
    return workspace


def clone_with_git(workspace: Path, clone: Path, *arguments: str) -> None:
    """Clone a workspace as a person does: with git itself, which our own commands never let fetch."""
    subprocess.run(["git", "clone", "--quiet", *arguments, str(workspace), str(clone)], check=True)

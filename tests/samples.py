"""One valid sample for whoever needs one: tests, benchmarks, torture. `dataclasses.replace` makes it another."""

from __future__ import annotations

import hashlib
from typing import Any

from schemas.predictions import ClassificationOutput, ModelPrediction
from schemas.records import Sample

PREDICTION = ModelPrediction(
    "serving", "classification", "model", "0" * 64, classification=ClassificationOutput("red", (0.5, 0.5))
)


def sample_of(payload: bytes, **fields: Any) -> Sample:
    """A sample of a camera with this payload; `fields` are set instead of the usual ones."""
    usual = {
        "vehicle_id": "nobody",
        "epoch": "0" * 16,
        "previous_epoch": "",
        "seq": 0,
        "drive_id": "drive",
        "sensor_id": "front",
        "capture_time_ns": 1,
        "capture_time_uncertainty_ns": 0,
        "monotonic_ns": 1,
        "boot_id": "boot",
        "spool_time_ns": 1,
        "frame_id": "frame-1",
        "predictions": (PREDICTION,),
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "payload_bytes": len(payload),
        "payload": payload,
    }
    return Sample(**{**usual, **fields})

"""Write what exists before the loop starts: recorded drives, labels, the training images of v1, the held-out test.

Writes under `lab.drives`:
  VEHICLE/first.parquet     the first journey: drives of the fleet, and the test drives
  VEHICLE/patrol.parquet    drives by daylight, repeated while releases roll out
  VEHICLE/dusk.parquet      the same drives when it gets dark
  VEHICLE/second.parquet    the test drives again, with the new model
  bootstrap.parquet         the training images of v1
  reference.parquet         the same and the held-out test set, for the lake
  labels.jsonl              payload_sha256 and class_name: known to the label desk only
  truth.json                frame_id to class_name: known to the report only
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from fleetloop.demo.drives import (
    DemoFrame,
    Drive,
    DrivePlan,
    DriveShape,
    drive_frames,
    plan_drives,
    still_images,
    write_drive_file,
)
from fleetloop.demo.lab import Lab
from fleetloop.demo.sources import ImageSource
from foundation.errors import GuaranteeBrokenError, MisconfiguredError
from foundation.files import write_atomic, write_json_atomic
from modelkit.images import condition_of
from pipelines.curate.params import SplitParams
from pipelines.curate.split import split_of
from schemas.reasons import Split

VEHICLES = ("vehicle-1", "vehicle-2", "vehicle-3")
MAX_ROAD_FRAMES = 420
"""Frames of the test drives per vehicle, driven before and after."""
MAX_TOUR_FRAMES = 500
"""Frames of the patrol that a vehicle repeats while releases roll out."""
MIN_TEST_IMAGES = 30


@dataclass(frozen=True, slots=True)
class Prepared:
    """Facts about the drives for the other steps."""

    source: ImageSource
    plan: DrivePlan
    captured_frames: int
    bootstrap_images: int
    held_out_images: int
    unreadable_frames: int


def prepare(lab: Lab, source: ImageSource, split: SplitParams, shape: DriveShape) -> Prepared:
    """Plan the drives and write all files.

    Raises:
        MisconfiguredError: the data is too small for a held-out test set.
    """
    plan = plan_drives(source, lambda drive_id: split_of(drive_id, split), shape, lab.seed)
    plan = _scaled(plan, lab.scale)
    held_out = still_images(plan.test)
    if len(held_out) < MIN_TEST_IMAGES:
        raise MisconfiguredError(
            f"only {len(held_out)} images hash to test, must be at least {MIN_TEST_IMAGES}"
        )
    bootstrap = [
        f
        for f in still_images(plan.bootstrap)
        if f.class_name not in source.untrained_classes and not is_dark(f)
    ]
    _write_stills(lab.drives / "bootstrap.parquet", bootstrap)
    _write_stills(lab.drives / "reference.parquet", [*bootstrap, *held_out])
    truth: dict[str, str] = {}
    labels: dict[str, str] = {}
    captured = 0
    for number, vehicle_id in enumerate(VEHICLES):
        folder = lab.drives / vehicle_id
        fleet = [d for i, d in enumerate(plan.fleet) if i % len(VEHICLES) == number]
        roads = _roads(plan.test, number)
        once = replace(shape, frames_per_crop=2)
        most = round(lab.scale * MAX_ROAD_FRAMES)

        def drive_all(drives: list[Drive], journey: str, how: DriveShape = once) -> Iterator[DemoFrame]:
            return (frame for d in drives for frame in drive_frames(d, source, how, lab.seed, journey))

        again = list(islice(drive_all(roads, "second"), most))
        first = [*drive_all(fleet, "first", shape), *islice(drive_all(roads, "first"), most)]
        first[len(first) // 2] = _cut_short(first[len(first) // 2])
        tour = [
            *islice(drive_all(fleet, "patrol"), MAX_TOUR_FRAMES),
            *islice(drive_all(roads, "patrol"), most),
        ]
        patrol = [f for f in tour if not is_dark(f)]
        dusk = [f for f in tour if is_dark(f)]
        for name, frames in (
            ("first", first),
            ("patrol", patrol),
            ("dusk", [*patrol[:20], *dusk]),
            ("second", again),
        ):
            write_drive_file(folder / f"{name}.parquet", frames)
            truth |= {f.frame_id: f.class_name for f in frames}
            labels |= {f.payload_sha256: f.class_name for f in frames}
        captured += len(first)
        if not dusk:
            raise MisconfiguredError(
                f"no frame of {vehicle_id} is dark: the third release could not be shown"
            )
    rows = ({"class_name": name, "payload_sha256": digest} for digest, name in sorted(labels.items()))
    write_atomic(lab.labels, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode())
    write_json_atomic(lab.drives / "truth.json", truth)
    return Prepared(source, plan, captured, len(bootstrap), len(held_out), len(VEHICLES))


def is_dark(frame: DemoFrame) -> bool:
    """Return whether the product classifies the frame as dark."""
    with Image.open(io.BytesIO(frame.payload)) as image:
        return condition_of(np.asarray(image.convert("RGB"))) == "dark"


def _cut_short(frame: DemoFrame) -> DemoFrame:
    """Truncate the frame's payload in the middle, like a camera fault."""
    return replace(frame, payload=frame.payload[: len(frame.payload) // 2])


def _roads(test: Iterable[Drive], number: int) -> list[Drive]:
    """Return the test drives of this vehicle, driven before and after."""
    return [d for i, d in enumerate(test) if i % len(VEHICLES) == number]


def _scaled(plan: DrivePlan, scale: float) -> DrivePlan:
    """Keep a share of the fleet's drives; v1's images and the held-out test stay whole, so that counts suffice."""
    if any(d.split is Split.TEST for d in plan.fleet):
        raise GuaranteeBrokenError("a drive of the fleet hashes to test")
    ranked = sorted(plan.fleet, key=lambda d: hashlib.sha256(d.drive_id.encode()).digest())
    kept = {d.drive_id for d in ranked[: max(len(VEHICLES), round(scale * len(ranked)))]}
    return replace(plan, fleet=tuple(d for d in plan.fleet if d.drive_id in kept))


def _write_stills(path: Path, frames: list[DemoFrame]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "payload": pa.array([f.payload for f in frames], pa.binary()),
            "class_name": [f.class_name for f in frames],
            "drive_id": [f.drive_id for f in frames],
            "track_id": [f.track_id for f in frames],
        }
    )
    pq.write_table(table, path)

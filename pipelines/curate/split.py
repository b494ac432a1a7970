"""The name of a drive alone decides whether it is in train, validation or test, and for ever.

With `per_vehicle` a fleet drive's name is VEHICLE/DRIVE from here on: what one vehicle calls its drives says nothing of
another's, and none can be called like a reference drive whose split is known. With a secret salt nobody can tell the split of a
name, so no vehicle chooses it. Workspaces of earlier releases have neither, and their drives stay where they are.
The hash of a drive's id is a point in [0, 1); test is [0, test_ratio), validation the next validation_ratio,
train the rest. So the frames of a drive stay together, a late drive is assigned without knowing the others, and
changing the share of validation moves no drive into or out of test.
"""

from __future__ import annotations

import hashlib

import polars as pl

from pipelines.curate.params import SplitParams
from schemas.reasons import Split

_SCALE = 1 << 64


def drive_position(drive_id: str, salt: str) -> int:
    """Return the drive's position, a hash in [0, 2**64)."""
    return int.from_bytes(hashlib.sha256(f"fleetloop-split/{salt}/{drive_id}".encode()).digest()[:8])


def split_of(drive_id: str, params: SplitParams) -> Split:
    """Return the split of every frame of this drive, in every dataset version with these parameters."""
    position = drive_position(drive_id, params.salt)
    test_end = int(params.test_ratio * _SCALE)
    if position < test_end:
        return Split.TEST
    if position < test_end + int(params.validation_ratio * _SCALE):
        return Split.VALIDATION
    return Split.TRAIN


def drive_name(vehicle_id: str | None, drive_id: str, params: SplitParams) -> str:
    """Return the name of a drive in datasets, which decides its split; `vehicle_id` is None for reference pictures."""
    return f"{vehicle_id}/{drive_id}" if params.per_vehicle and vehicle_id is not None else drive_id


def with_drive_names(rows: pl.DataFrame, params: SplitParams) -> pl.DataFrame:
    """Return `rows` with the names of `drive_name` in the column drive_id."""
    if not params.per_vehicle:
        return rows
    named = pl.concat_str("vehicle_id", pl.lit("/"), "drive_id")
    is_fleet = pl.col("vehicle_id").is_not_null()
    return rows.with_columns(pl.when(is_fleet).then(named).otherwise("drive_id").alias("drive_id"))


def with_split(rows: pl.DataFrame, params: SplitParams) -> pl.DataFrame:
    """Return `rows` with a column `split`, computed once per drive."""
    drives = rows["drive_id"].drop_nulls().unique().sort()
    splits = [str(split_of(drive, params)) for drive in drives]
    return rows.join(
        pl.DataFrame(
            {"drive_id": drives, "split": splits}, schema={"drive_id": pl.String, "split": pl.String}
        ),
        on="drive_id",
        how="left",
        maintain_order="left",
    )

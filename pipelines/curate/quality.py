"""A frame that cannot be learned from is removed, with the reason and the value that decided; every other is kept.

A payload is measured in a confined process (`pipelines.curate.picture`); `judge` compares whole
columns with the bounds of params.yaml. Refuses to repair: a frame is kept as it is or removed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import polars as pl

from foundation.errors import CorruptError, RejectedError
from modelkit.confined import Failed
from pipelines.curate.params import QualityParams
from pipelines.curate.perceptual_hash import HASH_VERSION
from pipelines.curate.picture import Measured, measured
from schemas.reasons import RemovalReason

MEASURE_VERSION = f"measure-3+{HASH_VERSION}"
"""Changes whenever the same payload would be measured differently: cached measurements of other versions are unused."""

FEATURES: dict[str, pl.DataType] = {
    "payload_sha256": pl.String(),
    "width_pixels": pl.Int32(),
    "height_pixels": pl.Int32(),
    "payload_bytes": pl.Int64(),
    "luma": pl.Float64(),
    "sharpness": pl.Float64(),
    "condition": pl.String(),
    "image_hash": pl.Binary(),
    "unreadable": pl.String(),
}
"""One row per payload. `unreadable` says why there are no measurements: with `payload_bytes` the picture could not be
decoded, without it the payload could not be read."""


@dataclass(frozen=True, slots=True)
class Features:
    """The measurements of one payload; the fields of FEATURES."""

    payload_sha256: str
    width_pixels: int | None
    height_pixels: int | None
    payload_bytes: int
    luma: float | None
    sharpness: float | None
    condition: str | None
    image_hash: bytes | None
    unreadable: str | None


def measure(payload: bytes, payload_sha256: str) -> Features:
    """Decode and measure one image in this process; see `features_of`.

    Raises CorruptError when the payload does not have the hash that ingest verified: the lake's file is damaged.
    """
    check_payload(payload, payload_sha256)
    try:
        found: Measured | Failed = measured(payload)
    except RejectedError as error:
        found = Failed(str(error))
    return features_of(payload_sha256, len(payload), found)


def check_payload(payload: bytes, payload_sha256: str) -> None:
    """Raise CorruptError when the payload does not have this hash."""
    found = hashlib.sha256(payload).hexdigest()
    if found != payload_sha256:
        raise CorruptError(f"a payload in the lake has sha256 {found}, but its row says {payload_sha256}")


def features_of(payload_sha256: str, payload_bytes: int, found: Measured | Failed) -> Features:
    """Return what was measured of a payload as a row; why there is nothing stands in `unreadable`."""
    if isinstance(found, Failed):
        return Features(payload_sha256, None, None, payload_bytes, None, None, None, None, found.why)
    return Features(
        payload_sha256,
        found.width_pixels,
        found.height_pixels,
        payload_bytes,
        found.luma,
        found.sharpness,
        found.condition,
        bytes.fromhex(found.image_hash_hex),
        None,
    )


def judge(rows: pl.DataFrame, params: QualityParams) -> pl.DataFrame:
    """Return `rows` with `reason` and `reason_value` where the frame is removed.

    The reason is the first that holds of: payload unavailable, unreadable, too small, too dark, too bright, blurred.
    Rows that have a reason already keep it.
    """
    side = pl.min_horizontal("width_pixels", "height_pixels")
    rules: list[tuple[pl.Expr, RemovalReason, pl.Expr]] = [
        (
            pl.col("unreadable").is_not_null() & pl.col("payload_bytes").is_null(),
            RemovalReason.PAYLOAD_UNAVAILABLE,
            pl.lit(None, pl.Float64),
        ),
        (pl.col("unreadable").is_not_null(), RemovalReason.UNREADABLE, pl.lit(None, pl.Float64)),
        (side < params.min_side_pixels, RemovalReason.TOO_SMALL, side.cast(pl.Float64)),
        (pl.col("luma") < params.min_luma, RemovalReason.TOO_DARK, pl.col("luma")),
        (pl.col("luma") > params.max_luma, RemovalReason.TOO_BRIGHT, pl.col("luma")),
        (pl.col("sharpness") < params.min_sharpness, RemovalReason.BLURRED, pl.col("sharpness")),
    ]
    failed = pl.col("reason").is_null()
    reason, value = pl.lit(None, pl.String), pl.lit(None, pl.Float64)
    for condition, name, value_found in reversed(rules):
        reason = pl.when(condition).then(pl.lit(str(name))).otherwise(reason)
        value = pl.when(condition).then(value_found).otherwise(value)
    return rows.with_columns(
        pl.when(failed).then(reason).otherwise("reason").alias("reason"),
        pl.when(failed).then(value).otherwise("reason_value").alias("reason_value"),
    )

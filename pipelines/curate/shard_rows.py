"""The columns of a shard, and those that a dataset's digest covers. Imports no Beam, so that every command may."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from connectors.lake.schema import LABEL_COLUMNS
from pipelines.curate.labels import AnyTask

_COLUMNS = pa.schema(
    [
        pa.field("payload", pa.binary()),
        pa.field("payload_sha256", pa.string()),
        pa.field("payload_bytes", pa.int64()),
        pa.field("identity", pa.string()),
        pa.field("split", pa.string()),
        pa.field("labeller", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("drive_id", pa.string()),
        pa.field("track_id", pa.string()),
        pa.field("sensor_id", pa.string()),
        pa.field("vehicle_id", pa.string()),
        pa.field("epoch", pa.string()),
        pa.field("seq", pa.int64()),
        pa.field("capture_time_ns", pa.int64()),
        pa.field("time_quality", pa.string()),
        pa.field("width_pixels", pa.int32()),
        pa.field("height_pixels", pa.int32()),
        pa.field("luma", pa.float64()),
        pa.field("sharpness", pa.float64()),
        pa.field("condition", pa.string()),
        pa.field("image_hash", pa.binary()),
        pa.field("provenance", pa.string()),
        pa.field("selection_probability", pa.float64()),
        pa.field("rule_id", pa.string()),
        pa.field("model_name", pa.string()),
        pa.field("model_digest", pa.string()),
        pa.field("predicted_class", pa.string()),
        pa.field("score_entropy", pa.float64()),
        pa.field("score_margin", pa.float64()),
        pa.field("score_least_confidence", pa.float64()),
        pa.field("score_novelty", pa.float64()),
    ]
)
"""`origin` is "fleet" or "reference"; a reference row has no vehicle, so its `identity` names drive and payload."""
_LABEL_PLACE = _COLUMNS.get_field_index("labeller")


def shard_schema(task: AnyTask) -> pa.Schema:
    """Return the columns of a shard: those of every dataset, and before `labeller` the label (a class also as index)."""
    label = [pa.field(task.label_column, LABEL_COLUMNS[task.label_column])]
    if task.label_is_class:
        label.append(pa.field("class_index", pa.int32()))
    fields = list(_COLUMNS)
    return pa.schema([*fields[:_LABEL_PLACE], *label, *fields[_LABEL_PLACE:]])


def logical_columns(task: AnyTask) -> list[str]:
    """Return the columns that the digest covers. The payload is covered by its sha256."""
    return [name for name in shard_schema(task).names if name != "payload"]


def logical_rows(resolved: pl.DataFrame, task: AnyTask) -> pa.Table:
    """Return the kept rows in the columns of a shard without the payload, sorted by payload sha256."""
    schema, names = shard_schema(task), logical_columns(task)
    rows = resolved.rename({"source": "origin"}).sort("payload_sha256").select(names)
    return rows.to_arrow().cast(pa.schema([schema.field(name) for name in names]))

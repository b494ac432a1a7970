"""The columns of the lake's tables, in one place, with what each holds.

`arrivals` holds one row per offset of the log (`origin` "log"), and beside them, never counted as offsets: a
replayed dead letter (`origin` "replay"), an interval that retention or compaction took before it was read ("loss") and
an interval that the log never shows: transaction markers and records of aborted transactions ("gap"). Both
intervals are [offset, offset_end). So for every partition, over the rows that are not replays: the sum of
offset_end - offset is the next offset to read, and no two rows overlap. Times are integers in nanoseconds;
digests are lower-case hex.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import pyarrow as pa


class Origin(StrEnum):
    """Where a row of `arrivals` comes from. Only `LOG` rows stand for one record of the log each."""

    LOG = "log"
    REPLAY = "replay"
    LOSS = "loss"
    GAP = "gap"


PLACE_FIELDS = (
    pa.field("origin", pa.string()),
    pa.field("cluster", pa.string()),
    pa.field("topic", pa.string()),
    pa.field("topic_id", pa.string()),
    pa.field("partition", pa.int32()),
    pa.field("offset", pa.int64()),
    pa.field("offset_end", pa.int64()),
    pa.field("kafka_time_ms", pa.int64()),
    pa.field("ingest_time_ns", pa.int64()),
)
"""A replay row repeats the place of the rejection that it supersedes. A record's offset_end is offset + 1."""

OUTCOME_FIELDS = (
    pa.field("outcome", pa.string()),  # landed | resent | rejected; null for a loss or a gap
    pa.field("reason", pa.string()),  # why it was rejected
    pa.field("detail", pa.string()),  # the value and the bound, for a person
    pa.field("resend_of", pa.string()),  # place of the row that a resent row repeats
    pa.field("supersedes", pa.string()),  # place of the rejection that a replay row supersedes
    pa.field("vehicle_id", pa.string()),  # the identity columns are null until the signature holds
    pa.field("epoch", pa.string()),
    pa.field("seq", pa.int64()),
    pa.field("value_sha256", pa.string()),
    pa.field("key_id", pa.string()),
    pa.field("signature", pa.binary()),
    pa.field("headers_json", pa.string()),  # rejected only: [[name, base64], ...] as they arrived
    pa.field("raw_value", pa.binary()),  # rejected only
    pa.field("raw_key", pa.binary()),  # rejected only
)

SAMPLE_FIELDS = (
    pa.field("previous_epoch", pa.string()),
    pa.field("drive_id", pa.string()),
    pa.field("sensor_id", pa.string()),
    pa.field("modality", pa.string()),
    pa.field("content_type", pa.string()),
    pa.field("calibration_ref", pa.string()),
    pa.field("capture_time_ns", pa.int64()),
    pa.field("capture_time_uncertainty_ns", pa.int64()),
    pa.field("monotonic_ns", pa.int64()),
    pa.field("boot_id", pa.string()),
    pa.field("spool_time_ns", pa.int64()),
    pa.field("time_quality", pa.string()),
    pa.field("frame_id", pa.string()),
    pa.field("track_id", pa.string()),
    pa.field("incident_id", pa.string()),
    pa.field("window_role", pa.string()),
    pa.field("model_name", pa.string()),
    pa.field("model_digest", pa.string()),
    pa.field("predicted_class", pa.string()),
    pa.field("probabilities", pa.list_(pa.field("element", pa.float32()))),
    pa.field("embedding", pa.list_(pa.field("element", pa.float32()))),
    pa.field("score_entropy", pa.float64()),
    pa.field("score_margin", pa.float64()),
    pa.field("score_least_confidence", pa.float64()),
    pa.field("score_novelty", pa.float64()),
    pa.field("campaign_id", pa.string()),
    pa.field("rule_id", pa.string()),
    pa.field("rule_score", pa.float64()),
    pa.field("value_class", pa.string()),
    pa.field("selection_probability", pa.float64()),
    pa.field("privacy_policy", pa.string()),
    pa.field("consent_ref", pa.string()),
    pa.field("subject_refs", pa.list_(pa.field("element", pa.string()))),
    pa.field("provenance", pa.string()),
    pa.field("payload_sha256", pa.string()),
    pa.field("payload_bytes", pa.int64()),  # a size
    pa.field("payload_uri", pa.string()),
    pa.field("payload", pa.binary()),
    # Since sample version 3; null in files that were written before, and in rows that did not land.
    pa.field("content_encoding", pa.string()),
    pa.field("content_span_ns", pa.int64()),
    pa.field("content_items", pa.int64()),
    pa.field("incident_stream", pa.string()),
    pa.field("predictions_json", pa.string()),
)
"""What the sample itself says; null unless the row landed. Its identity is among the columns above.

`predictions_json` is the list of all predictions (`schemas.predictions.to_json_plain`). The columns from `model_name` to
`score_novelty` repeat one of them, the first classification or else the serving model's: null when there is none.
Its embedding and its probabilities stand only there, and are left empty in the JSON.
"""

ARRIVALS = pa.schema([*PLACE_FIELDS, *OUTCOME_FIELDS, *SAMPLE_FIELDS])

LABEL_COLUMNS: Mapping[str, pa.DataType] = MappingProxyType(
    {
        "class_name": pa.string(),
        "boxes": pa.list_(
            pa.field(
                "element",
                pa.struct(
                    [
                        pa.field("class_name", pa.string()),
                        *(pa.field(edge, pa.float64()) for edge in ("left", "top", "right", "bottom")),
                    ]
                ),
            )
        ),
    }
)
"""The column of each task's labels (`Task.label_column`) in the lake and in shards; a row has a value in one of them.

Edges of boxes are in pixels of the picture as a viewer shows it; an empty list says that somebody looked and there is none.
"""

LABELS = pa.schema(
    [
        pa.field("payload_sha256", pa.string()),
        pa.field("class_name", LABEL_COLUMNS["class_name"]),
        pa.field("labeller", pa.string()),
        pa.field("labelled_time_ns", pa.int64()),
        pa.field("cost", pa.float64()),
        pa.field("request_id", pa.string()),
        pa.field("boxes", LABEL_COLUMNS["boxes"]),  # null in files that were written before there were boxes
        pa.field("identity", pa.string()),  # of the frame that was asked; null in files from before
    ]
)

REFERENCE = pa.schema(
    [
        pa.field("payload_sha256", pa.string()),
        pa.field("payload", pa.binary()),
        pa.field("class_name", LABEL_COLUMNS["class_name"]),
        pa.field("drive_id", pa.string()),
        pa.field("track_id", pa.string()),
        pa.field("condition", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("boxes", LABEL_COLUMNS["boxes"]),  # as in `LABELS`
    ]
)

TABLES = {"arrivals": ARRIVALS, "labels": LABELS, "reference": REFERENCE}

STATISTICS_COLUMNS = (
    "origin",
    "cluster",
    "topic_id",
    "partition",
    "offset",
    "offset_end",
    "outcome",
    "reason",
    "vehicle_id",
    "epoch",
    "seq",
    "value_sha256",
    "payload_sha256",
    "drive_id",
    "capture_time_ns",
    "labelled_time_ns",
)
"""Columns whose smallest and largest value a file's commit entry carries, so that readers leave files out."""

COUNTED_COLUMNS = ("resend_of", "headers_json")
"""Columns of which it carries only how many rows have none: with these, outcomes are counted without opening a file."""


def place(topic_id: str, partition: int, offset: int) -> str:
    """Return the name of one row: "topic_id/partition/offset", the form of `resend_of` and `supersedes`."""
    return f"{topic_id}/{partition}/{offset}"

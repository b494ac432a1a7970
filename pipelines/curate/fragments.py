"""Every row of the lake at the locked versions is in exactly one fragment, and a fragment can be read anywhere.

A fragment is a range of row groups of one immutable Parquet file; in the pipeline it is JSON text. Fleet rows and
reference rows get the same columns here; what a reference row does not have is null. Refuses to read a table
without a version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.lake.lock import LakeLock, locked_snapshot
from connectors.lake.schema import LABEL_COLUMNS, TABLES
from connectors.lake.table import LakeTable, Snapshot
from foundation.documents import decode
from foundation.errors import MisconfiguredError

if TYPE_CHECKING:
    from connectors.blob.store import BlobStore

FRAGMENT_BYTES = 128 * 1024 * 1024
"""A fragment ends after the row group that exceeds this size (uncompressed): about what a worker holds in memory."""

FLEET_COLUMNS: dict[str, pl.DataType] = {
    "origin": pl.String(),
    "outcome": pl.String(),
    "vehicle_id": pl.String(),
    "epoch": pl.String(),
    "seq": pl.Int64(),
    "drive_id": pl.String(),
    "sensor_id": pl.String(),
    "modality": pl.String(),
    "content_type": pl.String(),
    "content_span_ns": pl.Int64(),
    "incident_id": pl.String(),
    "incident_stream": pl.String(),
    "window_role": pl.String(),
    "track_id": pl.String(),
    "capture_time_ns": pl.Int64(),
    "time_quality": pl.String(),
    "provenance": pl.String(),
    "model_name": pl.String(),
    "model_digest": pl.String(),
    "predicted_class": pl.String(),
    "score_entropy": pl.Float64(),
    "score_margin": pl.Float64(),
    "score_least_confidence": pl.Float64(),
    "score_novelty": pl.Float64(),
    "embedding": pl.List(pl.Float32()),
    "rule_id": pl.String(),
    "selection_probability": pl.Float64(),
    "predictions_json": pl.String(),
    "privacy_policy": pl.String(),
    "consent_ref": pl.String(),
    "subject_refs": pl.List(pl.String()),
    "payload_sha256": pl.String(),
    "ingest_time_ns": pl.Int64(),
}
"""The columns of an arrival that curation reads, payload excluded. Where it arrived is left out on purpose.

When it did decides only between two vehicles: which of them was first to send the very bytes, while nobody labelled them,
or a near-duplicate, so that what one vehicle sends takes no row from another that was there before.
"""
OWN_LABELS: Mapping[str, pl.DataType] = dict(
    pl.DataFrame(
        pl.from_arrow(
            pa.schema([(f"reference_{name}", kind) for name, kind in LABEL_COLUMNS.items()]).empty_table()
        )
    ).schema
)
"""The labels that a reference row has itself, one column per label column; null in fleet rows."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """Row groups [first_group, end_group) of one file. `kind` is "arrivals" or "reference"."""

    fragment_id: str
    kind: str
    path: str
    first_group: int
    end_group: int
    rows: int

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Fragment:
        """Return the fragment that `to_json` wrote."""
        return decode(cls, text, "fragment")


def plan_fragments(snapshots: dict[str, Snapshot]) -> list[Fragment]:
    """Return the fragments of the tables `arrivals` and `reference`, those of one file in order."""
    fragments = []
    for kind in ("arrivals", "reference"):
        if kind not in snapshots:
            continue
        folder = snapshots[kind].table.folder
        snapshots[kind].check_files()
        paths = sorted(str(path) for path in snapshots[kind].files().column("path").to_pylist())
        for number, path in enumerate(paths):
            for part, (first, end, rows) in enumerate(_ranges(pq.ParquetFile(folder / path).metadata)):
                name = f"{kind}-{number:06d}-{part:03d}"
                fragments.append(Fragment(name, kind, str(folder / path), first, end, rows))
    return fragments


def _ranges(metadata: pq.FileMetaData) -> Iterator[tuple[int, int, int]]:
    first, size_bytes, rows = 0, 0, 0
    for group in range(metadata.num_row_groups):
        size_bytes += metadata.row_group(group).total_byte_size
        rows += metadata.row_group(group).num_rows
        if size_bytes >= FRAGMENT_BYTES or group == metadata.num_row_groups - 1:
            yield first, group + 1, rows
            first, size_bytes, rows = group + 1, 0, 0


def read_metadata(fragment: Fragment, *, with_embeddings: bool = True) -> pl.DataFrame:
    """Return all rows of the fragment without payloads, with `fragment_id`, `row` and the unique text `identity`.

    Without embeddings that column is null: a vehicle decides how long they are.
    """
    file = pq.ParquetFile(fragment.path)
    brought = LABEL_COLUMNS if fragment.kind == "reference" else {}
    left_out = frozenset[str]() if with_embeddings else frozenset({"embedding"})
    wanted = [name for name in [*FLEET_COLUMNS, *brought] if name not in left_out]
    present = [name for name in wanted if name in file.schema_arrow.names]
    groups = list(range(fragment.first_group, fragment.end_group))
    rows = pl.DataFrame(pl.from_arrow(file.read_row_groups(groups, columns=present)))
    rows = rows.with_columns(
        [pl.lit(None, kind).alias(name) for name, kind in FLEET_COLUMNS.items() if name not in rows.columns]
    )
    rows = rows.rename({name: f"reference_{name}" for name in brought}, strict=False)
    rows = rows.with_columns(
        [pl.lit(None, kind).alias(name) for name, kind in OWN_LABELS.items() if name not in rows.columns]
    )
    if fragment.kind == "reference":
        rows = rows.with_columns(
            pl.lit("landed").alias("outcome"),
            pl.lit("reference").alias("source"),
            pl.lit("ok").alias("time_quality"),
            pl.coalesce("provenance", pl.lit("recorded")).alias("provenance"),
            pl.col("origin").alias("reference_origin"),
            pl.concat_str(pl.lit("reference/"), "drive_id", pl.lit("/"), "payload_sha256").alias("identity"),
        )
    else:
        rows = rows.with_columns(
            pl.lit("fleet").alias("source"),
            pl.lit(None, pl.String).alias("reference_origin"),
            pl.concat_str(
                "vehicle_id", pl.lit("/"), "epoch", pl.lit("/"), pl.col("seq").cast(pl.String)
            ).alias("identity"),
        )
    return rows.with_columns(
        pl.lit(fragment.fragment_id).alias("fragment_id"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("row"),
    ).select(
        "fragment_id",
        "row",
        "source",
        "identity",
        *[pl.col(name).cast(kind) for name, kind in OWN_LABELS.items()],
        "reference_origin",
        *[pl.col(name).cast(kind) for name, kind in FLEET_COLUMNS.items() if name != "origin"],
    )


@dataclass(frozen=True, slots=True)
class UnavailablePayload:
    """Why the payload of one row could not be read: a verdict on the row, never an error of the run."""

    why: str


def remote_rows(fragment: Fragment) -> list[int]:
    """Return the numbers of the fragment's landed rows whose payload is in the blob store."""
    file = pq.ParquetFile(fragment.path)
    if "payload_uri" not in file.schema_arrow.names:
        return []
    groups = list(range(fragment.first_group, fragment.end_group))
    held = pl.DataFrame(pl.from_arrow(file.read_row_groups(groups, columns=["payload_uri", "outcome"])))
    is_remote = (pl.col("payload_uri").fill_null("") != "") & (pl.col("outcome") == "landed")
    return held.with_row_index("row").filter(is_remote)["row"].to_list()


def read_payloads(
    fragment: Fragment, rows: list[int], blobs: str = ""
) -> Iterator[tuple[int, bytes | UnavailablePayload]]:
    """Yield (row, payload) for the wanted rows of the fragment, ascending, one row group in memory at a time.

    A payload that is not inline is fetched from the blob store at `blobs` and verified. Whatever goes wrong with it
    (no store configured, a foreign or missing blob, other bytes, a store that fails) is the result for its row: a
    sender chooses the reference, so it must not stop the run.

    Raises MisconfiguredError when a payload is elsewhere and no store can be opened at `blobs` here.
    """
    wanted = sorted(rows)
    store = _store(blobs)
    file = pq.ParquetFile(fragment.path)
    names = [
        name
        for name in ("payload", "payload_uri", "payload_sha256", "payload_bytes")
        if name in file.schema_arrow.names
    ]
    begin, at = 0, 0
    for group in range(fragment.first_group, fragment.end_group):
        end = begin + file.metadata.row_group(group).num_rows
        upto = at
        while upto < len(wanted) and wanted[upto] < end:
            upto += 1
        if upto > at:
            picked = file.read_row_group(group, columns=names).take(
                pa.array([row - begin for row in wanted[at:upto]])
            )
            for row, values in zip(wanted[at:upto], picked.to_pylist(), strict=True):
                yield row, _payload(values, store)
        begin, at = end, upto


def _store(blobs: str) -> BlobStore | None:
    if not blobs:
        return None
    from connectors.blob.store import BlobStore

    return BlobStore(blobs)


def _payload(values: dict[str, Any], store: BlobStore | None) -> bytes | UnavailablePayload:
    uri = values.get("payload_uri")
    if values["payload"] or not uri:
        return bytes(values["payload"] or b"")
    if store is None:
        return UnavailablePayload(
            f"it is stored at {uri[:200]!r}: set `blobs` in fleetloop.toml to that blob store"
        )
    from connectors.blob.store import BlobRef

    try:
        return store.get_verified(BlobRef(uri, values["payload_sha256"], values["payload_bytes"]))
    except (MemoryError, MisconfiguredError):
        raise  # a fault of this machine or its settings, not of the row
    except Exception as error:  # noqa: BLE001 - an untrusted reference can make the store raise anything
        return UnavailablePayload(f"{type(error).__name__}: {error}"[:500])


def open_snapshots(lake: Path, lock: LakeLock) -> dict[str, Snapshot]:
    """Open the locked tables that curation reads, each at its locked version.

    Raises MisconfiguredError when a table was recreated since or has no such version.
    """
    return {
        name: locked_snapshot(lock, name, LakeTable.open(lake / name))
        for name in sorted(lock)
        if name in TABLES
    }

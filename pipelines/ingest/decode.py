"""Decode: a batch of records becomes rows, each verified and decoded, or rejected with its reason and its bytes.

A record is accepted only if a key enrolled for its vehicle signed it and its content names the same identity. No
content can stop this step: a record that cannot be read becomes a rejected row. Whether an accepted row is the first
of its identity is decided later (`pipelines.ingest.deduplicate`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa

from connectors.lake.schema import ARRIVALS, Origin
from foundation.documents import decode
from foundation.errors import CorruptError, RejectedError
from pipelines import steps
from pipelines.ingest.columns import sample_columns
from pipelines.ingest.elements import LogBatch, OffsetRange, RunContext
from pipelines.ingest.quota import Quota, from_json
from schemas.codec import decode_sample
from schemas.identity import Identity
from schemas.reasons import LandOutcome, RejectReason
from schemas.records import Sample
from schemas.signing import Enrolment, verify
from schemas.wire import FL_KEYID, FL_SHA256, FL_SIGNATURE, KIND_SAMPLE, MAX_RECORD_BYTES, StoredRecord

if TYPE_CHECKING:
    from connectors.blob.store import BlobStore


MAX_HEADER_BYTES = 65_536
"""Bound on the header block of a record; those of a vehicle have less than 1,000 bytes."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one record is a dead letter; `identity` is set only if the signature was valid."""

    record: StoredRecord
    reason: str
    detail: str
    identity: Identity | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """One record whose signature and content are valid."""

    record: StoredRecord
    sample: Sample
    value_sha256: str
    key_id: str
    signature: bytes


class Decode(beam.DoFn):
    """Turn a LogBatch into a pa.Table of `ARRIVALS` that covers the offsets of the batch."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._enrolment: Enrolment | None = None
        self._blobs: BlobStore | None = None
        self._quota: Quota | None = None

    def process(self, element: LogBatch) -> Iterator[pa.Table]:
        """Yield one table per batch."""
        if self._enrolment is None:
            self._enrolment = Enrolment.from_json(self._context.enrolment_json)
            self._blobs = blob_store(self._context.settings.blobs)
            self._quota = Quota(from_json(self._context.used_json), self._context.settings)
        yield rows_of(element, self._enrolment, self._context.ingest_time_ns, self._blobs, self._quota)
        steps.reached("ingest.decode")


def blob_store(address: str) -> BlobStore | None:
    """Return the blob store at `address`, which opens on first use; None when `address` is empty."""
    if not address:
        return None
    from connectors.blob.store import BlobStore

    return BlobStore(address)


def rows_of(
    batch: LogBatch,
    enrolment: Enrolment,
    ingest_time_ns: int,
    blobs: BlobStore | None = None,
    quota: Quota | None = None,
) -> pa.Table:
    """Return the rows of a batch; each offset in [begin, end) is in exactly one of them."""
    source = batch.source
    if batch.is_lost:
        return _intervals(source, Origin.LOSS, "retention", [(batch.begin, batch.end)], ingest_time_ns)
    accepted, rejected = verify_and_decode(batch.records, enrolment, blobs, quota)
    tables = [
        accepted_rows(source, accepted, ingest_time_ns),
        rejected_rows(source, rejected, ingest_time_ns),
        _intervals(source, Origin.GAP, "marker_or_aborted", batch.hidden, ingest_time_ns),
        _intervals(source, Origin.LOSS, "compaction", batch.destroyed, ingest_time_ns),
        _intervals(source, Origin.LOSS, "unknown", batch.unknown, ingest_time_ns),
    ]
    return pa.concat_tables([table for table in tables if table.num_rows])


def verify_and_decode(
    records: Sequence[StoredRecord],
    enrolment: Enrolment,
    blobs: BlobStore | None = None,
    quota: Quota | None = None,
) -> tuple[list[Accepted], list[Rejection]]:
    """Verify and decode each record. Each record is in exactly one of the two lists.

    Nothing is decoded of a vehicle that had used up its `quota`; the signature comes first, so that no other spends it.
    A `payload_uri` must be the address at which `blobs` would keep the payload; curation checks that it exists.
    """
    accepted: list[Accepted] = []
    rejected: list[Rejection] = []
    for record in records:
        identity: Identity | None = None
        try:
            identity = _verified(record, enrolment)
            if quota is not None:
                quota.check(identity.vehicle_id)
            accepted.append(_decoded(record, identity, blobs))
        except RejectedError as error:
            rejected.append(Rejection(record, error.reason, str(error), identity))
        except MemoryError:
            raise  # a condition of this machine, not of the record
        except Exception as error:  # noqa: BLE001 - a defect of the codec keeps the bytes for a replay after the fix
            detail = f"decoding failed with {type(error).__name__}: {error}"[:2000]
            rejected.append(Rejection(record, RejectReason.INVALID_VALUE.value, detail, identity))
    return accepted, rejected


def _verified(record: StoredRecord, enrolment: Enrolment) -> Identity:
    if record.unreadable:
        raise RejectedError(record.unreadable, reason=RejectReason.UNREADABLE_BATCH)
    if record.value is not None and len(record.value) > MAX_RECORD_BYTES:
        raise RejectedError(
            f"the value has {len(record.value)} bytes; the bound is {MAX_RECORD_BYTES} bytes",
            reason=RejectReason.OVERSIZE,
        )
    if (size := header_bytes(record)) > MAX_HEADER_BYTES:
        raise RejectedError(
            f"the headers have {size} bytes; the bound is {MAX_HEADER_BYTES} bytes",
            reason=RejectReason.OVERSIZE,
        )
    return verify(record.headers, record.key, record.value, KIND_SAMPLE, enrolment)


def header_bytes(record: StoredRecord) -> int:
    """Return the bytes of all names and values of the headers."""
    return sum(len(name.encode()) + len(content or b"") for name, content in record.headers)


def _decoded(record: StoredRecord, identity: Identity, blobs: BlobStore | None) -> Accepted:
    sample = decode_sample(record.value or b"")
    if (sample.vehicle_id, sample.epoch, sample.seq) != (identity.vehicle_id, identity.epoch, identity.seq):
        raise RejectedError(
            f"the headers name {identity}, the sample {sample.identity}",
            reason=RejectReason.IDENTITY_MISMATCH,
        )
    if sample.payload_uri:
        if blobs is None:
            raise RejectedError(
                f"payload_uri is {sample.payload_uri[:200]!r}: set `blobs` in fleetloop.toml to that blob store",
                reason=RejectReason.FOREIGN_URI,
            )
        blobs.check_address(sample.payload_uri, sample.payload_sha256)
    headers = dict(record.headers)
    value_sha256, key_id = headers[FL_SHA256].decode("ascii"), headers[FL_KEYID].decode("ascii")
    return Accepted(record, sample, value_sha256, key_id, headers[FL_SIGNATURE])


def accepted_rows(source: OffsetRange, accepted: Sequence[Accepted], ingest_time_ns: int) -> pa.Table:
    """Return rows with the outcome landed; deduplication changes it where an earlier row has the identity."""
    samples = [one.sample for one in accepted]
    columns = _places(source, Origin.LOG, [one.record for one in accepted], ingest_time_ns)
    columns |= sample_columns(samples)
    columns |= {
        "outcome": [LandOutcome.LANDED.value] * len(accepted),
        "vehicle_id": [sample.vehicle_id for sample in samples],
        "epoch": [sample.epoch for sample in samples],
        "seq": [sample.seq for sample in samples],
        "value_sha256": [one.value_sha256 for one in accepted],
        "key_id": [one.key_id for one in accepted],
        "signature": [one.signature for one in accepted],
    }
    return arrivals(columns, len(accepted))


def rejected_rows(source: OffsetRange, rejected: Sequence[Rejection], ingest_time_ns: int) -> pa.Table:
    """Return dead letters: reason, detail and the bytes that arrived."""
    columns = _places(source, Origin.LOG, [one.record for one in rejected], ingest_time_ns)
    columns |= {
        "outcome": [LandOutcome.REJECTED.value] * len(rejected),
        "reason": [str(one.reason) for one in rejected],
        "detail": [one.detail for one in rejected],
        "vehicle_id": [one.identity.vehicle_id if one.identity else None for one in rejected],
        "epoch": [one.identity.epoch if one.identity else None for one in rejected],
        "seq": [one.identity.seq if one.identity else None for one in rejected],
        **raw_columns([one.record for one in rejected]),
    }
    return arrivals(columns, len(rejected))


def raw_columns(records: Sequence[StoredRecord]) -> dict[str, list[Any]]:
    """Return the bytes of records as they arrived, by column."""
    return {
        "value_sha256": [None if r.value is None else hashlib.sha256(r.value).hexdigest() for r in records],
        "headers_json": [headers_json(r) for r in records],
        "raw_value": [r.value for r in records],
        "raw_key": [r.key for r in records],
    }


def headers_json(record: StoredRecord) -> str:
    """Return all headers in order, repeated ones included: [[name, base64 or null], ...]."""
    pairs = [
        [name, None if content is None else base64.b64encode(content).decode("ascii")]
        for name, content in record.headers
    ]
    return json.dumps(pairs)


def headers_of(text: str) -> tuple[tuple[str, bytes], ...]:
    """Return the headers that `headers_json` wrote. Raises CorruptError."""
    return tuple(
        (name, None if content is None else _base64(content))  # type: ignore[misc]
        for name, content in decode(list[tuple[str, str | None]], text, "headers_json")
    )


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise CorruptError(f"headers_json holds {text[:40]!r}, which is not base64") from error


def arrivals(columns: dict[str, object], rows: int) -> pa.Table:
    """Return a table of `ARRIVALS`; columns that are not given are null."""
    arrays = [
        _array(columns[field.name], field.type) if field.name in columns else pa.nulls(rows, field.type)
        for field in ARRIVALS
    ]
    return pa.Table.from_arrays(arrays, schema=ARRIVALS)


def _array(values: object, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _places(
    source: OffsetRange, origin: Origin, records: Sequence[StoredRecord], ingest_time_ns: int
) -> dict[str, object]:
    columns = _constants(source, origin, len(records), ingest_time_ns)
    columns["offset"] = [record.offset for record in records]
    columns["offset_end"] = [record.offset + 1 for record in records]
    columns["kafka_time_ms"] = [record.timestamp_ms for record in records]
    return columns


def _constants(source: OffsetRange, origin: Origin, rows: int, ingest_time_ns: int) -> dict[str, object]:
    return {
        "origin": pa.repeat(pa.scalar(origin.value, pa.string()), rows),
        "cluster": pa.repeat(pa.scalar(source.cluster, pa.string()), rows),
        "topic": pa.repeat(pa.scalar(source.topic, pa.string()), rows),
        "topic_id": pa.repeat(pa.scalar(source.topic_id, pa.string()), rows),
        "partition": pa.repeat(pa.scalar(source.partition, pa.int32()), rows),
        "ingest_time_ns": pa.repeat(pa.scalar(ingest_time_ns, pa.int64()), rows),
    }


def _intervals(
    source: OffsetRange,
    origin: Origin,
    reason: str,
    intervals: Sequence[tuple[int, int]],
    ingest_time_ns: int,
) -> pa.Table:
    columns = _constants(source, origin, len(intervals), ingest_time_ns)
    columns["offset"] = [begin for begin, _ in intervals]
    columns["offset_end"] = [end for _, end in intervals]
    columns["reason"] = [reason] * len(intervals)
    columns["detail"] = [f"{end - begin} offsets in [{begin}, {end})" for begin, end in intervals]
    return arrivals(columns, len(intervals))

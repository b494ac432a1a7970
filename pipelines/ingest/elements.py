"""The elements of the ingest pipeline (offset ranges, batches, files) and their Beam coders.

Coders use Arrow IPC and Beam's row format, never pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import Coder, RowCoder, registry

from connectors.kafka.ports import RecordSource
from foundation.documents import decode
from pipelines.ingest.settings import IngestSettings
from schemas.wire import StoredRecord

Interval = tuple[int, int]
"""Offsets [begin, end) of one partition."""
SourceFactory = Callable[[], RecordSource]
"""A function that opens a source in the process in which a step runs."""


class OffsetRange(NamedTuple):
    """The offsets [begin, end) of one partition; `is_lost` when retention removed them before the plan was made."""

    cluster: str
    topic: str
    topic_id: str
    partition: int
    begin: int
    end: int
    is_lost: bool


class Unread(NamedTuple):
    """The offset from which a partition could not be read in this run; the next run reads on from there."""

    partition: int
    begin: int
    why: str


class Waiting(NamedTuple):
    """The offsets [begin, end) of a partition that an open transaction hides from readers for now."""

    partition: int
    begin: int
    end: int


class TopicGone(NamedTuple):
    """A partition of a topic that was deleted and created again: the lake holds it up to `end`, the rest is lost.

    If `cluster` is not the cluster that is read now, the topic may still exist there.
    """

    topic_id: str
    partition: int
    end: int
    cluster: str

    def describe(self, cluster: str) -> str:
        """Return a message for the operator, given the cluster from which records are read now."""
        if self.cluster == cluster:
            return f"topic was recreated: {self.topic_id}/{self.partition} is gone; it was read up to offset {self.end}"
        return (
            f"another cluster, is it the right broker? {self.topic_id}/{self.partition} was read up to offset {self.end}"
            f" from cluster {self.cluster}; this is cluster {cluster}"
        )


class StagedFile(NamedTuple):
    """One written and synced Parquet file that covers the offsets [begin, end), with counts of its rows.

    `rejected_json` is an object of reason to count; `lost_json` is a list of [begin, end, reason].
    """

    path: str
    partition: int
    begin: int
    end: int
    size_bytes: int
    statistics_json: str
    rows: int
    landed: int
    resent: int
    rejected_json: str
    lost_json: str
    gap_offsets: int


@dataclass(frozen=True, slots=True)
class LogBatch:
    """The content of the offsets [begin, end) of a range: records in order, or one lost interval.

    Each offset is that of a record or lies in one of the intervals.
    """

    source: OffsetRange
    begin: int
    end: int
    records: tuple[StoredRecord, ...]
    is_lost: bool = False
    hidden: tuple[Interval, ...] = ()
    """Offsets that no reader ever sees: transaction markers and records of aborted transactions."""
    destroyed: tuple[Interval, ...] = ()
    """Offsets whose records log compaction removed."""
    unknown: tuple[Interval, ...] = ()
    """Offsets without a record and without a known cause, because retention passed them before the broker was asked."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """The context that every step of one run needs; version and time are fixed before the first step."""

    table: str
    version: int
    run_id: str
    staging: str
    ingest_time_ns: int
    enrolment_json: str
    open_source: SourceFactory
    settings: IngestSettings
    used_json: str = "{}"
    """What each vehicle landed within the day before the run (`pipelines.ingest.quota`)."""

    @property
    def staging_folder(self) -> Path:
        """Return the folder of this run's files until they get their final names."""
        return Path(self.staging)


class ArrowTableCoder(Coder):
    """Encodes Arrow tables as Arrow IPC streams."""

    def encode(self, value: pa.Table) -> bytes:
        """Return the bytes of the stream."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_table(value)
        return bytes(sink.getvalue())

    def decode(self, encoded: bytes) -> pa.Table:
        """Return the table in the bytes of a stream."""
        return pa.ipc.open_stream(encoded).read_all()

    def estimate_size(self, value: pa.Table) -> int:
        """Return the size in bytes without encoding: Beam asks for each element that it samples."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        """Return False: tables are values here, never keys."""
        return False


_RECORDS = pa.schema(
    [
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("timestamp_ms", pa.int64()),
        pa.field("key", pa.large_binary()),
        pa.field("value", pa.large_binary()),
        pa.field("header_names", pa.list_(pa.string())),
        pa.field("header_values", pa.list_(pa.large_binary())),
        pa.field("unreadable", pa.string()),
    ]
)
_BATCH = RowCoder.from_type_hint(OffsetRange, registry)


class _Place(NamedTuple):
    """Where a batch is, and what in it holds no record."""

    begin: int
    end: int
    is_lost: bool
    hidden: tuple[Interval, ...]
    destroyed: tuple[Interval, ...]
    unknown: tuple[Interval, ...]


class LogBatchCoder(Coder):
    """Encodes a batch as one Arrow IPC stream, where a runner stores a batch between steps."""

    def encode(self, value: LogBatch) -> bytes:
        """Return the bytes of the stream; range and intervals are in the schema metadata."""
        columns = [
            [r.partition for r in value.records],
            [r.offset for r in value.records],
            [r.timestamp_ms for r in value.records],
            [r.key for r in value.records],
            [r.value for r in value.records],
            [[name for name, _ in r.headers] for r in value.records],
            [[content for _, content in r.headers] for r in value.records],
            [r.unreadable for r in value.records],
        ]
        place = json.dumps(
            [value.begin, value.end, value.is_lost, value.hidden, value.destroyed, value.unknown]
        )
        schema = _RECORDS.with_metadata({b"range": _BATCH.encode(value.source), b"place": place})
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _RECORDS, strict=True)]
        return ArrowTableCoder().encode(pa.Table.from_arrays(arrays, schema=schema))

    def decode(self, encoded: bytes) -> LogBatch:
        """Return the batch in the bytes of a stream."""
        table = ArrowTableCoder().decode(encoded)
        place = decode(_Place, table.schema.metadata[b"place"], "place of a batch")
        records = tuple(
            StoredRecord(
                row["partition"],
                row["offset"],
                row["timestamp_ms"],
                row["key"],
                row["value"],
                tuple(zip(row["header_names"], row["header_values"], strict=True)),
                row["unreadable"],
            )
            for row in table.to_pylist()
        )
        source = _BATCH.decode(table.schema.metadata[b"range"])
        return LogBatch(
            source,
            place.begin,
            place.end,
            records,
            place.is_lost,
            place.hidden,
            place.destroyed,
            place.unknown,
        )

    def estimate_size(self, value: LogBatch) -> int:
        """Return the size of the values in bytes."""
        return sum(len(record.value or b"") for record in value.records)

    def is_deterministic(self) -> bool:
        """Return False: batches are values here, never keys."""
        return False


for _kind in (OffsetRange, Unread, StagedFile):
    beam.coders.registry.register_coder(_kind, RowCoder)
registry.register_coder(pa.Table, ArrowTableCoder)
registry.register_coder(LogBatch, LogBatchCoder)

"""What travels through the ingest pipeline: offset ranges, batches, files; and how a runner may store them.

Coders use Arrow and Beam's row format; nothing is pickled by us.
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
from pipelines.ingest.settings import IngestSettings
from schemas.wire import StoredRecord

Interval = tuple[int, int]
"""Offsets [begin, end) of one partition."""
SourceFactory = Callable[[], RecordSource]
"""Opens a source in whatever process a step runs in."""


class OffsetRange(NamedTuple):
    """The offsets [begin, end) of one partition; `is_lost` when retention took them before the plan."""

    cluster: str
    topic: str
    topic_id: str
    partition: int
    begin: int
    end: int
    is_lost: bool


class Unread(NamedTuple):
    """From `begin` on this partition could not be read now; the next run reads it."""

    partition: int
    begin: int
    why: str


class Waiting(NamedTuple):
    """The offsets [begin, end) of a partition are behind an open transaction: nobody may read them yet."""

    partition: int
    begin: int
    end: int


class TopicGone(NamedTuple):
    """A topic that another of its name replaced: the lake has its partition up to `end`, and what came then is gone.

    Unless it is of another cluster than the one that is read now: then it may well live on there.
    """

    topic_id: str
    partition: int
    end: int
    cluster: str

    def told(self, cluster: str) -> str:
        """What became of it, for a person, when the records are now read from `cluster`."""
        if self.cluster == cluster:
            return f"topic made anew: {self.topic_id}/{self.partition} is gone, read up to {self.end}"
        return (
            f"another cluster, is it the right broker? {self.topic_id}/{self.partition} was read up to {self.end}"
            f" from {self.cluster}, this is {cluster}"
        )


class StagedFile(NamedTuple):
    """One written and synced Parquet file that holds all of [begin, end), and what its rows are.

    `records` = landed + resent + rejected. `rejected_json` and `lost_json` are objects: reason to count, and
    a list of [begin, end, reason].
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
    """All that [begin, end) of a range holds: records in order, or one lost interval.

    Each offset is that of a record, or in one of the intervals.
    """

    source: OffsetRange
    begin: int
    end: int
    records: tuple[StoredRecord, ...]
    is_lost: bool = False
    hidden: tuple[Interval, ...] = ()
    """Offsets that no reader ever sees: transaction markers, records of aborted transactions."""
    destroyed: tuple[Interval, ...] = ()
    """Offsets whose records compaction took."""
    unknown: tuple[Interval, ...] = ()
    """Offsets without a record of which nobody can say any more why: retention passed them before they were asked."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What every step of one run needs; version and time are fixed before the first step."""

    table: str
    version: int
    run_id: str
    staging: str
    ingest_time_ns: int
    enrolment_json: str
    open_source: SourceFactory
    settings: IngestSettings

    @property
    def staging_folder(self) -> Path:
        """Where this run's files are until they get their final names."""
        return Path(self.staging)


class ArrowTableCoder(Coder):
    """Arrow tables as Arrow IPC streams."""

    def encode(self, value: pa.Table) -> bytes:
        """The stream's bytes."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_table(value)
        return bytes(sink.getvalue())

    def decode(self, encoded: bytes) -> pa.Table:
        """The table in a stream's bytes."""
        return pa.ipc.open_stream(encoded).read_all()

    def estimate_size(self, value: pa.Table) -> int:
        """Bytes, without writing them: Beam asks for every element that it samples."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        """Tables are values here, never keys."""
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


class LogBatchCoder(Coder):
    """Batches as one Arrow IPC stream; used only where a runner stores a batch between steps."""

    def encode(self, value: LogBatch) -> bytes:
        """The stream's bytes; range and interval are in the schema's metadata."""
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
        """The batch in a stream's bytes."""
        table = ArrowTableCoder().decode(encoded)
        begin, end, is_lost, *gaps = json.loads(table.schema.metadata[b"place"])
        hidden, destroyed, unknown = (tuple((first, last) for first, last in intervals) for intervals in gaps)
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
        return LogBatch(source, begin, end, records, is_lost, hidden, destroyed, unknown)

    def estimate_size(self, value: LogBatch) -> int:
        """Bytes of the values, without writing them."""
        return sum(len(record.value or b"") for record in value.records)

    def is_deterministic(self) -> bool:
        """Batches are values here, never keys."""
        return False


for _kind in (OffsetRange, Unread, StagedFile):
    beam.coders.registry.register_coder(_kind, RowCoder)
registry.register_coder(pa.Table, ArrowTableCoder)
registry.register_coder(LogBatch, LogBatchCoder)

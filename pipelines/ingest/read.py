"""Read: a range of offsets becomes batches that together cover it, each the content of one file.

Offsets that retention removes in the meantime become a lost interval. If the broker stops answering, what was read is
kept and the rest is reported as unread, so a broken connection loses no work and no offset. Offsets without a record
are classified: transaction markers and aborted records are hidden by design; records that compaction removed are a
loss, and so are offsets whose cause is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby

import apache_beam as beam

from connectors.kafka.ports import RecordSource
from foundation.errors import OffsetsLostError, RetryLaterError
from pipelines import steps
from pipelines.ingest.elements import Interval, LogBatch, OffsetRange, RunContext, Unread
from pipelines.ingest.settings import IngestSettings
from schemas.wire import StoredRecord

UNREAD = "unread"
HEADER_BYTES = 200
"""Memory overhead of the Python objects of one header, beside its bytes."""


class Read(beam.DoFn):
    """Turn an OffsetRange into LogBatches; Unread goes to the output `UNREAD`."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._source: RecordSource | None = None

    def process(self, element: OffsetRange) -> Iterator[LogBatch | beam.pvalue.TaggedOutput]:
        """Yield batches in order of offset."""
        if self._source is None:
            self._source = self._context.open_source()
        for found in read_range(self._source, element, self._context.settings):
            if isinstance(found, Unread):
                yield beam.pvalue.TaggedOutput(UNREAD, found)
            else:
                steps.reached("ingest.read")
                yield found

    def teardown(self) -> None:
        """Close the connection."""
        if self._source is not None:
            self._source.close()
            self._source = None


def read_range(
    source: RecordSource, wanted: OffsetRange, settings: IngestSettings
) -> Iterator[LogBatch | Unread]:
    """Yield batches that cover [begin, end) without a hole; if reading stops early, one Unread at the end."""
    begin = wanted.begin
    if wanted.is_lost:
        yield LogBatch(wanted, begin, wanted.end, (), is_lost=True)
        return
    held: list[StoredRecord] = []
    held_bytes = 0
    while begin < wanted.end:
        start = held[-1].offset + 1 if held else begin
        try:
            for records in source.read(wanted.topic, wanted.partition, start, wanted.end):
                for record in records:
                    held.append(record)
                    held_bytes += memory_bytes(record)
                    if held_bytes >= settings.batch_bytes or len(held) >= settings.batch_records:
                        yield _batch(source, wanted, begin, record.offset + 1, held)
                        begin, held, held_bytes = record.offset + 1, [], 0
            if begin < wanted.end:
                yield _batch(source, wanted, begin, wanted.end, held)
            return
        except OffsetsLostError as lost:
            lost_begin = max(begin, lost.lost_begin)
            lost_end = min(wanted.end, lost.lost_end)
            try:
                if begin < lost_begin:
                    yield _batch(source, wanted, begin, lost_begin, held)
            except RetryLaterError as error:
                yield Unread(wanted.partition, begin, str(error))
                return
            yield LogBatch(wanted, lost_begin, lost_end, (), is_lost=True)
            begin, held, held_bytes = lost_end, [], 0
        except RetryLaterError as error:
            with suppress(RetryLaterError):  # the records held may have a gap that cannot be explained now
                if held:
                    yield _batch(source, wanted, begin, held[-1].offset + 1, held)
                    begin = held[-1].offset + 1
            yield Unread(wanted.partition, begin, str(error))
            return


def memory_bytes(record: StoredRecord) -> int:
    """Estimate the memory of a record, headers included: a sender may give thousands of two-byte headers."""
    headers = sum(len(name) + len(content or b"") + HEADER_BYTES for name, content in record.headers)
    return len(record.value or b"") + len(record.key or b"") + headers


def gaps_of(begin: int, end: int, records: Sequence[StoredRecord]) -> list[Interval]:
    """Return the intervals of [begin, end) that hold none of `records`, which are in order."""
    if len(records) == end - begin:
        return []
    gaps: list[Interval] = []
    expected = begin
    for record in records:
        if record.offset > expected:
            gaps.append((expected, record.offset))
        expected = record.offset + 1
    if expected < end:
        gaps.append((expected, end))
    return gaps


def _batch(
    source: RecordSource, wanted: OffsetRange, begin: int, end: int, held: Sequence[StoredRecord]
) -> LogBatch:
    gaps = gaps_of(begin, end, held)
    if not gaps:
        return LogBatch(wanted, begin, end, tuple(held))
    unknown: list[Interval] = []
    kept: set[int] = set()
    while gaps:
        try:
            kept = source.retained_offsets(wanted.topic, wanted.partition, gaps[0][0], gaps[-1][1])
            break
        except (
            OffsetsLostError
        ) as lost:  # the cause below this offset is no longer known; the rest can still be asked
            unknown += [(first, min(last, lost.lost_end)) for first, last in gaps if first < lost.lost_end]
            gaps = [(max(first, lost.lost_end), last) for first, last in gaps if last > lost.lost_end]
    hidden, destroyed = _split(gaps, kept)
    return LogBatch(
        wanted, begin, end, tuple(held), hidden=hidden, destroyed=destroyed, unknown=tuple(unknown)
    )


def _split(gaps: Sequence[Interval], kept: set[int]) -> tuple[tuple[Interval, ...], tuple[Interval, ...]]:
    """Split gaps into offsets that the log holds but hides, and offsets that it no longer holds."""
    found: dict[bool, list[Interval]] = {True: [], False: []}
    for begin, end in gaps:
        for is_kept, offsets in groupby(range(begin, end), key=kept.__contains__):
            members = list(offsets)
            found[is_kept].append((members[0], members[-1] + 1))
    return tuple(found[True]), tuple(found[False])

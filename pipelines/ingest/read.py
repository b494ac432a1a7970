"""Read: a range of offsets becomes batches that together cover it, each a file's worth.

What retention took meanwhile becomes a lost interval, never a jump. When the broker gives no more, what was
read so far is kept and the rest is said to be unread: a broken connection costs no work and no offset.
"""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam

from connectors.kafka.ports import RecordSource
from foundation.errors import OffsetsLostError, RetryLaterError
from pipelines import steps
from pipelines.ingest.elements import LogBatch, OffsetRange, RunContext, Unread
from pipelines.ingest.settings import IngestSettings
from schemas.wire import StoredRecord

UNREAD = "unread"


class Read(beam.DoFn):
    """OffsetRange -> LogBatch; Unread in the output `UNREAD`."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._source: RecordSource | None = None

    def process(self, element: OffsetRange) -> Iterator[LogBatch | beam.pvalue.TaggedOutput]:
        """Batches in order of offset."""
        if self._source is None:
            self._source = self._context.open_source()
        for found in read_range(self._source, element, self._context.settings):
            if isinstance(found, Unread):
                yield beam.pvalue.TaggedOutput(UNREAD, found)
            else:
                steps.reached("ingest.read")
                yield found

    def teardown(self) -> None:
        """Give the connection back."""
        if self._source is not None:
            self._source.close()
            self._source = None


def read_range(
    source: RecordSource, wanted: OffsetRange, settings: IngestSettings
) -> Iterator[LogBatch | Unread]:
    """Batches that cover [begin, end) without a hole; when reading stops early, one Unread at the end."""
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
                    held_bytes += len(record.value or b"") + len(record.key or b"")
                    if held_bytes >= settings.batch_bytes or len(held) >= settings.batch_records:
                        yield LogBatch(wanted, begin, record.offset + 1, tuple(held))
                        begin, held, held_bytes = record.offset + 1, [], 0
            break
        except OffsetsLostError as lost:
            lost_begin = max(begin, lost.lost_begin)
            lost_end = min(wanted.end, lost.lost_end)
            if begin < lost_begin:
                yield LogBatch(wanted, begin, lost_begin, tuple(held))
            yield LogBatch(wanted, lost_begin, lost_end, (), is_lost=True)
            begin, held, held_bytes = lost_end, [], 0
        except RetryLaterError as error:
            if held:
                yield LogBatch(wanted, begin, held[-1].offset + 1, tuple(held))
                begin = held[-1].offset + 1
            yield Unread(wanted.partition, begin, str(error))
            return
    if begin < wanted.end:
        yield LogBatch(wanted, begin, wanted.end, tuple(held))

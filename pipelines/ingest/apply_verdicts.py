"""Apply verdicts: write the staged files that hold resends or conflicts again, with those outcomes in their rows.

Most files hold none and stay as they are. A resent row keeps its offset, identity and hash, and drops the sample that
the row it repeats holds already; a conflict gets its bytes from the log again, because a rejected record keeps its bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.kafka.ports import RecordSource
from connectors.lake.schema import ARRIVALS, SAMPLE_FIELDS
from foundation import syscalls
from foundation.errors import RetryLaterError
from pipelines import steps
from pipelines.ingest.decode import raw_columns
from pipelines.ingest.deduplicate import first_unread
from pipelines.ingest.elements import RunContext, StagedFile, Unread
from pipelines.ingest.write import stage
from schemas.reasons import LandOutcome
from schemas.wire import StoredRecord

FetchRaw = Callable[[str, int, Sequence[int]], Mapping[int, StoredRecord]]
"""Reads the records at these offsets of (topic, partition) again."""
JOINED_OFFSETS = 500
"""Offsets no further apart than this are read in one request, which costs about as much as so many records."""


class ApplyVerdicts(beam.DoFn):
    """Turn (path, staged file and its verdicts) into a StagedFile that can be committed."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._source: RecordSource | None = None

    def process(
        self, element: tuple[str, Mapping[str, Iterable[object]]], unread: Sequence[Unread]
    ) -> Iterator[StagedFile]:
        """Yield the file; nothing for a file behind an unread offset, which the next run reads again."""
        _, found = element
        staged = next(iter(found["staged"]))
        assert isinstance(staged, StagedFile)  # noqa: S101 - the graph joins exactly one file to its verdicts
        stop = first_unread(unread).get(staged.partition)
        if stop is not None and staged.begin >= stop:
            return
        tables = [table for table in found["verdicts"] if isinstance(table, pa.Table)]
        if tables:
            staged = apply_to_file(staged, pa.concat_tables(tables), self._fetch)
            steps.reached("ingest.apply")
        yield staged

    def teardown(self) -> None:
        """Close the connection."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _fetch(self, topic: str, partition: int, offsets: Sequence[int]) -> Mapping[int, StoredRecord]:
        if self._source is None:
            self._source = self._context.open_source()
        wanted = set(offsets)
        found: dict[int, StoredRecord] = {}
        for begin, end in merged_ranges(offsets):
            for records in self._source.read(topic, partition, begin, end):
                found.update((record.offset, record) for record in records if record.offset in wanted)
        if missing := wanted - found.keys():
            raise RetryLaterError(f"{topic}/{partition} no longer holds the record at offset {min(missing)}")
        return found


def merged_ranges(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Return intervals [begin, end) that cover `offsets`, merged where the gap is below `JOINED_OFFSETS`."""
    found: list[tuple[int, int]] = []
    for offset in sorted(offsets):
        if found and offset - found[-1][1] < JOINED_OFFSETS:
            found[-1] = (found[-1][0], offset + 1)
        else:
            found.append((offset, offset + 1))
    return found


def apply_to_file(staged: StagedFile, verdicts: pa.Table, fetch: FetchRaw) -> StagedFile:
    """Write the file again with `verdicts` applied, and remove the staged one."""
    path = Path(staged.path)
    rows = apply_verdicts(pq.read_table(path, schema=ARRIVALS), verdicts, fetch)
    written = stage(path.parent, rows, name=f"verdicts-{path.name}")
    syscalls.unlink(os.fspath(path))
    return written


def apply_verdicts(rows: pa.Table, verdicts: pa.Table, fetch: FetchRaw | None) -> pa.Table:
    """Return `rows` of one partition with `verdicts` applied by offset. Without `fetch` conflicts keep no bytes."""
    by_offset = {row["offset"]: row for row in verdicts.to_pylist()}
    is_marked = pc.is_in(rows.column("offset"), pa.array(list(by_offset), pa.int64()))
    marked = rows.filter(is_marked)
    found = [by_offset[offset] for offset in marked.column("offset").to_pylist()]
    columns = {name: marked.column(name) for name in marked.column_names}
    for field in SAMPLE_FIELDS:
        columns[field.name] = pa.nulls(marked.num_rows, field.type)
    for name in ("outcome", "reason", "detail", "resend_of"):
        columns[name] = pa.array([row[name] for row in found], pa.string())
    if fetch is not None and any(row["outcome"] == LandOutcome.REJECTED.value for row in found):
        topic, partition = marked.column("topic")[0].as_py(), marked.column("partition")[0].as_py()
        offsets = [row["offset"] for row in found if row["outcome"] == LandOutcome.REJECTED.value]
        fetched = fetch(topic, partition, offsets)
        raw = [
            fetched[row["offset"]] if row["outcome"] == LandOutcome.REJECTED.value else None for row in found
        ]
        records = raw_columns([record for record in raw if record is not None])
        for name in ("headers_json", "raw_value", "raw_key"):
            values = iter(records[name])
            kind = ARRIVALS.field(name).type
            columns[name] = pa.array([None if record is None else next(values) for record in raw], kind)
    changed = pa.Table.from_arrays([columns[name] for name in ARRIVALS.names], schema=ARRIVALS)
    return pa.concat_tables([rows.filter(pc.invert(is_marked)), changed])

"""The Beam graph of ingest; its labels are the names of the steps.

    Plan -> Spread -> Read -> Decode -> Write -> Group identities -> Deduplicate -> Join verdicts -> ApplyVerdicts -> Manifest

Ranges are spread over the workers; from Read to Write a batch stays on the worker that read it. Only identities are
shuffled, never payloads. The manifest lists the staged files for the one committer, which runs outside the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Tuple  # noqa: UP035 - Beam reads its type hints with typing's own

import apache_beam as beam
import pyarrow as pa

from foundation.documents import DocumentType
from foundation.files import MAX_FILE_BYTES, read_document, write_document
from pipelines.ingest.apply_verdicts import ApplyVerdicts
from pipelines.ingest.decode import Decode
from pipelines.ingest.deduplicate import Deduplicate
from pipelines.ingest.elements import LogBatch, OffsetRange, RunContext, StagedFile, Unread
from pipelines.ingest.read import UNREAD, Read
from pipelines.ingest.write import INDEXED, Write

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The result of one run of the graph: files to commit, and where reading stopped early."""

    files: tuple[StagedFile, ...]
    unread: tuple[Unread, ...]


STAGED: Final = DocumentType.first("manifest of a run", Manifest, max_bytes=MAX_FILE_BYTES)
"""Written and read by one run; rows are lists of the fields of `StagedFile` and `Unread`, in order."""


def build(pipeline: beam.Pipeline, ranges: Sequence[OffsetRange], context: RunContext) -> None:
    """Add the ingest of `ranges` to `pipeline`."""
    read = (
        pipeline
        | "Plan" >> beam.Create(list(ranges)).with_output_types(OffsetRange)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(Read(context)).with_outputs(UNREAD, main="batches")
    )
    unread = beam.pvalue.AsList(read[UNREAD] | "Unread" >> beam.Map(_same).with_output_types(Unread))
    written = (
        read.batches
        | "Batches" >> beam.Map(_same).with_output_types(LogBatch)
        | "Decode" >> beam.ParDo(Decode(context)).with_output_types(pa.Table)
        | "Write" >> beam.ParDo(Write(context)).with_outputs(INDEXED, main="staged")
    )
    verdicts = (
        written[INDEXED]
        | "Identities" >> beam.Map(_same).with_output_types(Tuple[int, pa.Table])  # noqa: UP006
        | "Group identities" >> beam.GroupByKey()
        | "Deduplicate" >> beam.ParDo(Deduplicate(context), unread).with_output_types(Tuple[str, pa.Table])  # noqa: UP006
    )
    staged = written.staged | "Staged" >> beam.Map(_same).with_output_types(Tuple[str, StagedFile])  # noqa: UP006
    _ = (
        {"staged": staged, "verdicts": verdicts}
        | "Join verdicts" >> beam.CoGroupByKey()
        | "ApplyVerdicts" >> beam.ParDo(ApplyVerdicts(context), unread).with_output_types(StagedFile)
        | "Collect" >> beam.combiners.ToList()
        | "Manifest" >> beam.Map(_write_manifest, unread, str(context.staging_folder / MANIFEST))
    )


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest that the graph wrote into `folder`. Raises CorruptError."""
    return read_document(folder / MANIFEST, STAGED)


def _same(element: Any) -> Any:
    return element


def _write_manifest(files: Sequence[StagedFile], unread: Sequence[Unread], path: str) -> None:
    files = sorted(files, key=lambda f: (f.partition, f.begin))
    write_document(path, STAGED, Manifest(tuple(files), tuple(sorted(unread))))

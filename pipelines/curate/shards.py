"""Steps 5 and 6: write the kept frames with their payloads to a few large files, byte for byte reproducible.

A fragment is cut into one piece per shard (each payload is read once), then the pieces of a shard are merged,
sorted by payload sha256 and written with row groups of a fixed size. Refuses a payload whose bytes do not have
its sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from foundation.errors import CorruptError, RetryLaterError
from pipelines.curate.fragments import Fragment, UnavailablePayload, read_payloads
from pipelines.curate.params import Params
from pipelines.curate.shard_rows import logical_rows, shard_schema

_NO_DICTIONARY = frozenset({"payload", "payload_sha256", "image_hash", "boxes"})


class CutPieces(beam.DoFn):
    """A fragment's JSON -> (shard, path of the fragment's rows in it), one per shard."""

    def __init__(self, work: str, blobs: str, params: Params) -> None:
        self._work = Path(work)
        self._blobs = blobs
        self._params = params
        self._kept: dict[str, pl.DataFrame] | None = None

    def process(self, element: str) -> Iterator[tuple[str, str]]:
        """Read the payloads of the fragment's kept rows once and write one piece per shard."""
        fragment = Fragment.from_json(element)
        if self._kept is None:
            kept = (
                pl.scan_parquet(self._work / "resolved.parquet")
                .filter(pl.col("shard").is_not_null())
                .collect()
            )
            self._kept = {str(key[0]): part for key, part in kept.group_by("fragment_id")}
        rows = self._kept[fragment.fragment_id].sort("row")
        schema = shard_schema(self._params.task)
        table = logical_rows(rows.sort("payload_sha256"), self._params.task)
        payloads = {
            row: _still_there(payload, row, fragment)
            for row, payload in read_payloads(fragment, rows["row"].to_list(), self._blobs)
        }
        ordered = rows.sort("payload_sha256")
        column = [
            _checked(payloads[row], sha, fragment)
            for row, sha in ordered.select("row", "payload_sha256").iter_rows()
        ]
        table = table.append_column(schema.field("payload"), pa.array(column, pa.binary()))
        shards = ordered["shard"]
        for shard in sorted(shards.unique()):
            path = self._work / "pieces" / f"{shard}.{fragment.fragment_id}.parquet"
            pq.write_table(
                table.filter(pa.array(shards == shard)).select(schema.names), path, compression="lz4"
            )
            yield shard, str(path)


class MergeShard(beam.DoFn):
    """(shard, its pieces) -> the JSON of {shard, rows, size_bytes}, the file written to `out`."""

    def __init__(self, out: str, params: Params) -> None:
        self._out = Path(out)
        self._params = params

    def process(self, element: tuple[str, Iterable[str]]) -> Iterator[str]:
        """Write the shard: the same rows give the same file, whatever the pieces."""
        shard, pieces = element
        table = pa.concat_tables([pq.read_table(path, memory_map=True) for path in sorted(pieces)])
        schema = shard_schema(self._params.task)
        table = table.cast(schema).sort_by("payload_sha256")
        path = self._out / f"{shard}.parquet"
        pq.write_table(
            table,
            path,
            compression="zstd",
            compression_level=3,
            row_group_size=self._params.curate.shards.row_group_rows,
            use_dictionary=[name for name in schema.names if name not in _NO_DICTIONARY],
        )
        yield json.dumps({"shard": shard, "rows": table.num_rows, "size_bytes": path.stat().st_size})


def _still_there(payload: bytes | UnavailablePayload, row: int, fragment: Fragment) -> bytes:
    """Return the payload. Raises RetryLaterError without one: it was readable before; the next run removes the row."""
    if isinstance(payload, UnavailablePayload):
        raise RetryLaterError(
            f"the payload of row {row} of {fragment.path} became unreadable while the dataset was made: {payload.why}"
        )
    return payload


def _checked(payload: bytes, payload_sha256: str, fragment: Fragment) -> bytes:
    found = hashlib.sha256(payload).hexdigest()
    if found != payload_sha256:
        raise CorruptError(f"payload {payload_sha256} now has sha256 {found}", path=fragment.path)
    return payload

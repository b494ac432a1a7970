"""Compute a digest of logical rows that does not depend on files, chunks or order.

Rows are sorted by a unique key, then every column is hashed in one canonical form: its name and type, its nulls, and its
values (little-endian numbers with one NaN and nulls as zero; text as lengths and bytes; lists as lengths and flattened
values; structs field by field). Payload bytes are represented by their sha256, which was verified when they were written.
A key that is not unique is refused, because the digest would then depend on the order of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foundation.errors import GuaranteeBrokenError

_FORMAT = b"fleetloop-rows-1\0"


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


def rows_digest(table: pa.Table, key: Sequence[str]) -> str:
    """Return the lower-case hex sha256 over all columns of `table`, with its rows in order of `key`.

    Raises GuaranteeBrokenError if two rows share a key, or for a column type without a canonical form.
    """
    ordered = table.sort_by([(name, "ascending") for name in key])
    distinct = ordered.group_by(list(key)).aggregate([]).num_rows
    if distinct != ordered.num_rows:
        raise GuaranteeBrokenError(
            f"{ordered.num_rows - distinct} of {ordered.num_rows} rows share their key ({', '.join(key)})"
        )
    digest = hashlib.sha256(_FORMAT)
    digest.update(str(ordered.num_rows).encode())
    for name in sorted(ordered.column_names):
        column = ordered.column(name).combine_chunks()
        digest.update(f"\0{name}\0{_kind(column.type)}\0".encode())
        _feed(digest, column)
    return digest.hexdigest()


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return "binary"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_kind(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{field.name}:{_kind(field.type)}' for field in kind)}>"
    return str(kind)


def _feed(digest: _Hash, column: pa.Array | pa.ChunkedArray) -> None:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    kind = column.type
    digest.update(np.packbits(np.asarray(column.is_null())).tobytes())
    if _kind(kind) == "string":
        _feed_bytes(digest, column.cast(pa.large_string()).cast(pa.large_binary()))
    elif _kind(kind) == "binary":
        _feed_bytes(digest, column.cast(pa.large_binary()))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        digest.update(np.ascontiguousarray(np.asarray(lengths), dtype="<i8").tobytes())
        _feed(digest, pc.list_flatten(column))
    elif pa.types.is_struct(kind):
        for number in range(kind.num_fields):
            _feed(digest, pc.struct_field(column, number))
    elif pa.types.is_boolean(kind):
        digest.update(np.packbits(np.asarray(pc.fill_null(column, False))).tobytes())
    elif pa.types.is_floating(kind):
        values = np.array(pc.fill_null(column, 0.0), dtype="<f8")
        values[np.isnan(values)] = np.nan
        values += 0.0  # turns -0.0 into 0.0
        digest.update(values.tobytes())
    elif pa.types.is_integer(kind):
        digest.update(np.asarray(pc.fill_null(column, 0)).astype("<i8").tobytes())
    else:
        raise GuaranteeBrokenError(f"a column of type {kind} has no canonical form")


def _feed_bytes(digest: _Hash, column: pa.Array) -> None:
    lengths = pc.fill_null(pc.binary_length(column), 0)
    digest.update(np.asarray(lengths).astype("<i8").tobytes())
    present = column.drop_null()
    if len(present):
        offsets = np.frombuffer(present.buffers()[1], dtype="<i8")[
            present.offset : present.offset + len(present) + 1
        ]
        if offsets[-1] > offsets[0]:
            digest.update(memoryview(present.buffers()[2])[int(offsets[0]) : int(offsets[-1])])

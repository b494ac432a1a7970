"""The same logical rows have the same digest: however many files hold them, in whatever order they came.

Rows are sorted by a unique key, then every column is written in one canonical form and hashed: its name and
type, where it is null, and its values (little-endian numbers with every NaN alike and nulls as zero; text as
lengths and bytes; lists as lengths and their flattened values; structs field by field). Payload bytes are stood
for by their sha256, which whoever wrote them has checked. It refuses a key that is not unique, because then the
order would decide.
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
    """Lower-case hex sha256 over the rows of `table`, all of its columns, in order of `key`.

    Raises GuaranteeBrokenError when two rows share a key.
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
        values += 0.0  # one zero, not two
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

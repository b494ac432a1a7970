"""Check the columns of a Parquet recording and the values of each row.

A column that is missing or has a wrong type is a configuration error, which names the column, its type and the type
needed. A row with an invalid value is left out and counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from foundation.errors import CorruptError, MisconfiguredError
from schemas.limits import MAX_LONG, MAX_TEXT_CHARS
from schemas.reasons import Provenance

MAX_ROW_BYTES: Final = 64_000_000
"""Bound on the mean uncompressed size of the rows of a row group that holds pictures."""
REQUIRED: Final = ("payload", "frame_id", "drive_id", "sensor_id", "capture_time_ns")
DEFAULTS: Final[dict[str, Any]] = {
    "track_id": None,
    "capture_time_uncertainty_ns": 0,
    "content_type": "image/png",
    "provenance": Provenance.REPLAYED.value,
    "calibration_ref": "",
}
_NS_PER: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}


@dataclass(frozen=True, slots=True)
class BadRow:
    """Why a row is left out: `reason` is one of a few texts, `detail` names the value."""

    reason: str
    detail: str


def check_columns(schema: Any, where: str) -> None:
    """Check that the columns can be read.

    Raises:
        MisconfiguredError: a column is missing, occurs twice or has a wrong type; names file, column, type and the type
            needed.
    """
    names = list(schema.names)
    if absent := [name for name in REQUIRED if name not in names]:
        raise MisconfiguredError(f"{where} has no column {', '.join(absent)} (it has {', '.join(names)})")
    for name in (*REQUIRED, *DEFAULTS):
        if names.count(name) > 1:
            raise MisconfiguredError(
                f"{where} has {names.count(name)} columns named {name}; it must have one"
            )
        if name in names:
            kind = _plain(schema.field(name).type)
            if wanted := _WANTED[name](kind):
                raise MisconfiguredError(f"{where}: the column {name} is {kind}; it must be {wanted}")


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_bytes(kind: Any) -> bool:
    is_view = getattr(pa.types, "is_binary_view", lambda _: False)
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or is_view(kind)
    )


def _is_text(kind: Any) -> bool:
    is_view = getattr(pa.types, "is_string_view", lambda _: False)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or is_view(kind))


def _payload(kind: Any) -> str:
    if _is_bytes(kind) or pa.types.is_null(kind):
        return ""
    if pa.types.is_struct(kind) and any(_is_bytes(part.type) and part.name == "bytes" for part in kind):
        return ""
    return "binary, the bytes of an encoded picture (or a struct with `bytes`), not a path and not pixels"


def _name(kind: Any) -> str:
    return (
        "" if _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind) else "text or an integer"
    )


def _text(kind: Any) -> str:
    return "" if _is_text(kind) or pa.types.is_null(kind) else "text"


def _whole(kind: Any) -> str:
    return "" if pa.types.is_integer(kind) or pa.types.is_null(kind) else "an integer, in nanoseconds"


def _time(kind: Any) -> str:
    if pa.types.is_integer(kind) or (pa.types.is_timestamp(kind) and kind.tz):
        return ""
    wanted = "an integer in nanoseconds since 1970 (UTC), or a timestamp with a unit and a time zone"
    return f"{wanted}; this one has no zone" if pa.types.is_timestamp(kind) else wanted


_WANTED: Final = {
    "payload": _payload,
    "frame_id": _name,
    "drive_id": _name,
    "sensor_id": _name,
    "track_id": _name,
    "capture_time_ns": _time,
    "capture_time_uncertainty_ns": _whole,
    "content_type": _text,
    "provenance": _text,
    "calibration_ref": _text,
}


def times_in_ns(batch: Any) -> Any:
    """Return the column `capture_time_ns` in nanoseconds, as Python integers so that none overflows 64 bits."""
    column = batch.column("capture_time_ns")
    if not pa.types.is_timestamp(column.type):
        return column.to_pylist()
    factor = _NS_PER[column.type.unit]
    return [None if value is None else value * factor for value in column.cast(pa.int64()).to_pylist()]


def check_size(group: Any, path: Path, names: Collection[str], row_bytes: int = MAX_ROW_BYTES) -> None:
    """Check the size of columns of a row group from the footer, before anything is read: unpacking could exhaust memory.

    Raises:
        CorruptError: more than `row_bytes` per row on average.
    """
    columns = (group.column(number) for number in range(group.num_columns))
    size = sum(each.total_uncompressed_size for each in columns if each.path_in_schema.split(".")[0] in names)
    if size > group.num_rows * row_bytes:
        raise CorruptError(
            f"a row group has {size} bytes in {group.num_rows} rows; the limit is {row_bytes} bytes per row",
            path=path,
        )


def payload_of(value: Any) -> bytes | None:
    """Return the bytes of a payload cell; None if it has none."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def fault_of(row: Mapping[str, Any]) -> BadRow | None:
    """Return what is wrong with the values of a row; None if nothing is. The payload is not checked."""
    for name in REQUIRED[1:]:
        if row.get(name) is None:
            return BadRow(f"{name} is null", f"frame {row.get('frame_id')!r}")
    for name in ("frame_id", "drive_id", "sensor_id", "track_id", "content_type", "calibration_ref"):
        text = "" if row.get(name) is None else str(row[name])
        if len(text) > MAX_TEXT_CHARS or "\0" in text or (not text and name in REQUIRED):
            bound = f"1 to {MAX_TEXT_CHARS} characters without NUL"
            return BadRow(f"{name} does not have {bound}", f"{text[:60]!r}, {len(text)} characters")
    for name, least in (("capture_time_ns", 1), ("capture_time_uncertainty_ns", 0)):
        value = row.get(name)
        if value is not None and not least <= value <= MAX_LONG:
            return BadRow(
                f"{name} is out of range", f"{value} in frame {row['frame_id']!r}, {least} to {MAX_LONG}"
            )
    try:
        Provenance(str(row.get("provenance") or Provenance.REPLAYED).lower())
    except ValueError:
        allowed = ", ".join(each.value for each in Provenance)
        return BadRow(
            f"provenance is none of {allowed}", f"{row['provenance']!r} in frame {row['frame_id']!r}"
        )
    return None

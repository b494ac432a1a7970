"""Read pictures together with their label and drive: from a Parquet file, or from a folder and its labels.

A row without payload, drive or label is refused and counted; a column of a wrong type is a MisconfiguredError with
its name, its type and the type needed. The drive decides the split, so none is ever made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.labels.label_set import Refusal
from connectors.labels.picture_sets import FolderPictures
from connectors.sensors.parquet_columns import check_size, payload_of
from foundation.errors import MisconfiguredError

WANTED: Final = {
    "payload": "binary, the bytes of an encoded picture (or a struct with `bytes`)",
    "class_name": "text",
    "boxes": "a list of structs with class_name (text), left, top, right and bottom (numbers, pixels)",
    "drive_id": "text or an integer",
    "track_id": "text or an integer",
}
_LISTS: Final = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_fixed_size_list)


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """One picture with its label as somebody wrote it. `where` is its place in the file or folder that it comes from."""

    payload: bytes
    value: Any
    drive_id: str
    track_id: str | None
    where: str


def read_labelled_parquet(
    file: Path, refused: list[Refusal], column: str = "class_name"
) -> Iterator[LabelledPicture]:
    """Yield the rows of a Parquet file with payload, the label column, drive_id and, if known, track_id.

    Refused rows are added to `refused`.

    Raises:
        MisconfiguredError: not Parquet, or a column is missing or of a type that is not read.
        CorruptError: a row group is larger than a picture per row can be.
    """
    try:
        parquet = pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise MisconfiguredError(f"{file} cannot be read as Parquet: {error}") from error
    schema = parquet.schema_arrow
    columns = ("payload", column, "drive_id")
    if missing := [name for name in columns if name not in schema.names]:
        raise MisconfiguredError(
            f"{file} has no column {', '.join(missing)}; it has {', '.join(schema.names)}. Wanted are "
            f"{', '.join(f'{name} ({WANTED[name]})' for name in columns)}; or give a folder of pictures and --labels"
        )
    names = [name for name in (*columns, "track_id") if name in schema.names]
    for name in names:
        _check_type(file, name, schema.field(name).type)
    for group in range(parquet.num_row_groups):
        check_size(parquet.metadata.row_group(group), file, names)
    number = 0
    try:
        for batch in parquet.iter_batches(64, columns=names):
            for row in batch.to_pylist():
                number += 1
                if isinstance(found := _picture(row, f"row {number}", column), Refusal):
                    refused.append(found)
                else:
                    yield found
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"{file} cannot be read after row {number}: {error}") from error


def labelled_files(
    pictures: FolderPictures, values: Mapping[str, Any], drive_id: str
) -> Iterator[LabelledPicture]:
    """Yield the pictures of a folder that have a label in `values`, each with its sub-folder as its drive.

    `drive_id` is the drive of pictures that lie in no sub-folder.
    """
    for name in pictures.names:
        if name in values:
            drive = pictures.drive(name) or drive_id
            yield LabelledPicture(pictures.payload(name), values[name], drive, None, name)


def _check_type(file: Path, name: str, kind: Any) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or kind == pa.binary_view()
    if name == "payload":
        parts = {part.name: part.type for part in kind} if pa.types.is_struct(kind) else {}
        holds = is_bytes or pa.types.is_binary(parts.get("bytes", pa.null()))
    elif name == "boxes":
        holds = any(is_list(kind) for is_list in _LISTS) and pa.types.is_struct(kind.value_type)
    else:
        holds = is_text or (name != "class_name" and pa.types.is_integer(kind))
    if not holds and not pa.types.is_null(kind):
        raise MisconfiguredError(f"{file}: the column {name} is {kind}; wanted is {WANTED[name]}")


def _picture(row: dict[str, Any], where: str, column: str) -> LabelledPicture | Refusal:
    payload = payload_of(row["payload"])
    if not payload:
        return Refusal(where, "", "no payload")
    for name in (column, "drive_id"):
        if row[name] is None or not str(row[name]).strip():
            return Refusal(where, "", f"no {name}")
    track = row.get("track_id")
    return LabelledPicture(
        payload, row[column], str(row["drive_id"]), None if track is None else str(track), where
    )

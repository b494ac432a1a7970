"""Recorded frames from Parquet files, a few rows in memory at a time; labels in them are never read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.sensors.parquet_columns import (
    DEFAULTS,
    REQUIRED,
    check_columns,
    fault_of,
    payload_of,
    times_in_ns,
)
from connectors.sensors.ports import Observation, SourceNote
from foundation.errors import CorruptError, MisconfiguredError, RejectedError
from schemas.reasons import Provenance

MAX_PAYLOAD_BYTES: Final = 64_000_000
"""Mean size of the payloads of a row group, unpacked: a larger one is no picture and is not read."""
NO_PAYLOAD: Final = "taken: no payload (null, or a path only), counted as an unreadable image"
IN_1970: Final = "taken: a capture time in January 1970; is it in another unit than nanoseconds?"
_BATCH_ROWS: Final = 64
_JANUARY_1970_NS: Final = 31 * 86_400 * 1_000_000_000


class ParquetFrameSource:
    """The rows of a Parquet file, or of a folder's files in the order of their names.

    Columns: payload (binary, the encoded image, or a struct with `bytes`), frame_id, drive_id, sensor_id (text or
    integer), capture_time_ns (an integer in nanoseconds, or a timestamp with a zone); and, with defaults,
    track_id, capture_time_uncertainty_ns, content_type, provenance, calibration_ref. Any other column is not
    read. A row without a payload is an empty frame, which is counted as an unreadable image where it is decoded;
    a row with a value that cannot be one is left out and counted (`notes`).

    Raises:
        MisconfiguredError: no such file, or a column is missing or of a type that is not read.
        CorruptError: a file is not Parquet.
    """

    def __init__(self, path: Path, *, batch_rows: int = _BATCH_ROWS) -> None:
        self._batch_rows = batch_rows
        self.is_waiting = False
        self._notes: dict[str, SourceNote] = {}
        self._paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not self._paths or not self._paths[0].is_file():
            raise MisconfiguredError(f"{str(path)!r} is neither a Parquet file nor a folder of them")
        for each in self._paths:
            check_columns(_open(each).schema_arrow, str(each))

    def observations(self, resume_after: str | None = None) -> Iterator[Observation]:
        """See `ObservationSource.observations`. A frame's `resume_place` names file and row, for frame ids repeat."""
        begin = (0, 0) if resume_after is None else self._place_after(resume_after)
        for number, path in enumerate(self._paths):
            if number >= begin[0]:
                yield from self._rows(path, begin[1] if number == begin[0] else 0)

    def notes(self) -> Mapping[str, SourceNote]:
        """See `ObservationSource.notes`."""
        return dict(self._notes)

    def close(self) -> None:
        """Nothing is held open between two frames but the reader of the running iteration."""

    def _place_after(self, place: str) -> tuple[int, int]:
        """(file, row) after a place, or after the one frame with this id, found by reading that column."""
        found = []
        for number, path in enumerate(self._paths):
            row = 0
            for batch in _batches(path, ["frame_id"], range(_open(path).num_row_groups), 8192):
                for offset, name in enumerate(batch.column(0).to_pylist()):
                    if place == _place(path, row + offset, str(name)):
                        return number, row + offset + 1
                    if place == str(name):
                        found.append((number, row + offset + 1))
                row += batch.num_rows
        if len(found) == 1:
            return found[0]
        how_many = "no frame" if not found else f"not one frame but {len(found)} frames"
        raise RejectedError(
            f"there is {how_many} {place!r} in {self._paths[0]} to resume after", reason="unknown_frame"
        )

    def _rows(self, path: Path, skip: int) -> Iterator[Observation]:
        file = _open(path)
        names = [name for name in (*REQUIRED, *DEFAULTS) if name in file.schema_arrow.names]
        number = skip
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if skip >= rows:
                skip -= rows
                continue
            _check_payload_size(file.metadata.row_group(group), path)
            for batch in _batches(path, names, [group], self._batch_rows):
                part = batch.slice(min(skip, batch.num_rows))
                times = times_in_ns(part)
                other = part.select([name for name in names if name != "capture_time_ns"])
                for row, time_ns in zip(_values(other, path), times, strict=True):
                    frame = self._frame(row | {"capture_time_ns": time_ns}, path, number)
                    number += 1
                    if frame is not None:
                        yield frame
                skip = max(0, skip - batch.num_rows)

    def _frame(self, row: dict[str, Any], path: Path, number: int) -> Observation | None:
        where = f"{path.name}, row {number + 1}"
        if bad := fault_of(row):
            self._note(f"left out: {bad.reason}", f"{where}: {bad.detail}")
            return None
        values = DEFAULTS | {name: value for name, value in row.items() if value is not None}
        payload = payload_of(row["payload"])
        if payload is None:
            self._note(NO_PAYLOAD, where)
        if values["capture_time_ns"] < _JANUARY_1970_NS:
            self._note(IN_1970, f"{where}: {values['capture_time_ns']}")
        return Observation(
            frame_id=str(values["frame_id"]),
            drive_id=str(values["drive_id"]),
            sensor_id=str(values["sensor_id"]),
            track_id=None if values["track_id"] is None else str(values["track_id"]),
            capture_time_ns=int(values["capture_time_ns"]),
            capture_time_uncertainty_ns=int(values["capture_time_uncertainty_ns"]),
            content_type=str(values["content_type"]) or str(DEFAULTS["content_type"]),
            payload=payload or b"",
            provenance=Provenance(str(values["provenance"]).lower()),
            calibration_ref=str(values["calibration_ref"]),
            place=_place(path, number, str(values["frame_id"])),
        )

    def _note(self, words: str, first: str) -> None:
        note = self._notes.get(words)
        self._notes[words] = SourceNote(note.count + 1, note.first) if note else SourceNote(1, first)


def _place(path: Path, row: int, frame_id: str) -> str:
    """A row's own name in a recording: with the frame id, so that another file in its place is noticed."""
    return f"{path.name}\0{row}\0{frame_id}"


def _check_payload_size(group: Any, path: Path) -> None:
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema.split(".")[0] == "payload":
            most = group.num_rows * MAX_PAYLOAD_BYTES
            if column.total_uncompressed_size > most:
                raise CorruptError(
                    f"payloads of {column.total_uncompressed_size} bytes in {group.num_rows} rows; "
                    f"the limit is {MAX_PAYLOAD_BYTES} bytes each",
                    path=path,
                )


def _values(batch: Any, path: Path) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError as error:
        raise CorruptError(f"a text is not UTF-8: {error}", path=path) from error


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise CorruptError(f"not a Parquet file: {error}", path=path) from error
    except OSError as error:
        raise MisconfiguredError(f"cannot read {path}: {error}") from error


def _batches(path: Path, names: list[str], groups: Any, rows: int) -> Iterator[Any]:
    try:
        yield from _open(path).iter_batches(batch_size=rows, row_groups=list(groups), columns=names)
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(f"the data cannot be read: {error}", path=path) from error

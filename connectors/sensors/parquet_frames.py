"""Recorded frames from Parquet files, one row group in memory at a time; labels in them are never read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.sensors.ports import Frame
from foundation.errors import CorruptError, MisconfiguredError, RejectedError
from schemas.reasons import Provenance

REQUIRED: Final = ("payload", "frame_id", "drive_id", "sensor_id", "capture_time_ns")
DEFAULTS: Final[dict[str, Any]] = {
    "track_id": None,
    "capture_time_uncertainty_ns": 0,
    "content_type": "image/png",
    "provenance": Provenance.REPLAYED.value,
    "calibration_ref": "",
}
_BATCH_ROWS: Final = 64


class ParquetFrameSource:
    """The rows of a Parquet file, or of a folder's files in the order of their names.

    Columns: payload (binary, the encoded image), frame_id, drive_id, sensor_id (text), capture_time_ns
    (int64); and, with defaults, track_id, capture_time_uncertainty_ns, content_type, provenance,
    calibration_ref. Any other column is not read. A null payload is an empty one, which is counted as an
    unreadable image where it is decoded.

    Raises:
        MisconfiguredError: no such file, or a required column is missing.
        CorruptError: a file is not Parquet.
    """

    def __init__(self, path: Path, *, batch_rows: int = _BATCH_ROWS) -> None:
        self._batch_rows = batch_rows
        self._paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not self._paths or not self._paths[0].is_file():
            raise MisconfiguredError(f"{str(path)!r} is neither a Parquet file nor a folder of them")
        for each in self._paths:
            names = _open(each).schema_arrow.names
            if absent := [name for name in REQUIRED if name not in names]:
                raise MisconfiguredError(
                    f"{each} has no column {', '.join(absent)} (it has {', '.join(names)})"
                )

    def frames(self, resume_after: str | None = None) -> Iterator[Frame]:
        """See `FrameSource.frames`. Raises RejectedError (reason invalid_value) at a row that cannot be a
        frame.
        """
        begin = (0, 0) if resume_after is None else self._place_after(resume_after)
        for number, path in enumerate(self._paths):
            if number >= begin[0]:
                yield from self._rows(path, begin[1] if number == begin[0] else 0)

    def close(self) -> None:
        """Nothing is held open between two frames but the reader of the running iteration."""

    def _place_after(self, frame_id: str) -> tuple[int, int]:
        """(file, row) after the frame, found by reading that one column."""
        for number, path in enumerate(self._paths):
            row = 0
            for batch in _batches(path, ["frame_id"], range(_open(path).num_row_groups), 8192):
                names = batch.column(0).to_pylist()
                if frame_id in names:
                    return number, row + names.index(frame_id) + 1
                row += len(names)
        raise RejectedError(
            f"there is no frame {frame_id!r} in {self._paths[0]} to resume after", reason="unknown_frame"
        )

    def _rows(self, path: Path, skip: int) -> Iterator[Frame]:
        file = _open(path)
        names = [name for name in (*REQUIRED, *DEFAULTS) if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if skip >= rows:
                skip -= rows
                continue
            for batch in _batches(path, names, [group], self._batch_rows):
                for row in batch.slice(min(skip, batch.num_rows)).to_pylist():
                    yield _frame(row, path)
                skip = max(0, skip - batch.num_rows)


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
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"the data cannot be read: {error}", path=path) from error


def _frame(row: dict[str, Any], path: Path) -> Frame:
    told = {name: value for name, value in row.items() if value is not None}
    values = DEFAULTS | told
    if absent := [name for name in REQUIRED[1:] if name not in values]:
        raise RejectedError(
            f"{path}: {', '.join(absent)} is null in frame {row['frame_id']!r}", reason="invalid_value"
        )
    try:
        provenance = Provenance(values["provenance"])
    except ValueError as error:
        allowed = ", ".join(each.value for each in Provenance)
        raise RejectedError(
            f"{path}: provenance is {values['provenance']!r} in {row['frame_id']!r}; it must be {allowed}",
            reason="invalid_value",
        ) from error
    return Frame(
        frame_id=str(values["frame_id"]),
        drive_id=str(values["drive_id"]),
        sensor_id=str(values["sensor_id"]),
        track_id=None if values["track_id"] is None else str(values["track_id"]),
        capture_time_ns=int(values["capture_time_ns"]),
        capture_time_uncertainty_ns=int(values["capture_time_uncertainty_ns"]),
        content_type=str(values["content_type"]),
        payload=bytes(values.get("payload", b"")),
        provenance=provenance,
        calibration_ref=str(values["calibration_ref"]),
    )

"""A source that reads recorded observations from Parquet files, a few rows at a time. Label columns are never read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.sensors.parquet_columns import (
    DEFAULTS,
    REQUIRED,
    check_columns,
    check_size,
    fault_of,
    payload_of,
    times_in_ns,
)
from connectors.sensors.ports import Observation, SourceNote
from foundation.errors import CorruptError, MisconfiguredError, RejectedError
from schemas.reasons import Provenance

NO_PAYLOAD: Final = "taken: no payload (null, or a path only), counted as an unreadable image"
NOT_UTF8: Final = "left out: a text is not UTF-8"
IN_1970: Final = "taken: a capture time in January 1970; is it in another unit than nanoseconds?"
_BATCH_ROWS: Final = 64
_JANUARY_1970_NS: Final = 31 * 86_400 * 1_000_000_000


class ParquetFrameSource:
    """The rows of a Parquet file, or of all Parquet files of a folder in the order of their names.

    Columns: payload (binary, the encoded image, or a struct with `bytes`), frame_id, drive_id, sensor_id (text or
    integer), capture_time_ns (an integer in nanoseconds, or a timestamp with a time zone); and optionally track_id,
    capture_time_uncertainty_ns, content_type, provenance, calibration_ref. Any other column is ignored. A row without a
    payload becomes an observation with an empty payload, which is counted as an unreadable image where it is decoded; a
    row with an invalid value is left out and counted (`notes`).

    Raises:
        MisconfiguredError: a file does not exist or may not be read, or a column is missing or has a wrong type.
        CorruptError: a file is not Parquet or is damaged; also raised while reading, when the damage is reached.
    """

    def __init__(self, path: Path, *, batch_rows: int = _BATCH_ROWS) -> None:
        self._batch_rows = batch_rows
        self.is_waiting = self.is_live = False
        self._notes: dict[str, SourceNote] = {}
        self._paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not self._paths or not self._paths[0].is_file():
            raise MisconfiguredError(f"{str(path)!r} is neither a Parquet file nor a folder of them")
        for each in self._paths:
            with _opened(each) as file:
                check_columns(file.schema_arrow, str(each))

    def observations(self, resume_after: str | None = None) -> Iterator[Observation]:
        """See `ObservationSource.observations`. `resume_place` names file and row, because frame ids may repeat."""
        begin = (0, 0) if resume_after is None else self._place_after(resume_after)
        for number, path in enumerate(self._paths):
            if number >= begin[0]:
                yield from self._rows(path, begin[1] if number == begin[0] else 0)

    def notes(self) -> Mapping[str, SourceNote]:
        """See `ObservationSource.notes`."""
        return dict(self._notes)

    def close(self) -> None:
        """Do nothing: only a running iteration holds a file open."""

    def _place_after(self, place: str) -> tuple[int, int]:
        """Return (file, row) after a place, or after the only row with this frame id, found by reading that column."""
        found = []
        for number, path in enumerate(self._paths):
            row = 0
            with _opened(path) as file:
                for batch in file.iter_batches(batch_size=8192, columns=["frame_id"]):
                    for values in _values(batch):
                        row += 1
                        name = str(values["frame_id"]) if values else None
                        if place == _place(path, row - 1, str(name)):
                            return number, row
                        if place == name:
                            found.append((number, row))
        if len(found) == 1:
            return found[0]
        how_many = "no frame" if not found else f"not one frame but {len(found)} frames"
        raise RejectedError(
            f"there is {how_many} {place!r} in {self._paths[0]} to resume after", reason="unknown_frame"
        )

    def _rows(self, path: Path, skip: int) -> Iterator[Observation]:
        number = skip
        with _opened(path) as file:
            names = [name for name in (*REQUIRED, *DEFAULTS) if name in file.schema_arrow.names]
            others = [name for name in names if name != "capture_time_ns"]
            for group in range(file.num_row_groups):
                metadata = file.metadata.row_group(group)
                if skip >= metadata.num_rows:
                    skip -= metadata.num_rows
                    continue
                check_size(metadata, path, names)
                for batch in file.iter_batches(self._batch_rows, row_groups=[group], columns=names):
                    part = batch.slice(min(skip, batch.num_rows))
                    skip = max(0, skip - batch.num_rows)
                    for row, time_ns in zip(_values(part.select(others)), times_in_ns(part), strict=True):
                        frame = self._frame(row and row | {"capture_time_ns": time_ns}, path, number)
                        number += 1
                        if frame is not None:
                            yield frame

    def _frame(self, row: dict[str, Any] | None, path: Path, number: int) -> Observation | None:
        where = f"{path.name}, row {number + 1}"
        if row is None:
            self._note(NOT_UTF8, where)
            return None
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
    """Return the name of a row within a recording; the frame id in it reveals a file that was replaced."""
    return f"{path.name}\0{row}\0{frame_id}"


def _values(batch: Any) -> list[dict[str, Any] | None]:
    """Return the values of each row; None for a row with text that is not UTF-8."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        half = batch.num_rows // 2
        return _values(batch.slice(0, half)) + _values(batch.slice(half))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield the open file; errors inside the context become CorruptError or MisconfiguredError."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise CorruptError(f"not Parquet, or damaged: {error}", path=path) from error
    except OSError as error:
        if error.errno is None:  # not of the operating system: the file ends early, or cannot be unpacked
            raise CorruptError(f"not Parquet, or damaged: {error}", path=path) from error
        raise MisconfiguredError(f"cannot read {path}: {error}") from error

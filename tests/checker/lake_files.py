"""The rows of the lake's table of arrivals, read from its files, every payload and raw value hashed here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from tests.checker.told import Identity, InputError

_COLUMNS = (
    "origin", "topic", "topic_id", "partition", "offset", "offset_end", "outcome", "resend_of", "supersedes",
    "vehicle_id", "epoch", "seq", "value_sha256", "payload_sha256", "payload_uri",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One row of arrivals. The two last digests are of the bytes in the row; None where it holds none."""

    topic_id: str
    partition: int
    offset: int
    outcome: str | None
    identity: Identity | None
    value_sha256: str | None
    origin: str = "log"
    offset_end: int = -1
    resend_of: str | None = None
    supersedes: str | None = None
    payload_sha256: str | None = None
    payload_uri: str | None = None
    payload_digest: str | None = None
    raw_value_digest: str | None = None

    @property
    def place(self) -> str:
        """The form in which another row points at this one."""
        return f"{self.topic_id}/{self.partition}/{self.offset}"


def read_rows(uri: str, topic: str) -> list[Row]:
    """Every row of `topic` in the newest version of the table.

    Raises:
        InputError: there is no table, or it lacks a column.
    """
    try:
        table = DeltaTable(uri)
    except TableNotFoundError as error:
        raise InputError(f"there is no table at {uri}") from error
    rows: list[Row] = []
    for name in table.file_uris():
        rows += _rows(_read(name), topic)
    return rows


def _read(name: str) -> pa.Table:
    import pyarrow.parquet as pq

    wanted = [*_COLUMNS, "payload", "raw_value"]
    found = pq.ParquetFile(name.removeprefix("file://"))
    missing = set(wanted) - set(found.schema_arrow.names)
    if missing:
        raise InputError(f"{name} lacks the columns {sorted(missing)}")
    return found.read(columns=wanted)


def _rows(table: pa.Table, topic: str) -> list[Row]:
    columns: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in _COLUMNS}
    payloads = [_digest(value) for value in table.column("payload")]
    raw_values = [_digest(value) for value in table.column("raw_value")]
    rows = []
    for index in range(table.num_rows):
        cell = {name: values[index] for name, values in columns.items()}
        if cell.pop("topic") != topic:
            continue
        vehicle, epoch, seq = cell.pop("vehicle_id"), cell.pop("epoch"), cell.pop("seq")
        identity = None if vehicle is None or seq is None else Identity(vehicle, epoch, seq)
        rows.append(
            Row(
                **cell,
                identity=identity,
                payload_digest=payloads[index],
                raw_value_digest=raw_values[index],
            )
        )
    return rows


def _digest(value: pa.Scalar) -> str | None:
    buffer = value.as_buffer()
    return None if buffer is None else hashlib.sha256(buffer).hexdigest()

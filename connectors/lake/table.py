"""A lake table: many readers at fixed versions, and commits that say on which version they stand.

A Delta table of immutable Parquet files. A file is written in full and synced before a commit names it; a
commit either adds all of its files or none. This layer never changes or deletes a row, never reads "the
newest" behind the caller's back (a `Snapshot` stays at its version), and never lets a commit land on another
version than the one it was made for. Tables are folders of a local file system: a lake in an object store is
refused, not half supported.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from connectors.lake.pruning import dataset_of, statistics_json
from connectors.lake.schema import STATISTICS_COLUMNS
from foundation import syscalls
from foundation.errors import MisconfiguredError, RetryLaterError
from foundation.files import fsync_folder

TABLE_SETTINGS = {
    # Only `connectors.lake.retention` may shorten the log, and it knows which versions datasets name.
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.appendOnly": "true",
}
PAYLOAD_COLUMNS = frozenset({"payload", "raw_value", "signature"})
"""Bytes that do not get smaller: compressed images and signatures are stored as they are."""
READER_VERSION = 1
"""Of the Delta protocol: files as they stand, no deletion vectors, no renamed columns."""
APPEND_ROUNDS = 16
"""Rounds that an append without an expected version makes against other writers."""


class StaleSnapshotError(RetryLaterError):
    """Somebody else committed first: nothing was committed here; read the new snapshot and plan again."""


@dataclass(frozen=True, slots=True)
class LakeFile:
    """One Parquet file inside the table's folder, not part of the table until a commit names it."""

    path: str
    """Relative to the table's folder, with "/"."""
    size_bytes: int
    rows: int
    statistics_json: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A table at one version. Reads give the same rows for ever."""

    table: LakeTable
    version: int
    delta: DeltaTable

    def dataset(self) -> pads.Dataset:
        """The rows as a pyarrow dataset: columns and filters are pushed down, files that cannot pass left out.

        Raises MisconfiguredError for a table of a kind that this layer does not make: partitioned, or of a newer format.
        """
        protocol, partitions = self.delta.protocol(), self.delta.metadata().partition_columns
        if protocol.min_reader_version != READER_VERSION or partitions:
            raise MisconfiguredError(
                f"lake table {self.table.folder} needs reader version {protocol.min_reader_version} and has partition "
                f"columns {partitions}; only version {READER_VERSION} without partition columns is read"
            )
        return dataset_of(self.table.folder, pa.schema(self.delta.schema().to_arrow()), self.files())

    def read(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
    ) -> pa.Table:
        """Rows that pass `filter`, in no promised order."""
        return self.dataset().to_table(columns=list(columns) if columns is not None else None, filter=filter)

    def batches(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
        batch_rows: int = 1024,
    ) -> Iterator[pa.RecordBatch]:
        """Like `read`, a bounded number of rows at a time: for columns that hold payloads."""
        chosen = list(columns) if columns is not None else None
        yield from self.dataset().to_batches(
            columns=chosen, filter=filter, batch_size=batch_rows, batch_readahead=1, fragment_readahead=1
        )

    def count(self, filter: pc.Expression | None = None) -> int:  # noqa: A002
        """How many rows pass `filter`."""
        return int(self.dataset().count_rows(filter=filter))

    def files(self) -> pa.Table:
        """One row a file: path, size_bytes, num_records and flattened statistics ("min.seq", "max.seq")."""
        return pa.table(self.delta.get_add_actions(flatten=True))

    def mark(self, name: str) -> int | None:
        """The number last committed under `name` at or before this version (see `LakeTable.commit_files`)."""
        found = self.delta.transaction_version(name)
        return None if found is None else int(found)


class LakeTable:
    """One table of the lake, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, uri: str | Path) -> LakeTable:
        """Raises MisconfiguredError when there is no table there, or when `uri` is no local folder."""
        table = cls(local_folder(uri))
        table._load(None)
        return table

    @classmethod
    def create(cls, uri: str | Path, schema: pa.Schema) -> LakeTable:
        """Make the table, or open it when it is there; columns that it lacks are added, null in every older row.

        Raises MisconfiguredError naming the columns that differ in type, and those that `schema` does not know.
        """
        folder = local_folder(uri)
        if not DeltaTable.is_deltatable(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                DeltaTable.create(
                    str(folder), schema=schema, name=folder.name, configuration=dict(TABLE_SETTINGS)
                )
            except DeltaError:
                if not DeltaTable.is_deltatable(str(folder)):  # else another process made it in between
                    raise
            _sync_log(folder, 0)
        table = cls(folder)
        held = pa.schema(table._load(None).schema().to_arrow())
        wanted = {field.name: str(field.type) for field in schema}
        found = {field.name: str(field.type) for field in held}
        missing = [field for field in schema if field.name not in found]
        if missing and {k: v for k, v in wanted.items() if k in found} == found:
            table._add_columns(missing)
        elif wanted != found:
            differing = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
            raise MisconfiguredError(
                f"lake table {folder} has other columns than expected: {', '.join(differing)}"
            )
        return table

    @property
    def uri(self) -> str:
        """Where the table is."""
        return str(self.folder)

    def version(self) -> int:
        """The newest version at this moment."""
        return int(self._load(None).version())

    def table_id(self) -> str:
        """The id that the table got at its creation; a table made anew has another one."""
        return str(self._load(None).metadata().id)

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The table at `version`, the newest when none is given.

        Raises MisconfiguredError when there is no such version (or when the log behind it was trimmed away).
        """
        delta = self._load(version)
        return Snapshot(self, int(delta.version()), delta)

    def commit_files(
        self,
        files: Sequence[LakeFile],
        *,
        expected_version: int,
        marks: Mapping[str, int] | None = None,
        note: Mapping[str, str] | None = None,
    ) -> int:
        """Add all `files` in one commit: it becomes version `expected_version + 1`, or nothing at all.

        The files are written and synced already. `marks` are numbers kept under a name from this version on
        (`Snapshot.mark`); `note` is written into the commit for people. Returns the new version.

        Raises StaleSnapshotError when another commit was first; nothing was added then.
        """
        newest = self.version()
        if newest != expected_version:
            raise StaleSnapshotError(f"lake table {self.folder} is at {newest}, not at {expected_version}")
        delta = self._load(expected_version)
        now_ms = time.time_ns() // 1_000_000
        properties = CommitProperties(
            custom_metadata=dict(note or {}),
            max_commit_retries=0,  # a retry would land on a version that nobody planned for
            app_transactions=[
                Transaction(app_id=name, version=number) for name, number in (marks or {}).items()
            ],
        )
        try:
            delta.create_write_transaction(
                [AddAction(f.path, f.size_bytes, {}, now_ms, True, f.statistics_json) for f in files],
                mode="append",
                schema=delta.schema(),
                commit_properties=properties,
                post_commithook_properties=PostCommitHookProperties(
                    create_checkpoint=True, cleanup_expired_logs=False
                ),
            )
        except CommitFailedError as error:
            raise StaleSnapshotError(
                f"lake table {self.folder}: another commit became version {expected_version + 1} first"
            ) from error
        _sync_log(self.folder, expected_version + 1)
        return expected_version + 1

    def append(self, rows: pa.Table, *, expected_version: int | None = None) -> int:
        """Add `rows` as one file in one commit and return the new version; no rows, no commit.

        Raises StaleSnapshotError as `commit_files`; MisconfiguredError when the columns differ from the
        table's.
        """
        if rows.num_rows == 0:
            return self.version()
        wanted = pa.schema(self._load(None).schema().to_arrow())
        if set(rows.column_names) != set(wanted.names):
            differing = sorted(set(rows.column_names) ^ set(wanted.names))
            raise MisconfiguredError(
                f"rows for lake table {self.folder} differ in columns: {', '.join(differing)}"
            )
        path = f"rows/{uuid.uuid4().hex}.parquet"
        written = write_parquet(self.folder, path, rows.select(wanted.names).cast(wanted))
        if expected_version is not None:
            return self.commit_files([written], expected_version=expected_version)
        for _ in range(APPEND_ROUNDS - 1):
            try:
                return self.commit_files([written], expected_version=self.version())
            except StaleSnapshotError:
                continue
        return self.commit_files([written], expected_version=self.version())

    def _add_columns(self, missing: Sequence[pa.Field]) -> None:
        """Commit the table's columns with `missing` behind them, in one version that holds no new rows."""
        delta = self._load(None)
        fields = Schema.from_arrow(pa.schema(missing)).fields
        try:
            delta.alter.add_columns(
                fields,
                commit_properties=CommitProperties(max_commit_retries=0),
                post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
            )
        except CommitFailedError as error:
            raise StaleSnapshotError(
                f"lake table {self.folder}: another commit was first while columns were added"
            ) from error
        _sync_log(self.folder, int(delta.version()))

    def _load(self, version: int | None) -> DeltaTable:
        try:
            return DeltaTable(str(self.folder), version=version)
        except TableNotFoundError as error:
            if version is None or not DeltaTable.is_deltatable(str(self.folder)):
                raise MisconfiguredError(f"there is no lake table at {self.folder}") from error
            raise MisconfiguredError(
                f"lake table {self.folder} has no version {version} (any more)"
            ) from error
        except DeltaError as error:
            raise MisconfiguredError(
                f"lake table {self.folder} cannot be read at version {version}: {error}"
            ) from error


def write_parquet(folder: Path, path: str, rows: pa.Table, *, row_group_rows: int = 2048) -> LakeFile:
    """Write `rows` to `folder/path` through a temporary file, fsync and rename, and describe the file."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("wb") as out:
        pq.write_table(
            rows,
            out,
            compression={f.name: "none" if f.name in PAYLOAD_COLUMNS else "zstd" for f in rows.schema},
            compression_level={f.name: 1 for f in rows.schema if f.name not in PAYLOAD_COLUMNS},
            row_group_size=row_group_rows,
            use_dictionary=[f.name for f in rows.schema if _repeats(f)],
            write_statistics=[name for name in STATISTICS_COLUMNS if name in rows.column_names],
        )
        out.flush()
        syscalls.fsync(out.fileno())
    syscalls.rename(temporary, target)
    fsync_folder(target.parent)
    return LakeFile(path, target.stat().st_size, rows.num_rows, statistics_json(rows))


def _repeats(field: pa.Field) -> bool:
    return pa.types.is_string(field.type) and not field.name.endswith("sha256")


def local_folder(uri: str | Path) -> Path:
    """The folder that `uri` names. Raises MisconfiguredError for anything but a local file system."""
    text = str(uri).removeprefix("file://")
    if "://" in text:
        raise MisconfiguredError(
            f"lake address {uri} is not a local folder; only local folders are supported"
        )
    return Path(text)


def _sync_log(folder: Path, version: int) -> None:
    """Make a commit survive power loss: delta-rs itself does not sync its log."""
    log = folder / "_delta_log"
    with (log / f"{version:020d}.json").open("rb") as entry:
        syscalls.fsync(entry.fileno())
    fsync_folder(log)

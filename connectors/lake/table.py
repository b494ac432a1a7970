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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from connectors.lake.address import local_folder
from connectors.lake.pruning import dataset_of, statistics_json
from connectors.lake.schema import STATISTICS_COLUMNS, TABLES
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
WRITER_VERSIONS = frozenset({1, 2, 3, 4, 5, 7})
WRITER_FEATURES = frozenset(
    {"appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns"}
)
"""Features of the Delta protocol under which a file of new rows may be added as it is."""
OWN_COLUMNS = frozenset(name for schema in TABLES.values() for name in schema.names)
"""Of all tables; another writer's column has another name."""
ROWS_MARK = "fleetloop-rows"
"""The mark that counts all rows ever committed here."""
_HARMLESS = frozenset(
    {
        "WRITE",
        "CREATE TABLE",
        "OPTIMIZE",
        "ADD COLUMN",
        "ADD COLUMNS",
        "VACUUM START",
        "VACUUM END",
        "UPGRADE PROTOCOL",
    }
)
APPEND_ROUNDS = 16
"""Rounds that an append without an expected version makes against other writers."""


class StaleSnapshotError(RetryLaterError):
    """Somebody else committed first: nothing was committed here; read the new snapshot and plan again."""


class FilesGoneError(MisconfiguredError):
    """A version names a file that is not there any more."""

    def __init__(self, folder: Path, version: int, path: str) -> None:
        super().__init__(
            f"lake table {folder}: version {version} names {path}, which is gone: VACUUM of another engine takes the files of"
            " older versions. Use the newest version (`fleetloop dataset lock`), and let `fleetloop lake` alone remove files"
        )


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
        with self._files_there():
            return self.dataset().to_table(
                columns=list(columns) if columns is not None else None, filter=filter
            )

    def batches(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
        batch_rows: int = 1024,
    ) -> Iterator[pa.RecordBatch]:
        """Like `read`, a bounded number of rows at a time: for columns that hold payloads."""
        chosen = list(columns) if columns is not None else None
        with self._files_there():
            yield from self.dataset().to_batches(
                columns=chosen, filter=filter, batch_size=batch_rows, batch_readahead=1, fragment_readahead=1
            )

    def count(self, filter: pc.Expression | None = None) -> int:  # noqa: A002
        """How many rows pass `filter`."""
        with self._files_there():
            return int(self.dataset().count_rows(filter=filter))

    def check_files(self) -> None:
        """Return when every file of the version is there. Raises FilesGoneError."""
        for path in self.files().column("path").to_pylist():
            if not (self.table.folder / path).is_file():
                raise FilesGoneError(self.table.folder, self.version, path)

    @contextmanager
    def _files_there(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            self.check_files()
            raise FilesGoneError(self.table.folder, self.version, str(error)) from error

    def files(self) -> pa.Table:
        """One row a file: path, size_bytes, num_records and flattened statistics ("min.seq", "max.seq")."""
        found = pa.table(self.delta.get_add_actions(flatten=True))
        place = found.column_names.index("path")
        paths = [unquote(path) for path in found.column(place).to_pylist()]
        return found.set_column(place, "path", pa.array(paths, pa.string()))

    def row_count(self) -> int | None:
        """How many rows the version holds by its files' entries; None when another writer gave no counts."""
        counts = self.files().column("num_records")
        return None if counts.null_count else int(pc.sum(counts).as_py() or 0)

    def missing_rows(self) -> int:
        """So many rows were committed here and are not in this version any more: another engine took them away."""
        held = self.row_count()
        return 0 if held is None else max(0, (self.mark(ROWS_MARK) or 0) - held)

    def foreign_change(self) -> tuple[int, str] | None:
        """Version and name of the newest operation that may have taken rows away; None when none is known."""
        for entry in self.delta.history():
            operation = str(entry.get("operation", ""))
            if operation.upper() not in _HARMLESS and not entry.get("fleetloop.run"):
                return int(entry["version"]), operation
        return None

    def check_writable(self) -> None:
        """Return when files may be added to the table as it is.

        Raises MisconfiguredError naming what another writer turned on that is not honoured here.
        """
        protocol = self.delta.protocol()
        unknown = sorted(set(protocol.writer_features or ()) - WRITER_FEATURES)
        unknown += sorted(set(protocol.reader_features or ()) - set(unknown))
        if (
            protocol.min_reader_version > READER_VERSION
            or protocol.min_writer_version not in WRITER_VERSIONS
            or unknown
        ):
            features = f" and has the features {', '.join(unknown)}" if unknown else ""
            raise MisconfiguredError(
                f"lake table {self.table.folder} needs reader version {protocol.min_reader_version}, writer version"
                f" {protocol.min_writer_version}{features}, which another writer turned on; this one writes version"
                f" {', '.join(map(str, sorted(WRITER_VERSIONS)))} with {', '.join(sorted(WRITER_FEATURES))}: restore the"
                " version before, or begin a new lake"
            )

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

        Columns that another writer added are left to it: null in the rows that are written here.

        Raises MisconfiguredError naming the columns that differ in type, and strange ones that may not be null.
        """
        folder = local_folder(uri)
        if not DeltaTable.is_deltatable(_address(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                DeltaTable.create(
                    _address(folder), schema=schema, name=folder.name, configuration=dict(TABLE_SETTINGS)
                )
            except DeltaError as error:
                if not DeltaTable.is_deltatable(_address(folder)):  # else another process made it in between
                    raise MisconfiguredError(
                        f"lake table {folder} cannot be made: {_words(error)}"
                    ) from error
            _sync_log(folder, 0)
        table = cls(folder)
        held = pa.schema(table._load(None).schema().to_arrow())
        wanted = {field.name: str(field.type) for field in schema}
        found = {field.name: str(field.type) for field in held}
        differing = [
            f"{name} ({found[name]}, not {wanted[name]})"
            for name in wanted
            if found.get(name, wanted[name]) != wanted[name]
        ]
        differing += [
            f"{f.name} (not of this table)"
            for f in held
            if f.name not in wanted and (not f.nullable or f.name in OWN_COLUMNS)
        ]
        if differing:
            raise MisconfiguredError(
                f"lake table {folder} has other columns than expected: {', '.join(differing)}; restore the version before"
                " they were changed, or begin a new lake"
            )
        if missing := [field for field in schema if field.name not in found]:
            table._add_columns(missing)
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

        Raises:
            StaleSnapshotError: another commit was first; nothing was added then.
            MisconfiguredError: the table does not take it (a feature that another writer turned on).
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
                Transaction(app_id=name, version=number)
                for name, number in {**(marks or {}), **self._rows_after(expected_version, files)}.items()
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
            if (
                int(self._load(None).version()) == expected_version
            ):  # nobody was first: it is not to be committed at all
                raise MisconfiguredError(
                    f"lake table {self.folder} does not take what is written here: {_words(error)}"
                ) from error
            raise StaleSnapshotError(
                f"lake table {self.folder}: another commit became version {expected_version + 1} first"
            ) from error
        _sync_log(self.folder, expected_version + 1)
        return expected_version + 1

    def _rows_after(self, version: int, files: Sequence[LakeFile]) -> dict[str, int]:
        """The mark that counts all rows ever committed, once `files` are; none when the table does not know its rows."""
        before = self.snapshot(version)
        held = before.row_count()
        if held is None:
            return {}
        return {ROWS_MARK: max(held, before.mark(ROWS_MARK) or 0) + sum(file.rows for file in files)}

    def append(self, rows: pa.Table, *, expected_version: int | None = None) -> int:
        """Add `rows` as one file in one commit and return the new version; no rows, no commit.

        Raises StaleSnapshotError as `commit_files`; MisconfiguredError when the columns differ from the
        table's.
        """
        if rows.num_rows == 0:
            return self.version()
        wanted = pa.schema(self._load(None).schema().to_arrow())
        strange = {f.name for f in wanted if f.nullable} - {*rows.column_names, *OWN_COLUMNS}
        if differing := set(rows.column_names) ^ (set(wanted.names) - strange):
            raise MisconfiguredError(
                f"rows for lake table {self.folder} differ in columns: {', '.join(sorted(differing))}"
            )
        for name in sorted(strange):  # another writer's
            rows = rows.append_column(name, pa.nulls(rows.num_rows, wanted.field(name).type))
        self.snapshot().check_writable()
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
            return DeltaTable(_address(self.folder), version=version)
        except TableNotFoundError as error:
            if version is None or not DeltaTable.is_deltatable(_address(self.folder)):
                raise MisconfiguredError(f"there is no lake table at {self.folder}") from error
            raise MisconfiguredError(
                f"lake table {self.folder} has no version {version} (any more)"
            ) from error
        except DeltaError as error:
            raise MisconfiguredError(
                f"lake table {self.folder} cannot be read at version {version}: {_words(error)}"
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


def _address(folder: Path) -> str:
    """`folder` for delta-rs.

    Raises MisconfiguredError for a name with "%": delta-rs takes "my%20lake" for "my lake", which is another folder.
    """
    place = folder.absolute()
    if "%" in str(place):
        raise MisconfiguredError(
            f'lake folder {place} has a "%" in its name, under which Delta opens another folder'
        )
    return place.as_uri()


def _words(error: BaseException) -> str:
    """What a person needs of an error of delta-rs: its first line, without the backtrace behind it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def _sync_log(folder: Path, version: int) -> None:
    """Make a commit survive power loss: delta-rs itself does not sync its log."""
    log = folder / "_delta_log"
    with (log / f"{version:020d}.json").open("rb") as entry:
        syscalls.fsync(entry.fileno())
    fsync_folder(log)

"""A lake table: readers at fixed versions, and commits that name the version they are based on.

A Delta table of immutable Parquet files. A file is written in full and synced before a commit refers to it; a commit adds
all of its files or none. This layer never changes or deletes a row, never moves a `Snapshot` to another version, and
never commits on a version other than the one that the caller names. Tables are folders of a local file system; object
stores are refused.
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
from foundation.files import fsync_folder, naming_file
from foundation.full_disk import naming_the_disk

TABLE_SETTINGS = {
    # Only `connectors.lake.retention` may trim the log, because it knows which versions datasets refer to.
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.appendOnly": "true",
}
PAYLOAD_COLUMNS = frozenset({"payload", "raw_value", "signature"})
"""Columns stored without compression: encoded images and signatures do not get smaller."""
READER_VERSION = 1
"""Version of the Delta protocol: no deletion vectors and no column mapping."""
WRITER_VERSIONS = frozenset({1, 2, 3, 4, 5, 7})
WRITER_FEATURES = frozenset(
    {"appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns"}
)
"""Features of the Delta protocol under which files of new rows may be added without further work."""
OWN_COLUMNS = frozenset(name for schema in TABLES.values() for name in schema.names)
"""Columns of all tables; a column of another writer has another name."""
ROWS_COMMITTED = "fleetloop-rows"
"""Name of the application transaction that counts all rows ever committed here."""
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
"""Attempts of an append without an expected version while other writers commit."""


class StaleSnapshotError(RetryLaterError):
    """Another writer committed first. Nothing was committed here; take a new snapshot and plan again."""


class FilesGoneError(MisconfiguredError):
    """A version refers to a file that no longer exists."""

    def __init__(self, folder: Path, version: int, path: str) -> None:
        super().__init__(
            f"lake table {folder}: version {version} refers to {path}, which no longer exists: a VACUUM of another engine"
            " removes the files of older versions. Use the newest version (`fleetloop dataset lock`), and let only"
            " `fleetloop lake` remove files"
        )


@dataclass(frozen=True, slots=True)
class LakeFile:
    """A Parquet file inside the table's folder; it is not part of the table until a commit refers to it."""

    path: str
    """Relative to the table's folder, with "/"."""
    size_bytes: int
    rows: int
    statistics_json: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A table at one version. Reads always return the same rows."""

    table: LakeTable
    version: int
    delta: DeltaTable

    def dataset(self, files: pa.Table | None = None) -> pads.Dataset:
        """Return the rows as a pyarrow dataset, with projection and filter push-down and file pruning.

        Args:
            files: rows of `files()`; only these are read.

        Raises MisconfiguredError for a table that is partitioned or needs a newer reader.
        """
        protocol, partitions = self.delta.protocol(), self.delta.metadata().partition_columns
        if protocol.min_reader_version != READER_VERSION or partitions:
            raise MisconfiguredError(
                f"lake table {self.table.folder} needs reader version {protocol.min_reader_version} and has partition "
                f"columns {partitions}; only version {READER_VERSION} without partition columns is read"
            )
        return dataset_of(
            self.table.folder,
            pa.schema(self.delta.schema().to_arrow()),
            self.files() if files is None else files,
        )

    def read(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
        files: pa.Table | None = None,
    ) -> pa.Table:
        """Return the rows that pass `filter`, of `files` (rows of `files()`) or of all, in unspecified order."""
        with self._files_there():
            return self.dataset(files).to_table(
                columns=list(columns) if columns is not None else None, filter=filter
            )

    def batches(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
        batch_rows: int = 1024,
        files: pa.Table | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows as `read` does, at most `batch_rows` at a time: for columns that hold payloads, or for many rows."""
        chosen = list(columns) if columns is not None else None
        with self._files_there():
            yield from self.dataset(files).to_batches(
                columns=chosen, filter=filter, batch_size=batch_rows, batch_readahead=1, fragment_readahead=1
            )

    def count(self, filter: pc.Expression | None = None) -> int:  # noqa: A002
        """Return how many rows pass `filter`."""
        with self._files_there():
            return int(self.dataset().count_rows(filter=filter))

    def check_files(self) -> None:
        """Check that every file of the version exists. Raises FilesGoneError."""
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
        """Return one row per file: path, size_bytes, num_records and flattened statistics ("min.seq", "max.seq")."""
        found = pa.table(self.delta.get_add_actions(flatten=True))
        place = found.column_names.index("path")
        paths = [unquote(path) for path in found.column(place).to_pylist()]
        return found.set_column(place, "path", pa.array(paths, pa.string()))

    def row_count(self) -> int | None:
        """Return the number of rows by the entries of the files; None if another writer gave no counts."""
        counts = self.files().column("num_records")
        return None if counts.null_count else int(pc.sum(counts).as_py() or 0)

    def rows(self) -> int:
        """Return the number of rows, without opening a file unless another writer gave no counts."""
        counted = self.row_count()
        return self.count() if counted is None else counted

    def missing_rows(self) -> int:
        """Return how many rows that were committed here are missing, because another engine removed them."""
        held = self.row_count()
        return 0 if held is None else max(0, (self.app_transaction(ROWS_COMMITTED) or 0) - held)

    def foreign_change(self) -> tuple[int, str] | None:
        """Return version and name of the newest operation that may have removed rows; None if there is none."""
        for entry in self.delta.history():
            operation = str(entry.get("operation", ""))
            if operation.upper() not in _HARMLESS and not entry.get("fleetloop.run"):
                return int(entry["version"]), operation
        return None

    def check_writable(self) -> None:
        """Check that files may be added to the table.

        Raises MisconfiguredError, which names the protocol features of another writer that are not supported here.
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
                f" {protocol.min_writer_version}{features}, which another writer turned on; this writer supports versions"
                f" {', '.join(map(str, sorted(WRITER_VERSIONS)))} with {', '.join(sorted(WRITER_FEATURES))}: restore the"
                " previous version, or begin a new lake"
            )

    def app_transaction(self, name: str) -> int | None:
        """Return the number of an application transaction at this version, or None (see `LakeTable.commit_files`)."""
        found = self.delta.transaction_version(name)
        return None if found is None else int(found)


class LakeTable:
    """One table of the lake, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, uri: str | Path) -> LakeTable:
        """Open an existing table. Raises MisconfiguredError if there is none, or if `uri` is not a local folder."""
        table = cls(local_folder(uri))
        table._load(None)
        return table

    @classmethod
    def create(cls, uri: str | Path, schema: pa.Schema) -> LakeTable:
        """Create the table, or open it and add the columns that it lacks, null in every older row.

        Columns that another writer added are kept; they are null in the rows that are written here.

        Raises MisconfiguredError, which names columns of another type and unknown columns that may not be null.
        """
        folder = local_folder(uri)
        if not DeltaTable.is_deltatable(_address(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with naming_the_disk(folder):
                    DeltaTable.create(
                        _address(folder), schema=schema, name=folder.name, configuration=dict(TABLE_SETTINGS)
                    )
            except DeltaError as error:
                if not DeltaTable.is_deltatable(_address(folder)):  # else another process made it in between
                    raise MisconfiguredError(
                        f"lake table {folder} cannot be created: {_first_line(error)}"
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
            f"{f.name} (unknown)"
            for f in held
            if f.name not in wanted and (not f.nullable or f.name in OWN_COLUMNS)
        ]
        if differing:
            raise MisconfiguredError(
                f"lake table {folder} has other columns than expected: {', '.join(differing)}; restore the version before"
                " the change, or begin a new lake"
            )
        if missing := [field for field in schema if field.name not in found]:
            table._add_columns(missing)
        return table

    @property
    def uri(self) -> str:
        """The path of the table."""
        return str(self.folder)

    def version(self) -> int:
        """Return the newest version."""
        return int(self._load(None).version())

    def table_id(self) -> str:
        """Return the id that the table got at its creation; a recreated table has another one."""
        return str(self._load(None).metadata().id)

    def snapshot(self, version: int | None = None) -> Snapshot:
        """Return the table at `version`, by default at the newest.

        Raises MisconfiguredError if there is no such version, or if its log was trimmed.
        """
        delta = self._load(version)
        return Snapshot(self, int(delta.version()), delta)

    def commit_files(
        self,
        files: Sequence[LakeFile],
        *,
        expected_version: int,
        app_transactions: Mapping[str, int] | None = None,
        note: Mapping[str, str] | None = None,
    ) -> int:
        """Add all `files` in one commit, which becomes version `expected_version + 1`, or add none.

        The files are already written and synced. `app_transactions` are numbers that later versions return by name
        (`Snapshot.app_transaction`); `note` is stored in the commit for people. Returns the new version.

        Raises:
            StaleSnapshotError: another commit was first; nothing was added then.
            MisconfiguredError: the table refuses the commit (a feature that another writer turned on).
        """
        newest = self.version()
        if newest != expected_version:
            raise StaleSnapshotError(f"lake table {self.folder} is at {newest}, not at {expected_version}")
        delta = self._load(expected_version)
        now_ms = time.time_ns() // 1_000_000
        properties = CommitProperties(
            custom_metadata=dict(note or {}),
            max_commit_retries=0,  # a retry would commit on a version that was not planned on
            app_transactions=[
                Transaction(app_id=name, version=number)
                for name, number in {
                    **(app_transactions or {}),
                    **self._rows_after(expected_version, files),
                }.items()
            ],
        )
        try:
            with naming_the_disk(self.folder):
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
            ):  # no other commit was first: the table refuses this one
                raise MisconfiguredError(
                    f"lake table {self.folder} refuses the commit: {_first_line(error)}"
                ) from error
            raise StaleSnapshotError(
                f"lake table {self.folder}: another commit became version {expected_version + 1} first"
            ) from error
        _sync_log(self.folder, expected_version + 1)
        return expected_version + 1

    def _rows_after(self, version: int, files: Sequence[LakeFile]) -> dict[str, int]:
        """Return the count of rows ever committed, `files` included; empty if the table has no row counts."""
        before = self.snapshot(version)
        held = before.row_count()
        if held is None:
            return {}
        return {
            ROWS_COMMITTED: max(held, before.app_transaction(ROWS_COMMITTED) or 0)
            + sum(file.rows for file in files)
        }

    def append(self, rows: pa.Table, *, expected_version: int | None = None) -> int:
        """Add `rows` as one file in one commit and return the new version; without rows there is no commit.

        Raises StaleSnapshotError as `commit_files`; MisconfiguredError if the columns differ from those of the table.
        """
        if rows.num_rows == 0:
            return self.version()
        wanted = pa.schema(self._load(None).schema().to_arrow())
        strange = {f.name for f in wanted if f.nullable} - {*rows.column_names, *OWN_COLUMNS}
        if differing := set(rows.column_names) ^ (set(wanted.names) - strange):
            raise MisconfiguredError(
                f"rows for lake table {self.folder} differ in columns: {', '.join(sorted(differing))}"
            )
        for name in sorted(strange):  # columns of another writer
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
        """Append the columns `missing` to the table in one commit without rows."""
        delta = self._load(None)
        fields = Schema.from_arrow(pa.schema(missing)).fields
        try:
            with naming_the_disk(self.folder):
                delta.alter.add_columns(
                    fields,
                    commit_properties=CommitProperties(max_commit_retries=0),
                    post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
                )
        except CommitFailedError as error:
            raise StaleSnapshotError(
                f"lake table {self.folder}: another commit came first while columns were added"
            ) from error
        _sync_log(self.folder, int(delta.version()))

    def _load(self, version: int | None) -> DeltaTable:
        try:
            return DeltaTable(_address(self.folder), version=version)
        except TableNotFoundError as error:
            if version is None or not DeltaTable.is_deltatable(_address(self.folder)):
                raise MisconfiguredError(f"there is no lake table at {self.folder}") from error
            raise MisconfiguredError(
                f"lake table {self.folder} has no version {version}, or no longer has it"
            ) from error
        except DeltaError as error:
            raise MisconfiguredError(
                f"lake table {self.folder} cannot be read at version {version}: {_first_line(error)}"
            ) from error


def write_parquet(folder: Path, path: str, rows: pa.Table, *, row_group_rows: int = 2048) -> LakeFile:
    """Write `rows` to `folder/path` (temporary file, fsync, rename) and return the file's description."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    with naming_the_disk(target), temporary.open("wb") as out:
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
    """Return the URI of `folder` for delta-rs.

    Raises MisconfiguredError for a name with "%": delta-rs would open "my lake" for "my%20lake".
    """
    place = folder.absolute()
    if "%" in str(place):
        raise MisconfiguredError(
            f'lake folder {place} has a "%" in its name, which delta-rs would decode and open another folder'
        )
    return place.as_uri()


def _first_line(error: BaseException) -> str:
    """Return the first line of an error of delta-rs, without the backtrace after it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def _sync_log(folder: Path, version: int) -> None:
    """Sync the log entry of a commit, which delta-rs does not do, so that it survives power loss."""
    log = folder / "_delta_log"
    path = log / f"{version:020d}.json"
    with naming_file(path), path.open("rb") as entry:
        syscalls.fsync(entry.fileno())
    fsync_folder(log)

"""Dead letters: rejected records, and their replay after a fix. Committed rows are never changed.

A replay verifies rejected rows again from the bytes they kept. A row that passes now gets a second row with `origin`
"replay", the offset of the rejection, and `supersedes` pointing at it; as in ingest it is landed, or resent when its
identity landed before. So each offset keeps exactly one row of `origin` "log", and a rejection gets at most one replay
row: replaying twice does nothing. A row that still fails, conflicts included, stays as it is. A batch that could not
be decompressed is decompressed again; the dead letter of its first offset holds the bytes of the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.kafka.batches import UnreadableRecord, records_of
from connectors.kafka.source import stored_at
from connectors.lake.schema import ARRIVALS, Origin, place
from connectors.lake.seen import landed_identities
from connectors.lake.table import LakeTable, Snapshot, StaleSnapshotError
from foundation.clock import Clock
from foundation.errors import CorruptError, RejectedError, RetryLaterError
from foundation.full_disk import naming_the_disk
from pipelines import steps
from pipelines.ingest.apply_verdicts import apply_verdicts
from pipelines.ingest.commit import commit_renamed, rename_files
from pipelines.ingest.decode import accepted_rows, blob_store, headers_of, verify_and_decode
from pipelines.ingest.deduplicate import duplicate_verdicts
from pipelines.ingest.elements import OffsetRange, StagedFile
from pipelines.ingest.settings import IngestSettings
from pipelines.ingest.staging import REPLAY_FOLDER, commit_lock, run_folder
from pipelines.ingest.verdicts import INDEX
from pipelines.ingest.write import index_by_shard, stage
from schemas.reasons import LandOutcome, RejectReason
from schemas.signing import Enrolment
from schemas.wire import StoredRecord

BATCH_ROWS = 1024
UNPACKED_ROWS = 64
"""Records of a decompressed batch that are held in memory at once; each may have 2 MiB."""
Place = tuple[str, int, int]
"""topic_id, partition, offset."""
LISTED = (
    "topic",
    "topic_id",
    "partition",
    "offset",
    "kafka_time_ms",
    "ingest_time_ns",
    "reason",
    "detail",
    "vehicle_id",
    "epoch",
    "seq",
    "value_sha256",
)
_RAW = (
    "cluster",
    "topic",
    "topic_id",
    "partition",
    "offset",
    "kafka_time_ms",
    "reason",
    "raw_value",
    "raw_key",
    "headers_json",
)


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """Counts of one replay: tried = landed + resent + sum of still_rejected."""

    version_before: int
    version_after: int
    tried: int = 0
    landed: int = 0
    resent: int = 0
    still_rejected: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """Return the report as a JSON object."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


def dead_letters(snapshot: Snapshot, reason: RejectReason | None = None) -> pa.Table:
    """Return the open dead letters, which no replay superseded: columns `LISTED` and `value_bytes`, by offset."""
    columns = {name: pc.field(name) for name in LISTED} | {
        "value_bytes": pc.binary_length(pc.field("raw_value"))
    }
    found = snapshot.dataset().to_table(columns=columns, filter=_rejected(reason))
    done = _superseded(snapshot)
    is_open = [name not in done for name in _places(found)]
    found = found.filter(pa.array(is_open, pa.bool_()))
    return found.sort_by([("topic_id", "ascending"), ("partition", "ascending"), ("offset", "ascending")])


def replay(
    table: LakeTable,
    enrolment: Enrolment,
    settings: IngestSettings,
    clock: Clock,
    reason: RejectReason | None = None,
) -> ReplayReport:
    """Verify the open dead letters again and commit those that pass in one commit: of one `reason`, or all but over_quota.

    What a vehicle sent beyond its quota lands only where that is what the operator asks for.

    Raises RetryLaterError when other committers were first in `replans` + 1 attempts, or the disk refuses (DiskError).
    """
    started_ns = clock.monotonic_ns()
    stale: StaleSnapshotError | None = None
    for _ in range(settings.replans + 1):
        try:
            with naming_the_disk(table.folder):
                report = _attempt(table, enrolment, settings, clock, reason)
        except StaleSnapshotError as error:
            stale = error
            continue
        seconds = (clock.monotonic_ns() - started_ns) / 1e9
        return ReplayReport(
            report.version_before,
            report.version_after,
            report.tried,
            report.landed,
            report.resent,
            report.still_rejected,
            seconds,
        )
    raise RetryLaterError(f"other committers were first {settings.replans + 1} times: {stale}") from stale


def _attempt(
    table: LakeTable,
    enrolment: Enrolment,
    settings: IngestSettings,
    clock: Clock,
    reason: RejectReason | None,
) -> ReplayReport:
    snapshot = table.snapshot()
    blobs = blob_store(settings.blobs)
    still: Counter[str] = Counter()
    tried = 0
    with run_folder(table, settings.commit_wait_s, clock) as (run_id, folder):
        files: list[StagedFile] = []
        indexes: list[pa.Table] = []
        for source, records in _open_letters(snapshot, reason):
            tried += len(records)
            accepted, rejected = verify_and_decode(records, enrolment, blobs)
            still.update(str(one.reason) for one in rejected)
            if not accepted:
                continue
            rows = _as_replay(accepted_rows(source, accepted, clock.now_ns()))
            staged = stage(folder, rows, name=f"replay-{len(files):05d}.parquet")
            files.append(staged)
            indexes += [index for _, index in index_by_shard(rows, staged.path, 1)]
        if not files:
            return ReplayReport(snapshot.version, snapshot.version, tried, 0, 0, dict(sorted(still.items())))
        index = pa.concat_tables(indexes) if indexes else INDEX.empty_table()
        duplicates = duplicate_verdicts(index, landed_identities(snapshot, index))
        with_verdicts = [_without_conflicts(file, duplicates) for file in files]
        conflicts = duplicates.filter(pc.field("outcome") == LandOutcome.REJECTED.value).num_rows
        if conflicts:
            still[RejectReason.CONFLICT.value] += conflicts
        kept = [file for file in with_verdicts if file is not None]
        version = (
            _commit(table, kept, snapshot.version, run_id, settings, clock) if kept else snapshot.version
        )
    landed = sum(file.landed for file in kept)
    resent = sum(file.resent for file in kept)
    return ReplayReport(snapshot.version, version, tried, landed, resent, dict(sorted(still.items())))


def _commit(
    table: LakeTable,
    files: Sequence[StagedFile],
    version: int,
    run_id: str,
    settings: IngestSettings,
    clock: Clock,
) -> int:
    with commit_lock(table, settings.commit_wait_s, clock):
        if table.version() != version:
            raise StaleSnapshotError(f"replayed on version {version}, but the table is at {table.version()}")
        moves = [(file, f"{REPLAY_FOLDER}/{n:05d}-{run_id}.parquet") for n, file in enumerate(files)]
        renamed = rename_files(table, moves)
        steps.reached("replay.rename")
        commit_renamed(table, renamed, version, run_id, {})
        steps.reached("replay.commit")
    return version + 1


def _without_conflicts(staged: StagedFile, duplicates: pa.Table) -> StagedFile | None:
    """Return the file with its verdicts and without rows that stay rejected; None when no row is left."""
    own = duplicates.filter(pc.field("path") == staged.path)
    if own.num_rows == 0:
        return staged
    path = Path(staged.path)
    rows = apply_verdicts(pq.read_table(path, schema=ARRIVALS), own, None)
    rows = rows.filter(pc.field("outcome") != LandOutcome.REJECTED.value)
    return stage(path.parent, rows, name=f"verdicts-{path.name}") if rows.num_rows else None


def _open_letters(
    snapshot: Snapshot, reason: RejectReason | None
) -> Iterator[tuple[OffsetRange, list[StoredRecord]]]:
    """Yield open dead letters with their bytes, a bounded number at a time, each list from one partition.

    Dead letters of an unreadable batch are yielded as the records that can be decompressed now.
    """
    done = _superseded(snapshot)
    packed = _open_packed(snapshot, done) if reason in (None, RejectReason.UNREADABLE_BATCH) else set()
    wanted = _rejected(reason)
    if reason is None:
        wanted &= pc.field("reason") != RejectReason.OVER_QUOTA.value
    for batch in snapshot.batches(_RAW, wanted, BATCH_ROWS):
        of_partition: dict[OffsetRange, list[StoredRecord]] = {}
        for row in batch.to_pylist():
            source = OffsetRange(row["cluster"], row["topic"], row["topic_id"], row["partition"], 0, 0, False)
            if row["reason"] == RejectReason.UNREADABLE_BATCH:
                if row["raw_value"] is not None:
                    yield from _unpacked(source, row, packed)
                continue
            if place(row["topic_id"], row["partition"], row["offset"]) in done:
                continue
            of_partition.setdefault(source, []).append(_stored(row))
        yield from of_partition.items()
    for topic_id, partition, offset in sorted(packed):  # no stored batch holds these
        source = OffsetRange("", "", topic_id, partition, 0, 0, False)
        why = "the batch of this offset still cannot be decompressed"
        yield source, [StoredRecord(partition, offset, 0, None, None, (), why)]


def _stored(row: Mapping[str, Any]) -> StoredRecord:
    """Return the record of a dead letter; an unreadable one stays rejected and affects no other."""
    record = StoredRecord(
        row["partition"], row["offset"], row["kafka_time_ms"], row["raw_key"], row["raw_value"], ()
    )
    try:
        return replace(record, headers=headers_of(row["headers_json"]))
    except CorruptError as error:
        return replace(record, unreadable=str(error))


def _open_packed(snapshot: Snapshot, done: frozenset[str]) -> set[Place]:
    """Return the offsets of the open dead letters of unreadable batches."""
    rows = snapshot.read(["topic_id", "partition", "offset"], _rejected(RejectReason.UNREADABLE_BATCH))
    return {
        (row["topic_id"], row["partition"], row["offset"])
        for row, name in zip(rows.to_pylist(), _places(rows), strict=True)
        if name not in done
    }


def _unpacked(
    source: OffsetRange, row: Mapping[str, Any], packed: set[Place]
) -> Iterator[tuple[OffsetRange, list[StoredRecord]]]:
    """Yield the records of the batch in `row` whose offsets are in `packed`, and remove them from `packed`."""
    held: list[StoredRecord] = []
    try:
        for record in records_of(row["raw_value"]):
            at = (source.topic_id, source.partition, record.offset)
            if at not in packed or isinstance(record, UnreadableRecord):
                continue
            packed.discard(at)
            held.append(stored_at(source.partition, record))
            if len(held) >= UNPACKED_ROWS:
                yield source, held
                held = []
    except RejectedError:
        pass  # not a batch: its dead letters stay open and are reported as still unreadable
    if held:
        yield source, held


def _as_replay(rows: pa.Table) -> pa.Table:
    columns = {name: rows.column(name) for name in rows.column_names}
    columns["origin"] = pa.array([Origin.REPLAY.value] * rows.num_rows, pa.string())
    columns["supersedes"] = pa.array(_places(rows), pa.string())
    return pa.Table.from_arrays([columns[name] for name in ARRIVALS.names], schema=ARRIVALS)


def _rejected(reason: RejectReason | None) -> pc.Expression:
    condition = (pc.field("outcome") == LandOutcome.REJECTED.value) & (pc.field("origin") == Origin.LOG.value)
    return condition if reason is None else condition & (pc.field("reason") == reason.value)


def _superseded(snapshot: Snapshot) -> frozenset[str]:
    replayed = snapshot.read(["supersedes"], pc.field("origin") == Origin.REPLAY.value)
    return frozenset(replayed.column("supersedes").to_pylist())


def _places(rows: pa.Table) -> list[str]:
    triples = zip(
        *(rows.column(name).to_pylist() for name in ("topic_id", "partition", "offset")), strict=True
    )
    return [place(*triple) for triple in triples]

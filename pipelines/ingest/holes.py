"""Detect rows that another engine removed from the table, and stop ingest before it leaves a hole behind.

The table records the end offset of each partition and the number of rows ever committed as Delta application
transactions. RESTORE, DELETE and overwrite remove rows but leave those. Reading on would leave offsets without a row for
ever, so ingest stops until an operator has decided.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from connectors.kafka.ports import TopicInfo
from connectors.lake.schema import Origin
from connectors.lake.table import Snapshot
from foundation.errors import MisconfiguredError

Place = tuple[str, str, int]
"""Cluster, topic id and number of a partition."""


def position_name(topic: TopicInfo, partition: int) -> str:
    """Return the name of the application transaction that holds the next offset to read of a partition."""
    return f"fleetloop-next-offset/{topic.cluster_id}/{topic.topic_id}/{partition}"


def find_holes(snapshot: Snapshot, places: Iterable[Place] = ()) -> list[str]:
    """Return one message per partition whose rows end before its recorded end, and one if rows are missing in total.

    Partitions that appear in no file statistics are checked only if they are among `places`. The end of a partition is
    in the statistics of its last file, in the log; only if it is not, files are read.
    """
    found = []
    ends = _ends_of_files(snapshot)
    for cluster, topic_id, partition in sorted({*places, *ends}):
        end = snapshot.app_transaction(position_name(TopicInfo(cluster, "", topic_id, ()), partition)) or 0
        held = max(ends.get((cluster, topic_id, partition), 0), 0)
        if held < end:
            held = _rows_end(snapshot, topic_id, partition, end)
        if held < end:
            found.append(
                f"partition {partition} of topic {topic_id} was read up to offset {end}, but its rows end at offset {held}"
            )
    if missing := snapshot.missing_rows():
        found.append(f"{missing} committed rows are missing")
    return found


def check_no_holes(snapshot: Snapshot, places: Iterable[Place]) -> None:
    """Raise MisconfiguredError if rows are missing; it names them, the version that removed them, and the remedy."""
    if holes := find_holes(snapshot, places):
        foreign = snapshot.foreign_change()
        who = f"; version {foreign[0]} is a {foreign[1]} of another engine" if foreign else ""
        version = foreign[0] - 1 if foreign else "before"
        raise MisconfiguredError(
            f"lake table {snapshot.table.folder}: {'; '.join(holes)}{who}. Ingest does not continue past a hole: restore"
            f" version {version}, or begin a new lake"
        )


def _ends_of_files(snapshot: Snapshot) -> dict[Place, int]:
    """Return, for each partition that has a file of its own, where the rows of the log end by the files' statistics.

    Ingest writes files of one partition each. The end is 0 where the statistics do not say it.
    """
    files = snapshot.files()
    names = ("cluster", "topic_id", "partition")
    columns = [f"{kind}.{name}" for name in names for kind in ("min", "max")]
    if not set(columns) <= set(files.column_names):
        return {}
    for name in names:
        files = files.filter(pc.equal(pc.field(f"min.{name}"), pc.field(f"max.{name}")))
    end = _end_by_statistics(files)
    grouped = files.select([f"min.{name}" for name in names]).append_column("end", end)
    by_place = grouped.group_by([f"min.{name}" for name in names]).aggregate([("end", "max")])
    return {
        (row["min.cluster"], row["min.topic_id"], row["min.partition"]): row["end_max"]
        for row in by_place.to_pylist()
    }


def _end_by_statistics(files: pa.Table) -> pa.ChunkedArray:
    """Return the end of the log's rows in each file, 0 if it is not known or the file has replayed rows."""
    zeros = pa.chunked_array([pa.array([0] * files.num_rows, pa.int64())])
    if not {"min.origin", "max.origin", "max.offset"} <= set(files.column_names):
        return zeros
    least, most = files["min.origin"], files["max.origin"]
    replay = Origin.REPLAY.value
    is_of_log = pc.and_(pc.not_equal(least, replay), pc.not_equal(most, replay))
    last = pc.add(files["max.offset"], 1)  # exact where the last row is a record
    if "max.offset_end" in files.column_names:
        last = pc.coalesce(files["max.offset_end"], last)
    return pc.fill_null(pc.if_else(is_of_log, last, zeros), 0)


def _rows_end(snapshot: Snapshot, topic_id: str, partition: int, end: int) -> int:
    """Return the offset at which the rows of a partition end; `end` if they reach it."""
    of_log = (
        (pc.field("topic_id") == topic_id)
        & (pc.field("partition") == partition)
        & (pc.field("origin") != Origin.REPLAY.value)
    )
    if end == 0 or snapshot.count(of_log & (pc.field("offset") == end - 1)):
        return end
    ends = snapshot.read(["offset_end"], of_log).column("offset_end")
    return int(pc.max(ends).as_py() or 0)

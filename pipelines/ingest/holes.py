"""Detect rows that another engine removed from the table, and stop ingest before it leaves a hole behind.

The table records the end offset of each partition and the number of rows ever committed as Delta application
transactions. RESTORE, DELETE and overwrite remove rows but leave those. Reading on would leave offsets without a row for
ever, so ingest stops until an operator has decided.
"""

from __future__ import annotations

from collections.abc import Iterable

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

    Partitions that appear in no file statistics are checked only if they are among `places`. The last row is looked up in
    the one file that can hold it; only if it is missing there, all files are read.
    """
    found = []
    for cluster, topic_id, partition in sorted({*places, *_places_of(snapshot)}):
        end = snapshot.app_transaction(position_name(TopicInfo(cluster, "", topic_id, ()), partition)) or 0
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


def _places_of(snapshot: Snapshot) -> set[Place]:
    """Return the partitions of those files that hold one partition each, as ingest writes them."""
    files = snapshot.files()
    names = ("cluster", "topic_id", "partition")
    columns = [f"{kind}.{name}" for name in names for kind in ("min", "max")]
    if not set(columns) <= set(files.column_names):
        return set()
    return {
        (row["min.cluster"], row["min.topic_id"], row["min.partition"])
        for row in files.select(columns).to_pylist()
        if all(row[f"min.{name}"] is not None and row[f"min.{name}"] == row[f"max.{name}"] for name in names)
    }


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

"""What the table says it holds against what it holds: rows that another engine took away are a hole, and are told.

The table keeps where each partition ends and how many rows were committed as marks (Delta's application transactions).
RESTORE, DELETE and overwriting take rows and leave the marks. Reading on after them would leave offsets without a row
for ever, so ingest stops here until a person has decided.
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
    """The name of the mark that keeps the next offset to read of a partition."""
    return f"fleetloop-next-offset/{topic.cluster_id}/{topic.topic_id}/{partition}"


def find_holes(snapshot: Snapshot, places: Iterable[Place] = ()) -> list[str]:
    """One line for each partition whose rows end before its mark, and one when rows are missing in all.

    Partitions that no file's statistics name are looked at only when they are among `places`. The last row is looked for
    in the one file that can hold it; only when it is not there all are read.
    """
    found = []
    for cluster, topic_id, partition in sorted({*places, *_places_of(snapshot)}):
        end = snapshot.mark(position_name(TopicInfo(cluster, "", topic_id, ()), partition)) or 0
        held = _rows_end(snapshot, topic_id, partition, end)
        if held < end:
            found.append(
                f"partition {partition} of topic {topic_id} was read up to offset {end}, but its rows end at {held}"
            )
    if missing := snapshot.missing_rows():
        found.append(f"{missing} rows that were committed are not there")
    return found


def check_no_holes(snapshot: Snapshot, places: Iterable[Place]) -> None:
    """Raises MisconfiguredError that names what is missing, which version took it, and the way out."""
    if holes := find_holes(snapshot, places):
        foreign = snapshot.foreign_change()
        who = f"; version {foreign[0]} is a {foreign[1]} of another engine" if foreign else ""
        version = foreign[0] - 1 if foreign else "before"
        raise MisconfiguredError(
            f"lake table {snapshot.table.folder}: {'; '.join(holes)}{who}. Ingest does not go on over a hole: give the rows"
            f" back (restore version {version}), or begin a new lake"
        )


def _places_of(snapshot: Snapshot) -> set[Place]:
    """The partitions of files that hold one each, as ingest writes them."""
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
    """Where the rows of a partition end, or `end` when they reach it."""
    of_log = (
        (pc.field("topic_id") == topic_id)
        & (pc.field("partition") == partition)
        & (pc.field("origin") != Origin.REPLAY.value)
    )
    if end == 0 or snapshot.count(of_log & (pc.field("offset") == end - 1)):
        return end
    ends = snapshot.read(["offset_end"], of_log).column("offset_end")
    return int(pc.max(ends).as_py() or 0)

"""Plan: the offsets between the end of the lake and the end of the log, cut into ranges.

The end of the lake is read from the snapshot, per partition (cluster, topic id, number); Kafka's group offsets play no
part. An empty log gives an empty plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.compute as pc

from connectors.kafka.ports import RecordSource, TopicInfo
from connectors.lake.table import Snapshot
from pipelines.ingest.elements import OffsetRange, TopicGone, Unread, Waiting
from pipelines.ingest.holes import check_no_holes, position_name
from pipelines.ingest.settings import IngestSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """The reads of one run, planned on one version of the table."""

    topic: TopicInfo
    version: int
    ranges: tuple[OffsetRange, ...]
    ends: dict[int, int]
    """The next offset that the lake needs, by partition."""
    unread: tuple[Unread, ...]
    waiting: tuple[Waiting, ...] = ()
    gone: tuple[TopicGone, ...] = ()
    """Earlier topics of this name; reported until the first offset of the present topic was read."""


def make_plan(snapshot: Snapshot, source: RecordSource, settings: IngestSettings) -> Plan:
    """Plan ranges for every partition of the topic, those added since the last run included.

    Offsets below the first retained one that the lake does not hold become a lost range. A log that ends before the lake
    does is reported as unread. Offsets that an open transaction hides are reported as waiting.

    Raises RetryLaterError without a broker, RejectedError if there is no such topic, MisconfiguredError if another engine
    changed the table into one that cannot be written here, or removed rows.
    """
    snapshot.check_writable()
    topic = source.describe(settings.topic)
    places = [(topic.cluster_id, topic.topic_id, partition) for partition in topic.partitions]
    check_no_holes(snapshot, places)
    ranges: list[OffsetRange] = []
    unread: list[Unread] = []
    waiting: list[Waiting] = []
    ends: dict[int, int] = {}
    is_new = all(
        snapshot.app_transaction(position_name(topic, partition)) is None for partition in topic.partitions
    )
    for partition in sorted(topic.partitions):
        log_end = source.log_end(
            settings.topic, partition
        )  # asked first: the log may grow between the two requests
        begin, end = source.bounds(settings.topic, partition)
        if log_end > end:
            waiting.append(Waiting(partition, end, log_end))
        start = snapshot.app_transaction(position_name(topic, partition)) or 0
        ends[partition] = start
        if end < start:
            why = f"the log ends at offset {end}, before offset {start} where the lake ends: the broker lost records"
            unread.append(Unread(partition, start, why))
            continue
        end = min(end, max(start, begin) + settings.run_offsets)
        if start < begin:
            ranges.append(_range(topic, partition, start, begin, is_lost=True))
        ranges += [
            _range(topic, partition, cut, min(end, cut + settings.range_offsets))
            for cut in range(max(start, begin), end, settings.range_offsets)
        ]
    gone = topics_gone(snapshot, topic) if is_new and snapshot.version else ()
    return Plan(topic, snapshot.version, tuple(ranges), ends, tuple(unread), tuple(waiting), gone)


def topics_gone(snapshot: Snapshot, topic: TopicInfo) -> tuple[TopicGone, ...]:
    """Return where the lake ends for each earlier topic of this name; what those held beyond can no longer be read."""
    columns = ["topic_id", "partition", "offset_end", "cluster"]
    rows = snapshot.read(
        columns, (pc.field("topic") == topic.topic) & (pc.field("topic_id") != topic.topic_id)
    )
    ends = rows.group_by(["topic_id", "partition", "cluster"]).aggregate([("offset_end", "max")])
    found = [
        TopicGone(row["topic_id"], row["partition"], row["offset_end_max"], row["cluster"])
        for row in ends.to_pylist()
    ]
    return tuple(sorted(found))


def _range(topic: TopicInfo, partition: int, begin: int, end: int, *, is_lost: bool = False) -> OffsetRange:
    return OffsetRange(topic.cluster_id, topic.topic, topic.topic_id, partition, begin, end, is_lost)

"""Topics read again, late, poisoned, recreated, widened, and cut by retention: the same rows, all counted."""

from __future__ import annotations

from tests.torture import topic_broker, topic_moved, topic_poison, topic_same
from tests.torture.fault import BrokenBuild, Fault

_EMBEDDED = "the embedded broker in a process of its own, real disk, work in forks of a warm process"
_KAFKA = "one node of Apache Kafka, real disk, work in forks of a warm process"

_POISON_BROKEN = (
    BrokenBuild(
        "a dead letter loses its bytes",
        "pipelines/ingest/decode.py",
        '        "raw_value": [r.value for r in records],\n',
        '        "raw_value": [None for r in records],\n',
        tries=1,
    ),
    BrokenBuild(
        "a replay lands what landed before",
        "pipelines/ingest/deadletter.py",
        "        duplicates = duplicate_verdicts(index, landed_identities(snapshot, index))\n        with_verdicts",
        "        duplicates = duplicate_verdicts(index.slice(0, 0), landed_identities(snapshot, index))\n        with_verdicts",
        tries=1,
    ),
    BrokenBuild(
        "every dead letter has the same reason",
        "pipelines/ingest/decode.py",
        "rejected.append(Rejection(record, error.reason, str(error), identity))",
        "rejected.append(Rejection(record, RejectReason.INVALID_VALUE.value, str(error), identity))",
        tries=1,
    ),
)

FAULTS: tuple[Fault, ...] = (
    Fault(
        name="topic-read-three-times",
        group=8,
        guarantees=("G3", "G4"),
        what=(
            "A topic with resends, dead letters and late records is read into three new lakes, cut differently, by one "
            "worker and by two: the same rows in all columns but ingest_time_ns, the same dataset digest."
        ),
        one_try="one topic, read three times",
        full=10,
        turn=1,
        full_turn=2,
        run=topic_same.run_three_times,
        real=f"{_EMBEDDED}; each vehicle's records stay in one partition, as Kafka's partitioner keeps them",
        broken=(
            BrokenBuild(
                "the last of two equal records lands, not the first",
                "pipelines/ingest/deduplicate.py",
                '    first = rows.sort(PLACE).unique(IDENTITY, keep="first", maintain_order=True)\n',
                '    first = rows.sort(PLACE).unique(IDENTITY, keep="last", maintain_order=True)\n',
            ),
        ),
    ),
    Fault(
        name="late-records",
        group=8,
        guarantees=("G3", "G4"),
        what=(
            "10,000 records captured 30 days before arrive after a dataset version was committed: each lands once, they "
            "make a new version, and the old one comes back from git and DVC with its rows."
        ),
        one_try="1,000 late records; those of a turn come at once",
        full=10,
        turn=1,
        full_turn=10,
        run=topic_same.run_late,
        real=f"{_EMBEDDED}, real git and DVC; the pictures are drawn, the labels follow from their hashes",
        turn_limit_s=2_400.0,
        broken=(
            BrokenBuild(
                "what was captured long ago is rejected",
                "pipelines/ingest/decode.py",
                "            accepted.append(_decoded(record, identity, blobs))\n",
                "            found = _decoded(record, identity, blobs)\n"
                "            if found.sample.capture_time_ns < 1_790_000_000_000_000_000:\n"
                '                raise RejectedError("captured long ago", reason=RejectReason.INVALID_VALUE)\n'
                "            accepted.append(found)\n",
            ),
        ),
    ),
    Fault(
        name="poison-1-percent",
        group=8,
        guarantees=("G3", "G8"),
        what=(
            "1 % poison of every kind among 100,000 records: never stuck, each rejected with its reason, offset and "
            "bytes; after the fix (an enrolment, a revocation taken back, a schema) a replay lands each once."
        ),
        one_try="1,000 records; those of a turn are on one topic",
        full=100,
        turn=2,
        full_turn=100,
        run=topic_poison.run_1_percent,
        real=f"{_EMBEDDED}; the schema that comes late is left out of the reading build",
        turn_limit_s=3_000.0,
        broken=_POISON_BROKEN[:1],
    ),
    Fault(
        name="poison-50-percent",
        group=8,
        guarantees=("G3", "G8"),
        what=(
            "50 % poison of every kind among 100,000 records: never stuck, each rejected with its reason, offset and "
            "bytes; after the fix (an enrolment, a revocation taken back, a schema) a replay lands each once."
        ),
        one_try="1,000 records; those of a turn are on one topic",
        full=100,
        turn=1,
        full_turn=100,
        run=topic_poison.run_50_percent,
        real=f"{_EMBEDDED}; the schema that comes late is left out of the reading build",
        turn_limit_s=3_000.0,
        broken=_POISON_BROKEN,
    ),
    Fault(
        name="topic-anew",
        group=8,
        guarantees=("G3", "G8"),
        what=(
            "A topic is deleted and recreated between two ingests, within one, or with records that were never read: what "
            "was read stays, all of the new topic is read, what comes again is a resend, and the report says what is gone."
        ),
        one_try="one topic recreated",
        full=20,
        turn=1,
        full_turn=5,
        run=topic_moved.run_anew,
        real=_EMBEDDED,
        broken=(
            BrokenBuild(
                "where the lake ends is kept by the topic's name, not its id",
                "pipelines/ingest/holes.py",
                'return f"fleetloop-next-offset/{topic.cluster_id}/{topic.topic_id}/{partition}"',
                'return f"fleetloop-next-offset/{topic.cluster_id}/{topic.topic}/{partition}"',
            ),
        ),
    ),
    Fault(
        name="partitions-added",
        group=8,
        guarantees=("G3",),
        what=(
            "One to three partitions are added between two ingests or within one, and what was sent before comes again in "
            "them: every offset has its row, every identity lands once."
        ),
        one_try="one topic widened",
        full=20,
        turn=1,
        full_turn=5,
        run=topic_moved.run_partitions,
        real=_KAFKA,
        needs=topic_broker.kafka_is_missing,
        broken=(
            BrokenBuild(
                "the first two partitions are all that is read",
                "pipelines/ingest/plan.py",
                "    for partition in sorted(topic.partitions):\n        log_end",
                "    for partition in sorted(topic.partitions)[:2]:\n        log_end",
            ),
        ),
    ),
    Fault(
        name="offsets-lost",
        group=8,
        guarantees=("G3", "G8"),
        what=(
            "Retention takes offsets that were never read, before an ingest or within it: exactly those are counted as "
            "lost, by interval, and every other offset has its row."
        ),
        one_try="one interval lost",
        full=20,
        turn=1,
        full_turn=5,
        run=topic_moved.run_lost,
        real=f"{_KAFKA}; retention is DeleteRecords",
        needs=topic_broker.kafka_is_missing,
        broken=(
            BrokenBuild(
                "what retention took is called a gap that never held a record",
                "pipelines/ingest/decode.py",
                "        return _intervals(source, Origin.LOSS,",
                "        return _intervals(source, Origin.GAP,",
            ),
        ),
    ),
)

"""A topic made anew, with partitions added, or with offsets that retention took: counted, nothing skipped silently."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.checker.offered_records import Offered, Place
from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_fork import must
from tests.torture.topic_broker import apache, embedded, filled_topic, ingest, make_topic, settings, warm
from tests.torture.topic_load import Fleet, places, poisoned, produce, resent, spread

PARTITIONS = 2
RECORDS = 60


class Case:
    """One topic under a name of its own, one lake; what was offered under each topic id that there was."""

    def __init__(self, bootstrap: str, folder: Path, number: int, rng: random.Random) -> None:
        self.bootstrap, self.rng, self.topic = bootstrap, rng, f"moved-{number}"
        self.lake = folder / f"lake-{number}"
        self.fleet = Fleet(rng)
        self.offered: dict[str, dict[Place, Offered]] = {}
        self.reports: list[dict[str, Any]] = []

    def log(self, partitions: int = PARTITIONS, repeat: tuple[Offered, ...] = ()) -> list[list[Offered]]:
        """Good and bad records, and the given ones once more."""
        records = list(poisoned(self.fleet, RECORDS, 0.1))
        return spread([*records, *(resent(each) for each in repeat)], partitions)

    def topic_id(self) -> str:
        from connectors.kafka.admin import administration

        def ask() -> str:
            with administration(settings(self.bootstrap)) as admin:
                return admin.describe(self.topic).topic_id

        return str(must(ask).value)

    def ingest(self, at: str = "", then: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """One ingest in a fork; `then` happens within it, once, when the step `at` is reached first."""

        def work() -> dict[str, Any]:
            from pipelines.steps import watched

            done: list[str] = []

            def hook(label: str) -> None:
                if label == at and not done:
                    done.append(label)
                    then()

            with watched(hook):
                return ingest(
                    self.bootstrap, self.lake, self.fleet, topic=self.topic, range_offsets=10, batch_records=4
                )

        report = dict(must(work).value)
        self.reports.append(report)
        return report

    def wrong(self, ends: dict[str, dict[int, int]], *, gone: tuple[str, ...] = ()) -> list[str]:
        """Rows that differ from what was offered, holes, and identities not landed once; `gone`: topic ids of which
        the lake has as much as was read before they went.
        """
        from tests.checker.offered_records import holes, lake_rows, lost_intervals, wrong_rows

        def judge() -> list[str]:
            rows = lake_rows(self.lake / "arrivals")
            found = []
            for topic_id, offered in self.offered.items():
                lost = lost_intervals(rows, topic_id)
                present = {
                    place: record
                    for place, record in offered.items()
                    if not any(begin <= place[1] < end for begin, end in lost.get(place[0], []))
                }
                if topic_id in gone:
                    read = {(row["partition"], row["offset"]) for row in rows if row["topic_id"] == topic_id}
                    present = {place: record for place, record in present.items() if place in read}
                found += wrong_rows(rows, present, topic_id)
                if topic_id not in gone:
                    found += holes(rows, topic_id, ends[topic_id])
            landed = [(r["vehicle_id"], r["epoch"], r["seq"]) for r in rows if r["outcome"] == "landed"]
            if len(landed) != len(set(landed)):
                found.append(f"{len(landed) - len(set(landed))} identities landed twice")
            return found

        return list(must(judge).value)

    def lost(self) -> dict[int, list[tuple[int, int]]]:
        """What the lake says that retention took of the topic as it is now."""
        from tests.checker.offered_records import lake_rows, lost_intervals

        topic_id = self.topic_id()
        found = must(lambda: lost_intervals(lake_rows(self.lake / "arrivals"), topic_id)).value
        return {int(partition): [tuple(each) for each in intervals] for partition, intervals in found.items()}


def anew(case: Case) -> list[str]:
    """Made anew under the same name: between two ingests, with records that were never read, or within one."""
    from connectors.kafka.admin import administration

    log = case.log()
    first = filled_topic(case.bootstrap, log, case.topic)
    old = case.topic_id()
    case.offered[old] = first
    case.ingest()
    how = case.rng.choice(["between", "within", "unread"])
    if how == "unread":
        begins = [len(part) for part in log]
        more = case.log()
        must(lambda: produce(case.bootstrap, case.topic, more, begins))
        case.offered[old] = first | places(more, begins)
    repeat = tuple(record for record in first.values() if record.outcome == "landed")[:8]
    again = case.log(repeat=repeat)

    def make_anew() -> None:
        with administration(settings(case.bootstrap)) as admin:
            admin.delete(case.topic)
        make_topic(case.bootstrap, PARTITIONS, case.topic)
        produce(case.bootstrap, case.topic, again)

    if how == "within":
        begins = [len(part) for part in log]
        more = case.log()
        must(lambda: produce(case.bootstrap, case.topic, more, begins))
        case.offered[old] = first | places(more, begins)
        case.ingest(
            at=case.rng.choice(["ingest.plan", "ingest.read", "ingest.write", "ingest.deduplicate"]),
            then=make_anew,
        )
    else:
        must(make_anew)
        case.ingest()
    case.ingest()
    new = case.topic_id()
    case.offered[new] = places(again)
    found = ["the topic has the same id"] if new == old else []
    found += case.wrong({new: {p: len(part) for p, part in enumerate(again)}}, gone=(old,))
    if not any(old in str(report.get("topics_gone")) for report in case.reports[1:]):
        found.append("no report says that the topic of before is gone")
    return found


def partitions_added(case: Case) -> list[str]:
    """More partitions between two ingests; what was sent before comes again in the new ones."""
    from kafka import KafkaAdminClient

    log = case.log()
    first = filled_topic(case.bootstrap, log, case.topic)
    topic_id = case.topic_id()
    case.ingest()
    added = case.rng.randint(1, 3)
    total = PARTITIONS + added

    def add() -> None:
        from tests.waiting import until

        admin = KafkaAdminClient(bootstrap_servers=case.bootstrap)
        admin.create_partitions({case.topic: total})
        until(
            lambda: len(admin.describe_topics([case.topic])[0]["partitions"]) == total, "the new partitions"
        )
        admin.close()

    if case.rng.random() < 0.5:
        must(add)
    else:
        begins = [len(part) for part in log]
        more = case.log()
        must(lambda: produce(case.bootstrap, case.topic, more, begins))
        first |= places(more, begins)
        log = [old + new for old, new in zip(log, more, strict=True)]
        case.ingest(at="ingest.write", then=add)
    begins = [*(len(part) for part in log), *[0] * added]
    good = [record for record in first.values() if record.outcome == "landed"]
    again = case.log(total)
    for index, record in enumerate(case.rng.sample(good, 6)):  # the partitioner now chooses another partition
        again[PARTITIONS + index % added].append(resent(record))
    must(lambda: produce(case.bootstrap, case.topic, again, begins))
    case.ingest()
    case.offered[topic_id] = first | places(again, begins)
    return case.wrong({topic_id: {p: begins[p] + len(part) for p, part in enumerate(again)}})


def offsets_lost(case: Case) -> list[str]:
    """Retention takes offsets that were never read, before an ingest or within it: each is counted as lost, no other."""
    from connectors.kafka.admin import administration

    log = case.log()
    case.offered[""] = filled_topic(case.bootstrap, log, case.topic)
    topic_id = case.topic_id()
    case.offered = {topic_id: case.offered[""]}
    reads_before = case.rng.random() < 0.5
    if reads_before:
        case.ingest()
        begins = [len(part) for part in log]
        more = case.log()
        must(lambda: produce(case.bootstrap, case.topic, more, begins))
        case.offered[topic_id] |= places(more, begins)
        log = [old + new for old, new in zip(log, more, strict=True)]
    else:
        begins = [0] * PARTITIONS
    partition = case.rng.randrange(PARTITIONS)
    before = case.rng.randint(begins[partition] + 1, len(log[partition]) - 1)

    def retire() -> None:
        with administration(settings(case.bootstrap)) as admin:
            admin.delete_records(case.topic, partition, before)

    within = case.rng.random() < 0.5
    if within:
        case.ingest(at="ingest.plan", then=retire)
    else:
        must(retire)
        case.ingest()
    case.ingest()
    found = case.wrong({topic_id: {p: len(part) for p, part in enumerate(log)}})
    lost = case.lost()
    if lost != {partition: [(begins[partition], before)]}:
        found.append(f"lost are {lost}, must be [{begins[partition]}, {before}) of partition {partition}")
    counted = sum(report["lost_offsets"] for report in case.reports)
    if counted != before - begins[partition]:
        found.append(f"the reports count {counted} lost offsets, must be {before - begins[partition]}")
    return found


def _run(
    attack: Callable[[Case], list[str]], broker: Callable[[], AbstractContextManager[str]], batch: Batch
) -> Tally:
    tally = Tally()
    warm()
    with broker() as bootstrap:
        for number in batch.numbers():
            case = Case(bootstrap, batch.folder, number, batch.rng(number))
            tally.judge(attack(case), f"try {number}")
            tally.count("offsets_ingested", sum(report["offsets"] for report in case.reports))
            tally.count("offsets_counted_as_lost", sum(report["lost_offsets"] for report in case.reports))
    return tally


def run_anew(batch: Batch) -> Tally:
    """See `Fault.run`."""
    return _run(anew, embedded, batch)


def run_partitions(batch: Batch) -> Tally:
    """See `Fault.run`."""
    return _run(partitions_added, apache, batch)


def run_lost(batch: Batch) -> Tally:
    """See `Fault.run`."""
    return _run(offsets_lost, apache, batch)

"""Poison among good records: never stuck, each rejected with reason, offset and bytes; after a fix each lands once."""

from __future__ import annotations

from collections import Counter
from functools import partial

from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_fork import must
from tests.torture.topic_broker import checked, embedded, filled_topic, ingest, replay, warm
from tests.torture.topic_load import Fleet, poisoned, spread

TRY_RECORDS = 1_000
PARTITIONS = 4
LIMIT_S = 1_800.0


def run_at(ratio: float, batch: Batch) -> Tally:
    """See `Fault.run`: each try is 1,000 records; the records of all tries of a turn are on one topic."""
    from tests.checker.offered_records import holes, lake_rows, not_landed_once, wrong_rows

    tally = Tally()
    warm()
    records = TRY_RECORDS * batch.tries
    fleet = Fleet(batch.rng(batch.first))
    log = spread(poisoned(fleet, records, ratio), PARTITIONS)
    lake = batch.folder / "lake"
    ends = {partition: len(part) for partition, part in enumerate(log)}
    with embedded() as bootstrap:
        offered = filled_topic(bootstrap, log)
        told = must(lambda: ingest(bootstrap, lake, fleet), limit_s=LIMIT_S).value
        tally.measure("ingest_rows_per_s", records / told["seconds"])

        def judged(*, is_fixed: bool) -> list[str]:
            rows = lake_rows(lake / "arrivals")
            topic_id = rows[0]["topic_id"] if rows else ""
            wanted = {
                each.identity
                for each in offered.values()
                if each.outcome == "landed" or (is_fixed and each.after_fix == "landed")
            }
            found = wrong_rows(rows, offered, topic_id, is_fixed=is_fixed)
            found += not_landed_once(rows, wanted)
            return found + holes(rows, topic_id, ends)

        found = must(lambda: judged(is_fixed=False), limit_s=LIMIT_S).value
        again = must(lambda: ingest(bootstrap, lake, fleet), limit_s=LIMIT_S).value
        if again["offsets"]:
            found.append(f"a second ingest read {again['offsets']} offsets again")
        fixed = must(lambda: replay(lake, fleet), limit_s=LIMIT_S).value
        tally.measure("replay_s", fixed["seconds"])
        if must(lambda: replay(lake, fleet), limit_s=LIMIT_S).value["landed"]:
            found.append("a second replay landed something again")
        found += must(lambda: judged(is_fixed=True), limit_s=LIMIT_S).value
        found += must(lambda: checked(bootstrap, lake), limit_s=LIMIT_S).value
    for number in batch.numbers():
        tally.judge(found, f"records {number * TRY_RECORDS} to {(number + 1) * TRY_RECORDS}")
    poison = Counter(each.reasons[0] for each in offered.values() if each.outcome == "rejected")
    tally.count("records", records)
    tally.count("poisoned_records", sum(poison.values()))
    tally.count("max_kinds_of_poison", len(poison))
    tally.count("landed_after_the_fix", sum(each.after_fix == "landed" for each in offered.values()))
    return tally


run_1_percent = partial(run_at, 0.01)
run_50_percent = partial(run_at, 0.5)

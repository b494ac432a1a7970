"""Two writers at once on the lake: each row once, each answer once; one waits, plans again or is refused by name."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_curate import labels_wrong, torn_of
from tests.torture.pipeline_curate import prepare as prepare_workspace
from tests.torture.pipeline_curate import work as curate_or_label
from tests.torture.pipeline_fork import must
from tests.torture.topic_broker import checked, embedded, filled_topic, ingest, replay, warm
from tests.torture.topic_load import Fleet, poisoned, resent, spread
from tests.torture.writers_pair import at_once

PAIRS = (
    ("ingest", "ingest"),
    ("ingest", "replay"),
    ("replay", "replay"),
    ("curate", "label"),
    ("label", "label"),
    ("curate", "curate"),
)
RECORDS, PARTITIONS = 60, 2
CUTS: dict[str, Any] = {"range_offsets": 20, "batch_records": 7}


def on_arrivals(bootstrap: str, folder: Path, number: int, rng: random.Random, tally: Tally) -> list[str]:
    """Ingests and replays."""
    from tests.checker.offered_records import lake_rows, not_landed_once, wrong_rows

    pair = PAIRS[number % len(PAIRS)]
    fleet, lake, topic = Fleet(rng), folder / f"lake-{number}", f"pair-{number}"
    records = list(poisoned(fleet, RECORDS, 0.4))
    records += [resent(each) for each in records[:12] if each.identity]
    offered = filled_topic(bootstrap, spread(records, PARTITIONS), topic)
    if "replay" in pair:
        must(lambda: ingest(bootstrap, lake, fleet, topic=topic, run_offsets=20, **CUTS))

    def act(command: str) -> Callable[[Callable[[], object]], Any]:
        def do(ready: Callable[[], object]) -> Any:
            if command == "replay":
                return replay(lake, fleet, ready)
            return ingest(bootstrap, lake, fleet, topic=topic, before=ready, **CUTS)

        return do

    ended = at_once(act(pair[0]), act(pair[1]))
    tally.count(
        "planned_again", sum((each.value or {"value": {}})["value"].get("replans", 0) for each in ended.ends)
    )
    tally.count("refused_by_name", ended.refused)
    must(lambda: ingest(bootstrap, lake, fleet, topic=topic, **CUTS))
    must(lambda: replay(lake, fleet))

    def judge() -> list[str]:
        rows = lake_rows(lake / "arrivals")
        landed = {each.identity for each in offered.values() if "landed" in (each.outcome, each.after_fix)}
        found = wrong_rows(rows, offered, rows[0]["topic_id"] if rows else "", is_fixed=True)
        return found + not_landed_once(rows, landed) + checked(bootstrap, lake, topic=topic)

    return ended.wrong() + list(must(judge).value)


def on_workspace(base: Path, folder: Path, number: int, tally: Tally) -> list[str]:
    """Curates and labels."""
    pair = PAIRS[number % len(PAIRS)]
    place = folder / f"workspace-{number}"
    shutil.copytree(base, place)

    def act(command: str) -> Callable[[Callable[[], object]], Any]:
        def do(ready: Callable[[], object]) -> Any:
            ready()
            return curate_or_label(command, place)

        return do

    ended = at_once(act(pair[0]), act(pair[1]))
    tally.count("refused_by_name", ended.refused)
    return ended.wrong() + labels_wrong(place) + torn_of(place)


def run(batch: Batch) -> Tally:
    """See `Fault.run`."""
    tally = Tally()
    warm()
    base = batch.folder / "base"
    with embedded() as bootstrap:
        for number in batch.numbers():
            if PAIRS[number % len(PAIRS)][0] in ("ingest", "replay"):
                found = on_arrivals(bootstrap, batch.folder, number, batch.rng(number), tally)
            else:
                if not base.exists():
                    must(lambda: prepare_workspace(base))
                found = on_workspace(base, batch.folder, number, tally)
            tally.judge(found, f"try {number} {PAIRS[number % len(PAIRS)]}")
    return tally

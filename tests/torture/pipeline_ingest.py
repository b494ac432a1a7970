"""Ingest and replay killed at a labelled step, and run again: the same rows as if nothing had happened."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_fork import Kill, in_fork, must, pipeline_steps
from tests.torture.topic_broker import checked, embedded, filled_topic, ingest, replay, warm
from tests.torture.topic_load import Fleet, poisoned, resent, spread

INGEST, REPLAY = "ingest", "replay"
STEPS = (
    *((INGEST, f"ingest.{word}") for word in
      ("plan", "read", "decode", "write", "deduplicate", "apply", "rename", "commit", "done")),
    *((REPLAY, word) for word in ("ingest.write", "replay.rename", "replay.commit")),
)  # fmt: skip
RECORDS, PARTITIONS = 60, 2
CUTS: dict[str, Any] = {"range_offsets": 20, "batch_records": 7}


class Scene:
    """A topic on an embedded broker, and what an undisturbed ingest and replay of it gave."""

    def __init__(self, bootstrap: str, folder: Path, seed: int) -> None:
        self.bootstrap, self.folder = bootstrap, folder
        self.fleet = Fleet(random.Random(seed))
        records = list(poisoned(self.fleet, RECORDS, 0.4))
        records += [resent(each) for each in records[:12] if each.identity]
        self.offered = filled_topic(bootstrap, spread(records, PARTITIONS))
        self.times: dict[str, dict[str, int]] = {}
        whole = folder / "undisturbed"
        self.digests = {"": _digest_of_nothing()}
        for command in (INGEST, REPLAY):
            self.times[command] = must(lambda c=command: self.work(c, whole), watch=pipeline_steps).steps
            self.digests[command] = self.look(whole)["digest"]
        self.problems = self.judged(whole)

    def work(self, command: str, lake: Path) -> Any:
        if command == INGEST:
            return ingest(self.bootstrap, lake, self.fleet, **CUTS)
        return replay(lake, self.fleet)

    def look(self, lake: Path) -> dict[str, Any]:
        """Digest of the lake's rows, and files that are missing, in a fork."""
        from tests.checker.lake_state import missing_files, rows_digest

        def read() -> dict[str, Any]:
            if not (lake / "arrivals" / "_delta_log").is_dir():
                return {"digest": _digest_of_nothing(), "missing": []}
            return {
                "digest": rows_digest(lake / "arrivals"),
                "missing": missing_files(lake / "arrivals"),
            }

        return dict(must(read).value)

    def judged(self, lake: Path) -> list[str]:
        """What the checkers say of the lake after everything was done."""
        from tests.checker.lake_state import files_of_no_version
        from tests.checker.offered_records import lake_rows, not_landed_once, wrong_rows

        def read() -> list[str]:
            rows = lake_rows(lake / "arrivals")
            topic_id = rows[0]["topic_id"] if rows else ""
            landed = {
                each.identity for each in self.offered.values() if "landed" in (each.outcome, each.after_fix)
            }
            found = checked(self.bootstrap, lake)
            found += wrong_rows(rows, self.offered, topic_id, is_fixed=True)
            found += not_landed_once(rows, landed)
            found += [f"left over: {name}" for name in files_of_no_version(lake / "arrivals")]
            return found

        return list(must(read).value)

    def attack(self, number: int, rng: random.Random) -> list[str]:
        """Kill at the step of this number, perhaps once more while it is made good, then let it be done."""
        command, label = STEPS[number % len(STEPS)]
        lake = self.folder / f"lake-{number}"
        found: list[str] = []
        for each in (INGEST, REPLAY):
            kills = []
            if each == command:
                times = self.times[command][label]
                kills = [Kill(label, 1 + (number // len(STEPS)) * (times - 1) // 4)]
                if (number // len(STEPS)) % 2:
                    second = rng.choice(sorted(self.times[command]))
                    kills.append(Kill(second, rng.randint(1, self.times[command][second])))
            before = INGEST if each == REPLAY else ""
            for position, kill in enumerate(kills):
                ended = in_fork(lambda c=each: self.work(c, lake), kill=kill, watch=pipeline_steps)
                if position == 0 and not ended.was_killed:
                    found.append(f"{command} was not killed at {kill}: {ended.error}")
                seen = self.look(lake)
                if seen["missing"]:
                    found.append(f"after the kill at {kill} files are missing: {seen['missing'][:3]}")
                if seen["digest"] not in (self.digests[before], self.digests[each]):
                    found.append(f"after the kill at {kill} the lake is neither as before nor as after")
            ended = in_fork(lambda c=each: self.work(c, lake), watch=pipeline_steps)
            if not ended.has_worked:
                return [*found, f"{each} after the kill failed: {ended.error}"]
            if self.look(lake)["digest"] != self.digests[each]:
                found.append(f"{each} after the kill gave other rows than an undisturbed one")
        return found + self.judged(lake)


def _digest_of_nothing() -> str:
    import hashlib

    return hashlib.sha256().hexdigest()


def run(batch: Batch) -> Tally:
    """See `Fault.run`."""
    tally = Tally()
    warm()
    with embedded() as bootstrap:
        scene = Scene(bootstrap, batch.folder, batch.seed)
        for number in batch.numbers():
            tally.judge(
                scene.problems + scene.attack(number, batch.rng(number)),
                f"try {number} {STEPS[number % len(STEPS)]}",
            )
            tally.count("offsets_ingested_again", len(scene.offered))
    return tally

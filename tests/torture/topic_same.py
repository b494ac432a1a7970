"""A topic read into several new lakes, and a topic whose records come late: the same rows, the same dataset."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.checker.offered_records import Offered
from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_fork import must
from tests.torture.topic_broker import checked, embedded, filled_topic, ingest, replay, warm
from tests.torture.topic_load import Fleet, offered, poisoned, produce, resent, spread

PARTITIONS = 3
RECORDS = 90
READS: tuple[dict[str, Any], ...] = (
    {"workers": 1},
    {"workers": 2, "range_offsets": 13, "batch_records": 5},
    {"workers": 1, "range_offsets": 17, "batch_records": 9, "run_offsets": 20},
)
"""How the three reads cut the log: at once; by two workers in small ranges; in many commits."""
LATE_TRY_RECORDS = 1_000
LATE_NS = 30 * 86_400 * 1_000_000_000
NOW_NS = 1_790_000_000_000_000_000
LABEL_EVERY = 2


def picture(rng: random.Random) -> bytes:
    """A small PNG of blobs with grain, another for each call; the same for the same chance."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(rng.getrandbits(64))
    coarse = Image.fromarray(chance.integers(20, 235, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float64)
    out = io.BytesIO()
    noisy = np.clip(pixels + chance.normal(0, 14, (32, 32, 1)), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(out, "PNG", compress_level=1)
    return out.getvalue()


def frames(fleet: Fleet, number: int, *, late_ns: int = 0, name: str = "drive") -> Iterator[Offered]:
    """Good records that each hold a picture; a drive has ten frames."""
    for index in range(number):
        payload = picture(fleet.rng)
        vehicle = ("v1", "v2", "v3")[index // 10 % 3]
        time_ns = NOW_NS - late_ns + index * 100_000_000
        sample = fleet.sample(
            vehicle, payload=payload, content_type="image/png", drive_id=f"{name}-{index // 10}",
            capture_time_ns=time_ns, spool_time_ns=time_ns, track_id=f"track-{name}-{index}",
        )  # fmt: skip
        yield offered(fleet.signed(sample), "landed", identity=str(sample.identity))


def make_workspace(place: Path, *, with_git: bool = False) -> None:
    """A workspace around `place/lake`; with git and DVC when versions are to be committed. In a fork."""
    import yaml

    from tests.pipelines.curate_lake import CLASSES, PARAMS

    if with_git:
        from services.init import make_workspace as init

        init(place, classes=CLASSES, with_keys=False)
        return
    place.mkdir(parents=True, exist_ok=True)
    (place / "fleetloop.toml").write_text('name = "test fleet"\nlock_wait_s = 5\n')
    (place / "params.yaml").write_text(yaml.safe_dump(PARAMS))


def label_all(place: Path) -> int:
    """An answer for every second picture that landed, by its hash; the number of answers. In a fork."""
    import pyarrow as pa

    from connectors.lake.schema import LABELS
    from connectors.lake.table import LakeTable
    from tests.pipelines.curate_lake import CLASSES

    arrivals = (
        LakeTable.open(place / "lake" / "arrivals").snapshot().read(["payload_sha256"]).column(0).to_pylist()
    )
    table = LakeTable.create(place / "lake" / "labels", LABELS)
    known = set(table.snapshot().read(["payload_sha256"]).column(0).to_pylist())
    rows = [
        {"payload_sha256": each, "class_name": CLASSES[int(each[:8], 16) % len(CLASSES)], "labeller": "desk",
         "labelled_time_ns": 5, "cost": 1.0, "request_id": "r1"}
        for each in sorted(set(filter(None, arrivals)) - known)
        if int(each[8:16], 16) % LABEL_EVERY == 0
    ]  # fmt: skip
    table.append(pa.Table.from_pylist(rows, LABELS))
    return len(rows)


def curate(place: Path) -> str:
    """Lock and curate, in this process; the digest of the manifest."""
    from pipelines.dataset.lock import write_lock
    from pipelines.dataset.make import curate as make
    from workspace.layout import Workspace

    workspace = Workspace.open(place)
    write_lock(workspace)
    return str(make(workspace).manifest["digest"])


def read_again(bootstrap: str, place: Path, fleet: Fleet, topic: str, how: dict[str, Any]) -> dict[str, str]:
    """One new lake and its dataset, each step in a fork; the digests of both by the checker, and of the manifest."""
    from tests.checker import dataset_files, lake_state

    must(lambda: ingest(bootstrap, place / "lake", fleet, topic=topic, **how))
    must(lambda: replay(place / "lake", fleet))
    must(lambda: make_workspace(place))
    must(lambda: label_all(place))
    return {
        "manifest": must(lambda: curate(place)).value,
        "rows": must(lambda: lake_state.rows_digest(place / "lake" / "arrivals")).value,
        "dataset": must(lambda: dataset_files.rows_digest(place / "datasets" / "current")).value,
    }


def run_three_times(batch: Batch) -> Tally:
    """See `Fault.run`."""
    tally = Tally()
    warm()
    with embedded() as bootstrap:
        for number in batch.numbers():
            fleet = Fleet(batch.rng(number))
            good = list(frames(fleet, RECORDS // 2)) + list(
                frames(fleet, RECORDS // 6, late_ns=LATE_NS, name="late")
            )
            records = good + list(poisoned(fleet, RECORDS // 3, 0.5))
            fleet.rng.shuffle(records[len(good) + 1 :])
            records += [resent(each) for each in fleet.rng.sample(good, 12)]
            topic = f"read-{number}"
            filled_topic(bootstrap, spread(records, PARTITIONS), topic)
            found = []
            read = []
            for index, how in enumerate(READS):
                place = batch.folder / f"{number}-{index}"
                read.append(read_again(bootstrap, place, fleet, topic, how))
                found += must(lambda p=place, t=topic: checked(bootstrap, p / "lake", topic=t)).value
            for what in read[0]:
                if len({each[what] for each in read}) != 1:
                    found.append(f"{what} differ: {[each[what][:12] for each in read]}")
            tally.judge(found, f"topic {number}")
            tally.count("records_on_topics", len(records))
            tally.count("lakes_made", len(READS))
    return tally


def run_late(batch: Batch) -> Tally:
    """See `Fault.run`: each try is 1,000 late records; the records of all tries of a turn come at once."""
    import pipelines.dataset.versions
    import services.init

    _ = (services, pipelines)
    tally = Tally()
    warm()
    late = LATE_TRY_RECORDS * batch.tries
    with embedded() as bootstrap:
        fleet = Fleet(batch.rng(batch.first))
        found = _late(bootstrap, batch.folder, fleet, late, tally)
    for number in batch.numbers():
        tally.judge(found, f"late records {number * LATE_TRY_RECORDS} to {(number + 1) * LATE_TRY_RECORDS}")
    tally.count("late_records", late)
    return tally


def _late(bootstrap: str, folder: Path, fleet: Fleet, number: int, tally: Tally) -> list[str]:
    from tests.checker import dataset_files
    from tests.checker.offered_records import lake_rows, not_landed_once
    from tests.torture.pipeline_commit import PLACE, commit, remote_of, versions

    place = folder / PLACE
    first = list(frames(fleet, 60))
    filled_topic(bootstrap, spread(first, PARTITIONS))
    must(lambda: make_workspace(place, with_git=True))

    def version(message: str) -> tuple[str, str]:
        seconds = must(lambda: ingest(bootstrap, place / "lake", fleet), limit_s=900).value["seconds"]
        tally.measure("ingest_s", seconds)
        must(lambda: label_all(place))
        must(lambda: curate(place), limit_s=900)
        digest = must(lambda: dataset_files.rows_digest(place / "datasets" / "current")).value
        return must(lambda: commit(folder, message), limit_s=900).value, digest

    def fetched(name: str) -> tuple[list[str], str]:
        into = folder / f"fetched-{name}"

        def fetch() -> tuple[list[str], str]:
            wrong = dataset_files.committed_version(place, name, remote_of(folder), into)
            return wrong, "" if wrong else dataset_files.rows_digest(into)

        wrong, digest = must(fetch, limit_s=300).value
        return list(wrong), str(digest)

    said, digest_1 = version("before")
    found = [] if said == "v1 new" else [f"the first commit was {said}"]
    log = spread(list(frames(fleet, number, late_ns=LATE_NS, name="late")), PARTITIONS)
    begins = [len(part) for part in spread(first, PARTITIONS)]
    must(lambda: produce(bootstrap, "fleetloop.samples", log, begins), limit_s=600)
    said, digest_2 = version("late data")
    if said != "v2 new" or digest_1 == digest_2:
        found.append(f"late data made {said}")
    identities = {each.identity for part in [first, *log] for each in part}
    found += must(
        lambda: not_landed_once(lake_rows(place / "lake" / "arrivals"), identities), limit_s=300
    ).value
    found += must(lambda: checked(bootstrap, place / "lake"), limit_s=600).value
    for name, digest in (("v1", digest_1), ("v2", digest_2)):
        wrong, now = fetched(name)
        found += wrong
        if not wrong and now != digest:
            found.append(f"{name} has other rows than when it was committed")
    if versions(folder)["records"] != ["v1", "v2"]:
        found.append(f"versions are {versions(folder)}")
    return found

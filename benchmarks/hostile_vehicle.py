"""Nine honest vehicles with a tenth one that is honest, and with one that is hostile: what either costs and who gets what.

    python -m benchmarks.hostile_vehicle --frames 400 --rounds 3   # frames of each vehicle
    python -m benchmarks.hostile_vehicle --flood 10                # the tenth sends so many times more, beyond its quota
    python -m benchmarks.hostile_vehicle --parked 100000         # one car parked for so many frames: time and memory

Pictures are simulated. The hostile vehicle sends as many records as an honest one: near and exact copies of the others'
pictures in a drive that hashes to test, others' drives and tracks, a dense scene, a backward clock, a class and an
embedding of its own form in each frame, and the highest scores; its records come in a second run of ingest, since it has to see
what it copies. Prints one JSON document; seconds are of the processor, in all threads of this process and in the processes
that it waited for, the least of the rounds, which alternate. `times_of` compares the hostile tenth with two bases: an honest
tenth, since a tenth vehicle is a ninth more records whatever it is, and no tenth at all.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import yaml

from connectors.labels.ports import Label
from connectors.lake.lock import write_lake_lock
from connectors.lake.schema import LABELS, REFERENCE
from connectors.lake.table import LakeTable
from pipelines.curate.labelling import label
from pipelines.curate.params import SplitParams
from pipelines.curate.split import split_of
from pipelines.dataset.make import curate
from pipelines.dataset.manifest import read_rows
from pipelines.ingest.settings import IngestSettings
from pipelines.validate.stage import validate
from schemas.predictions import ClassificationOutput, ModelPrediction
from schemas.reasons import Split
from tests.pipelines.curate_lake import CLASSES, PARAMS, picture
from tests.pipelines.ingest.ingest_lab import Lab
from workspace.layout import Workspace

HONEST = 9
SPLIT = SplitParams(validation_ratio=0.2, test_ratio=0.3)


def said(class_name: str, score: float, embedding: tuple[float, ...]) -> tuple[ModelPrediction, ...]:
    scores = dict.fromkeys(("entropy", "margin", "least_confidence"), score)
    answer = ClassificationOutput(class_name, (0.5, 0.5))
    return (
        ModelPrediction("serving", "classification", "m", "d" * 64, scores, embedding, classification=answer),
    )


def honest_fields(vehicle: int, n: int) -> dict[str, Any]:
    return {
        "payload": picture(vehicle * 100_000 + n), "drive_id": f"d{n // 40}", "track_id": f"t{n // 4}",
        "predictions": said(CLASSES[n % 3], n * 37 % 100 / 200, (float(n % 7), 1.0, float(n % 3))),
        "capture_time_ns": 1_000 + n,
    }  # fmt: skip


def hostile_fields(n: int, frames: int) -> dict[str, Any]:
    test = next(name for name in (f"evil-{k}" for k in range(99)) if split_of(name, SPLIT) is Split.TEST)
    of_other = (n % HONEST) * 100_000 + n % (frames - 1)
    kind = n % 5
    payload, drive, track = picture(40_000_000 + n), f"e{n}", None
    if kind == 0:
        payload, drive = picture(of_other, light=1.02), test
    elif kind == 1:
        payload, drive = picture(of_other), test
    elif kind == 2:
        drive, track = f"d{n % 9}", f"t{n % 90}"
    elif kind == 3:
        payload, drive = picture(50_000_000, light=0.9 + n / frames / 10), "parked"
    return {
        "payload": payload, "drive_id": drive, "track_id": track,
        "predictions": said(f"new-{n}", 1.0, (1.0,) * (n % 4_000 + 4)), "capture_time_ns": 10**9 - n,
    }  # fmt: skip


class Desk:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        self.asked += payload_sha256s
        return [Label(sha, CLASSES[int(sha[:4], 16) % 3], "desk", 9, 1.0) for sha in payload_sha256s]


def processor_s() -> float:
    """Processor time so far of this process and of the ended processes that it waited for, as those that decode."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(times: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    begin = processor_s()
    found = call()
    times[name] = round(times.get(name, 0.0) + processor_s() - begin, 2)
    return found


def in_rounds(root: Path, frames: int, budget: int, rounds: int) -> dict[str, Any]:
    """Run the three fleets in turn, after one run that is not counted (imports), and compare the least seconds."""
    run(_folder(root, "first"), min(frames, 40), "hostile", budget)
    found: dict[str, Any] = {}
    for number in range(rounds):
        for tenth in ("absent", "honest", "hostile"):
            got = run(_folder(root, f"{tenth}-{number}"), frames, tenth, budget)
            before = found.setdefault(tenth, got)
            least = {name: min(seconds, before["seconds"][name]) for name, seconds in got["seconds"].items()}
            found[tenth] = {**got, "seconds": least}
    hostile = found["hostile"]["seconds"]
    times = {
        base: {name: round(seconds / found[base]["seconds"][name], 2) for name, seconds in hostile.items()}
        for base in ("honest", "absent")
    }
    named = {f"tenth {tenth}": each for tenth, each in found.items()}
    return {**named, "times_of": {f"tenth {base}": each for base, each in times.items()}}


def flooded(root: Path, frames: int, budget: int, rounds: int, flood: int) -> dict[str, Any]:
    """Compare a tenth that floods beyond its quota with an honest one; the processor time of ingest is told per record."""
    run(_folder(root, "first"), min(frames, 40), "hostile", budget)
    found: dict[str, list[dict[str, Any]]] = {"honest": [], "hostile": []}
    for number in range(rounds):
        for tenth, each in found.items():
            more = flood if tenth == "hostile" else 0
            each.append(run(_folder(root, f"{tenth}-{number}"), frames, tenth, budget, more))
    least = {
        tenth: {name: min(got["seconds"][name] for got in each) for name in each[0]["seconds"]}
        for tenth, each in found.items()
    }
    last = found["hostile"][-1]
    return {
        "records_beyond_the_quota": last["rejected"],
        "rows_of_the_nine": last["rows_of_the_nine"],
        "labels_of_the_nine": last["labels_of_the_nine"],
        "times_of tenth honest": {
            name: round(least["hostile"][name] / least["honest"][name], 2)
            for name in ("label", "curate", "validate")
        },
        "ms_per_landed_record": round(1e3 * least["honest"]["ingest"] / (frames * (HONEST + 1)), 3),
        "ms_per_record_beyond_the_quota": round(
            1e3 * least["hostile"]["ingest of the flood"] / (frames * flood), 3
        ),
    }


def _folder(root: Path, name: str) -> Path:
    (root / name).mkdir()
    return root / name


def run(root: Path, frames: int, tenth: str, budget: int, flood: int = 0) -> dict[str, Any]:
    """Ingest, label twice, curate and validate the records of ten vehicles; the tenth is honest, hostile or absent.

    With a quota of `frames` records, `flood` times as many come from it after that.
    """
    lab = Lab(root, partitions=2)
    lab.settings = replace(IngestSettings(), commit_wait_s=5.0, vehicle_records_per_day=frames)
    vehicles = [f"car-{n}" for n in range(HONEST)]
    lab.fleet.enrol(*vehicles, "tenth")
    for number, vehicle in enumerate(vehicles):
        for n in range(frames - 1):
            lab.produce(lab.fleet.record(vehicle, n, content_type="image/png", **honest_fields(number, n)), 0)
    times: dict[str, float] = {}
    first = timed(times, "ingest", lambda: lab.ingest().once())
    for number, vehicle in enumerate(vehicles):  # so that there is a second run without a tenth, too
        fields = honest_fields(number, frames - 1)
        lab.produce(lab.fleet.record(vehicle, frames - 1, content_type="image/png", **fields), 0)
    for n in range(frames if tenth != "absent" else 0):
        fields = honest_fields(HONEST, n) if tenth == "honest" else hostile_fields(n, frames)
        lab.produce(lab.fleet.record("tenth", n, content_type="image/png", **fields), 1)
    second = timed(times, "ingest", lambda: lab.ingest().once())
    for n in range(frames, frames * (1 + flood)):
        lab.produce(
            lab.fleet.record("tenth", n, content_type="image/png", **hostile_fields(n, frames)), n % 2
        )
    third = timed(times, "ingest of the flood", lambda: lab.ingest().once()) if flood else second
    (root / "fleetloop.toml").write_text('name = "t"\n')
    (root / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "label": {"strategy": "class_balanced"}}))
    place = Workspace.open(root)
    tables = {"arrivals": lab.table, "reference": LakeTable.create(place.lake_path / "reference", REFERENCE)}
    desk = Desk()
    timed(times, "label", lambda: label(place, desk, budget))
    rows = lab.table.snapshot().read(["payload_sha256", "vehicle_id", "epoch", "seq"]).to_pylist()
    owner = {
        row["payload_sha256"]: row["vehicle_id"]
        for row in sorted(rows, key=lambda r: r["vehicle_id"] or "", reverse=True)
    }
    got = Counter(owner[sha] for sha in desk.asked)
    # Every honest frame that curation would keep is labelled now, so that rows can be compared.
    honest = sorted((r for r in rows if r["vehicle_id"] in vehicles), key=lambda r: r["payload_sha256"])
    paid = {"labeller": "desk", "labelled_time_ns": 5, "cost": 1.0, "request_id": "r", "boxes": None}
    every = [
        {
            **paid,
            "payload_sha256": row["payload_sha256"],
            "class_name": CLASSES[n % 3],
            "identity": f"{row['vehicle_id']}/{row['epoch']}/{row['seq']}",
        }
        for n, row in enumerate(honest)
    ]
    tables["labels"] = LakeTable.open(place.labels_uri)
    tables["labels"].append(pa.Table.from_pylist(every, LABELS))
    write_lake_lock(place.lake_lock_path, tables)
    timed(times, "curate", lambda: curate(place))
    passed = timed(times, "validate", lambda: validate(place, with_expectations=False))
    kept = read_rows(place.dataset_path).filter(pl.col("vehicle_id") != "tenth")
    return {
        "seconds": times, "landed": first.landed + second.landed, "rejected": third.rejected, "labels": got.total(),
        "labels_of_the_nine": got.total() - got["tenth"], "rows_of_the_nine": kept.height,
        "validated": passed["success"], "in_quarantine": passed["vehicles"]["in_quarantine"],
    }  # fmt: skip


def parked(root: Path, frames: int) -> dict[str, Any]:
    """Curate `frames` different pictures of one scene."""
    import io

    import numpy as np
    from PIL import Image

    from connectors.lake.schema import ARRIVALS
    from tests.pipelines.curate_lake import arrival, make_workspace

    rng = np.random.default_rng(1)
    base = rng.integers(40, 200, (32, 32, 3)).astype(np.int16)
    place = make_workspace(root, [], params=PARAMS)
    table = LakeTable.open(place.arrivals_uri)
    for begin in range(0, frames, 10_000):
        rows = []
        for n in range(begin, min(begin + 10_000, frames)):
            out = io.BytesIO()
            noisy = np.clip(base + rng.integers(-6, 7, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(out, "JPEG", quality=80)
            rows.append(arrival(out.getvalue(), vehicle="parked", seq=n, drive="parked", offset=n))
        table.append(pa.Table.from_pylist(rows, ARRIVALS))
        del rows
    write_lake_lock(place.lake_lock_path, {"arrivals": table})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    times: dict[str, float] = {}
    found = timed(times, "curate", lambda: curate(place))
    return {
        "frames": frames, "seconds": times, "counts": found.manifest["counts"],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "peak_mb_before": before,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--parked", type=int, default=0)
    parser.add_argument("--flood", type=int, default=0)
    chosen = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        if chosen.parked:
            found = parked(root / "parked", chosen.parked)
        elif chosen.flood:
            found = flooded(root, chosen.frames, chosen.budget, chosen.rounds, chosen.flood)
        else:
            found = in_rounds(root, chosen.frames, chosen.budget, chosen.rounds)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()

"""A lake of made arrivals with labels, measures and known near pairs, for the benchmark of curation: the same for a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from connectors.lake.lock import write_lake_lock
from connectors.lake.schema import ARRIVALS, LABELS
from connectors.lake.table import LakeTable
from pipelines.curate.quality import FEATURES
from pipelines.curate.run import cache_of
from workspace.layout import Workspace

CLASSES = ("green", "red", "yellow")
EMBEDDING = 16
PARAMS = f"classes: [{', '.join(CLASSES)}]\nsplit: {{}}\ncurate: {{}}\nlabel: {{}}\nvalidate: {{}}\n"


def make_lake(folder: Path, count: int, seed: int) -> Workspace:
    """A workspace whose lake has `count` arrivals, whose measures and pairs are known."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    (folder / "fleetloop.toml").write_text('name = "bench"\nlock_wait_s = 5\n')
    (folder / "params.yaml").write_text(PARAMS)
    workspace = Workspace.open(folder)
    arrivals = LakeTable.create(workspace.lake_path / "arrivals", ARRIVALS)
    labels = LakeTable.create(workspace.lake_path / "labels", LABELS)
    source = np.arange(count)
    copies = rng.choice(count, count // 50, replace=False)
    source[copies] = rng.integers(0, count, len(copies))
    names = pl.Series([f"{value:016x}" * 4 for value in rng.permutation(count)])
    shas = names.gather(source)
    for begin in range(0, count, 125_000):
        arrivals.append(_arrivals(begin, min(begin + 125_000, count), shas, rng))
    payloads = shas.unique(maintain_order=True)
    labels.append(_labels(payloads, rng))
    write_lake_lock(workspace.lake_lock_path, {"arrivals": arrivals, "labels": labels})
    cache = cache_of(workspace)
    cache.write_features(_features(payloads, rng))
    return workspace


def _arrivals(begin: int, end: int, shas: pl.Series, rng: np.random.Generator) -> pa.Table:
    n, size = np.arange(begin, end), end - begin
    vehicle = n % 40
    texts = {
        "origin": np.full(size, "log"),
        "cluster": np.full(size, "c"),
        "topic": np.full(size, "t"),
        "topic_id": np.full(size, "t"),
        "outcome": np.where(rng.random(size) < 0.97, "landed", "resent"),
        "vehicle_id": np.char.add("car-", vehicle.astype(str)),
        "epoch": np.full(size, "00000000000000aa"),
        "drive_id": np.char.add("drive-", (vehicle * 1000 + n // 40 // 500).astype(str)),
        "track_id": (n // 40 // 5).astype(str),
        "sensor_id": np.full(size, "front"),
        "time_quality": np.full(size, "ok"),
        "provenance": np.full(size, "simulated"),
        "model_name": np.full(size, "m"),
        "model_digest": np.full(size, "d" * 64),
        "predicted_class": np.array(CLASSES)[n % 3],
        "rule_id": np.full(size, "uncertain"),
    }
    numbers: dict[str, np.ndarray] = {
        "partition": np.zeros(size, np.int32),
        "offset": n,
        "offset_end": n + 1,
        "seq": n // 40,
        "capture_time_ns": 1_790_000_000_000_000_000 + (n // 40) * 100_000_000,
        "ingest_time_ns": n,
        "selection_probability": rng.random(size),
    } | {f"score_{name}": rng.random(size) for name in ("entropy", "margin", "least_confidence", "novelty")}
    columns: dict[str, pa.Array] = {name: pa.array(values) for name, values in {**texts, **numbers}.items()}
    columns["payload_sha256"] = pa.array(shas[begin:end].to_list())
    vectors = pa.array(rng.random(size * EMBEDDING, dtype=np.float32))
    ends = pa.array(np.arange(0, (size + 1) * EMBEDDING, EMBEDDING, dtype=np.int32))
    columns["embedding"] = pa.ListArray.from_arrays(ends, vectors)
    arrays = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(size, f.type) for f in ARRIVALS]
    return pa.Table.from_arrays(arrays, schema=ARRIVALS)


def _labels(payloads: pl.Series, rng: np.random.Generator) -> pa.Table:
    asked = payloads.gather(np.sort(rng.choice(len(payloads), len(payloads) // 3, replace=False)))
    classes = np.array([*CLASSES, "blue"])[rng.choice(4, len(asked), p=[0.4, 0.3, 0.299, 0.001])]
    frame = pl.DataFrame(
        {
            "payload_sha256": asked,
            "class_name": classes,
            "labeller": "desk",
            "labelled_time_ns": 5,
            "cost": 1.0,
            "request_id": "r",
        }
    )
    table = frame.to_arrow()
    arrays = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(len(frame), field.type)
        for field in LABELS
    ]
    return pa.Table.from_arrays(arrays, schema=LABELS)


def random_hashes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Words of hashes; one in twenty is up to 40 flipped bits away from another."""
    words = rng.integers(0, 2**64, (count, 4), dtype=np.uint64)
    near = rng.choice(count, count // 20, replace=False)
    bits = np.unpackbits(words[rng.integers(0, count, len(near))].view(np.uint8), axis=1)
    flips = rng.integers(0, 40, len(near))
    for at, flipped in enumerate(flips):
        bits[at, rng.integers(0, 256, flipped)] ^= 1
    words[near] = np.packbits(bits, axis=1).view(np.uint64)
    return words


def _features(payloads: pl.Series, rng: np.random.Generator) -> pl.DataFrame:
    size = len(payloads)
    data = random_hashes(size, rng).tobytes()
    return pl.DataFrame(
        {
            "payload_sha256": payloads,
            "width_pixels": rng.integers(4, 200, size),
            "height_pixels": rng.integers(4, 200, size),
            "payload_bytes": rng.integers(2_000, 50_000, size),
            "luma": rng.random(size) * 255,
            "sharpness": rng.random(size),
            "condition": "normal",
            "image_hash": [data[at : at + 32] for at in range(0, len(data), 32)],
            "unreadable": None,
        }
    ).select([pl.col(name).cast(kind) for name, kind in FEATURES.items()])

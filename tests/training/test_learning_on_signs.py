"""Real pictures, the German traffic signs, where they are at hand: a class that v1 never saw is learned."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from modelkit.digest import sha256_hex
from modelkit.images import condition_of, decode_image
from schemas.reasons import Split
from tests.training.training_shapes import write_shard
from training.initial import train_initial
from training.judge import run_evaluate
from training.params import EvaluateParams, GateParams, QuantiseParams, TrainParams
from training.registry import set_base
from training.rows import Row
from training.stages import run_quantise, run_train
from workspace.layout import Workspace

SIGNS = Path(os.environ.get("FLEETLOOP_DATA", Path(__file__).parents[3] / "shared" / "data")) / "gtsrb32"
CLASSES = {13: "yield", 12: "priority", 38: "keep-right", 14: "stop"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SIGNS / "train.parquet").is_file(), reason=f"gtsrb32 is not at {SIGNS}"),
]


def split_of(drive_id: str) -> Split:
    if drive_id.startswith("test-"):
        return Split.TEST
    is_validation = int(hashlib.sha256(drive_id.encode()).hexdigest(), 16) % 8 == 0
    return Split.VALIDATION if is_validation else Split.TRAIN


def signs(part: str, count: int) -> list[tuple[Row, bytes]]:
    """`count` signs a class; every track of the training part is a drive of its own."""
    table = pq.read_table(SIGNS / f"{part}.parquet", columns=["png", "class_id", "track"])
    classes = np.array(table["class_id"])
    rows = []
    for number, name in CLASSES.items():
        for index in (
            np.random.default_rng(number).permutation(np.flatnonzero(classes == number))[:count].tolist()
        ):
            payload = table["png"][index].as_py()
            image = decode_image(payload)
            track = table["track"][index].as_py() or f"row-{index}"
            digest = sha256_hex(payload)
            rows.append(
                (Row(image, digest, name, f"{part}-{track}", track, condition_of(image), "fleet"), payload)
            )
    return rows


def test_a_sign_that_the_first_model_never_saw_is_learned_and_the_gate_sees_it(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    pool = [pair for pair in signs("train", 180) if split_of(pair[0].drive_id) is not Split.TEST]
    first = [row for row, _ in pool[::3] if split_of(row.drive_id) is Split.TRAIN]
    params = TrainParams(epochs=8)
    made = train_initial(
        place.registry_path, first, name="v1", classes=tuple(CLASSES.values()), split_of=split_of, params=params,
        excluded_classes=["stop"],
    )  # fmt: skip
    set_base(place.registry_path, made.record)
    for split in (Split.TRAIN, Split.VALIDATION):
        write_shard(place.dataset_path, split, [pair for pair in pool if split_of(pair[0].drive_id) is split])
    write_shard(place.dataset_path, Split.TEST, signs("test", 60))
    run_train(place, params, split_of)
    parity = run_quantise(place, QuantiseParams())["parity"]
    assert parity[2]["agreement_ratio"] >= 0.97  # type: ignore[index]
    found = run_evaluate(
        place,
        EvaluateParams(bootstrap_samples=300, latency_runs=20),
        GateParams(margin=0.1, max_latency_ratio=10.0),
    )
    summary = found["evaluation"]["summary"]
    assert summary["class:stop"]["before"] == 0.0
    assert summary["class:stop"]["after"] >= 0.8
    assert summary["overall"]["after"] >= 0.9
    assert found["gate"]["passed"], found["gate"]["reason"]

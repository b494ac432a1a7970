"""The demo claims a guarantee only when it had something to look at."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fleetloop.demo.prove import Verdict, _split_holds
from pipelines.curate.params import load_params
from pipelines.curate.split import split_of
from schemas.reasons import Split

ROOT = Path(__file__).parents[2]
DRIVES = [f"drive-{number}" for number in range(200)]


def drive_of(split: Split) -> str:
    params = load_params(ROOT / "params.yaml")
    return next(drive for drive in DRIVES if split_of(drive, params.split) is split)


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    shards = tmp_path / "datasets" / "current" / "shards"
    shards.mkdir(parents=True)
    for seed, split in enumerate((Split.TRAIN, Split.TEST)):
        rows = {"payload": [picture(seed)], "drive_id": [drive_of(split)], "payload_sha256": [str(seed)]}
        pq.write_table(pa.table(rows), shards / f"{split.value}-00000.parquet")
    model = tmp_path / "registry" / "models" / "v1"
    model.mkdir(parents=True)
    (model / "model.json").write_text(json.dumps({"training_drives": [drive_of(Split.TRAIN)]}))
    return tmp_path


def verdict(workspace: Path) -> Verdict:
    facts: Any = SimpleNamespace(
        workspace=workspace, learnt=SimpleNamespace(manifest={"counts": {"removed": {}}})
    )
    return _split_holds(facts)


def test_far_test_and_training_frames_show_that_the_split_holds(workspace: Path) -> None:
    assert verdict(workspace).held is True


@pytest.mark.parametrize("missing", [Split.TRAIN, Split.TEST])
def test_without_a_pair_of_frames_to_compare_the_split_is_not_proven(missing: Split, workspace: Path) -> None:
    (workspace / "datasets" / "current" / "shards" / f"{missing.value}-00000.parquet").unlink()
    assert verdict(workspace).held is False
    assert "there is no pair of a test frame and a training frame" in verdict(workspace).evidence


def test_a_training_frame_that_is_a_test_frame_breaks_the_split(workspace: Path) -> None:
    shards = workspace / "datasets" / "current" / "shards"
    rows = {"payload": [picture(1)], "drive_id": [drive_of(Split.TRAIN)], "payload_sha256": ["1"]}
    pq.write_table(pa.table(rows), shards / f"{Split.TRAIN.value}-00001.parquet")
    assert verdict(workspace).held is False

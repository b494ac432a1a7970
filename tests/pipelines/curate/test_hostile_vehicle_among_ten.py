"""One hostile vehicle among ten: the rows of the others are what they were without it, and so are their labels but a tenth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa
import pytest

from connectors.labels.ports import Label
from connectors.lake.lock import write_lake_lock
from connectors.lake.schema import LABELS
from connectors.lake.table import LakeTable
from pipelines.curate.labelling import label
from pipelines.curate.params import SplitParams
from pipelines.curate.split import split_of
from pipelines.dataset.make import curate
from pipelines.dataset.manifest import read_rows
from pipelines.validate.stage import pairs_with_test, validate
from schemas.reasons import Split
from tests.pipelines.curate_lake import (
    PARAMS,
    arrival,
    fleet_rows,
    label_rows,
    make_workspace,
    picture,
    reference_rows,
)
from workspace.layout import Workspace

Rows = list[dict[str, object]]
VEHICLES, DRIVES, FRAMES = 9, 27, 6
SPLIT = SplitParams(validation_ratio=0.2, test_ratio=0.3)
BUDGET = 40


@cache
def _picture(seed: int, light: float) -> bytes:
    return picture(seed, light=light)


def honest() -> Rows:
    return [
        row | {"vehicle_id": f"car-{int(str(row['drive_id']).removeprefix('drive-')) % VEHICLES}"}
        for row in fleet_rows(DRIVES, FRAMES)
    ]


def sent(seeds: Sequence[int], first: int, drive: str, *, light: float = 1.0, **changes: object) -> Rows:
    """Frames of the hostile vehicle, with what it likes to say of them."""
    says = {"score_entropy": 1.0, "score_margin": 1.0, "score_least_confidence": 1.0, "track_id": None}
    return [
        arrival(
            _picture(seed, light), vehicle="evil", seq=first + n, drive=drive, offset=10_000 + first + n,
            **{**says, **changes},
        )
        for n, seed in enumerate(seeds)
    ]  # fmt: skip


def drive_of(split: Split) -> str:
    return next(name for name in (f"evil-{n}" for n in range(99)) if split_of(name, SPLIT) is split)


def attacks() -> dict[str, Rows]:
    """Each attack by name; what is copied are the pictures of the others, of the fleet and of the reference."""
    seeds = [*range(DRIVES * FRAMES), *range(10_000, 10_060)]
    test, train = drive_of(Split.TEST), drive_of(Split.TRAIN)
    claimed: Rows = []
    for n in range(DRIVES):
        begin = 4 * n
        claimed += sent(
            range(20_000 + begin, 20_004 + begin), 3_000 + begin, f"drive-{n}", track_id="track-0"
        )
    nothing: dict[str, object] = {"payload": b""}
    return {
        "near copies in a test drive": sent(seeds, 0, test, light=1.02),
        "exact copies in a test drive": sent(seeds, 1_000, test),
        "near copies in a training drive": sent(seeds, 2_000, train, light=0.98),
        "another's drives and tracks": claimed,
        "a backward clock": [
            row | {"capture_time_ns": -int(str(row["seq"]))}
            for row in sent(range(30_000, 30_030), 4_000, "back")
        ],
        "a class and a form of embeddings of its own in each frame": [
            row | {"predicted_class": f"new-{n}", "embedding": [1.0] * (n + 4)}
            for n, row in enumerate(sent(range(31_000, 31_060), 5_000, "many"))
        ],
        "references to what is not there": [
            row | nothing | {"payload_uri": "file:///etc/passwd"}
            for row in sent(range(32_000, 32_010), 6_000, "far")
        ],
    }


class Desk:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        self.asked += payload_sha256s
        return [Label(sha, "red", "desk", 9, 1.0) for sha in payload_sha256s]


def made(root: Path, rows: Rows, params: dict[str, object] | None = None) -> Workspace:
    """The labels of the honest rows were paid for before, each for the frame that was asked."""
    labels = [
        {**answer, "identity": f"{row['vehicle_id']}/{row['epoch']}/{row['seq']}"}
        for row, answer in zip(honest(), label_rows(honest()), strict=True)
    ]
    return make_workspace(root, rows, labels, reference_rows(60), params=params)


def dataset(place: Workspace) -> pl.DataFrame:
    curate(place)
    return read_rows(place.dataset_path).filter(pl.col("vehicle_id").ne_missing("evil"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return dataset(made(tmp_path_factory.mktemp("alone") / "ws", honest()))


@pytest.mark.parametrize("attack", [*attacks(), "all of them"])
def test_no_attack_of_one_vehicle_takes_a_row_from_the_dataset_of_the_others(
    attack: str, alone: pl.DataFrame, tmp_path: Path
) -> None:
    every = attacks()
    hostile = every.get(attack) or [row for rows in every.values() for row in rows]
    place = made(tmp_path / "ws", honest() + hostile)
    assert alone.height > 150
    assert dataset(place).equals(alone)
    assert validate(place, with_expectations=False)["success"]


def test_what_a_vehicle_sent_later_takes_no_row_from_the_others_even_where_it_all_was_labelled(
    alone: pl.DataFrame, tmp_path: Path
) -> None:
    hostile = [row for rows in attacks().values() for row in rows]
    curating = {**cast("dict[str, object]", PARAMS["curate"]), "quarantine": {"max_failing_ratio": 1.0}}
    place = made(tmp_path / "ws", honest() + hostile, PARAMS | {"curate": curating})
    taken = {row["payload_sha256"] for row in [*honest(), *reference_rows(60)]}
    asked = {row["payload_sha256"]: row for row in hostile if row["payload_sha256"] not in taken}
    paid = [
        {**answer, "identity": f"evil/{row['epoch']}/{row['seq']}"}
        for row, answer in zip(asked.values(), label_rows([*asked.values()]), strict=True)
    ]
    LakeTable.open(place.labels_uri).append(pa.Table.from_pylist(paid, LABELS))
    lock = {name: LakeTable.open(place.lake_path / name) for name in ("arrivals", "labels", "reference")}
    write_lake_lock(place.lake_lock_path, lock)
    curate(place)
    every = read_rows(place.dataset_path)
    assert every.filter(pl.col("vehicle_id") == "evil").height > 100
    assert every.filter(pl.col("vehicle_id").ne_missing("evil")).equals(alone)
    assert pairs_with_test(every, 29).is_empty()


def test_all_attacks_of_one_vehicle_together_leave_the_others_nine_tenths_of_the_labels(
    tmp_path: Path,
) -> None:
    # Two thirds of the honest frames have no label yet.
    paid = label_rows(honest(), every=3)
    hostile = [row for rows in attacks().values() for row in rows]
    of: dict[str, Counter[str]] = {}
    for name, rows in (("alone", honest()), ("beside", honest() + hostile)):
        place = make_workspace(
            tmp_path / name,
            rows,
            paid,
            reference_rows(60),
            params=PARAMS | {"label": {"at_most_per_track": 3}},
        )
        desk = Desk()
        label(place, desk, BUDGET)
        owner = {row["payload_sha256"]: "evil" for row in hostile} | {
            row["payload_sha256"]: str(row["vehicle_id"]) for row in honest()
        }
        of[name] = Counter(owner[sha] for sha in desk.asked)
    assert of["alone"].total() == BUDGET
    assert of["beside"].total() - of["beside"]["evil"] >= 0.9 * BUDGET
    assert all(of["beside"][f"car-{n}"] >= of["alone"][f"car-{n}"] - 1 for n in range(VEHICLES))

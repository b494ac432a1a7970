"""A budget is kept, tracks are limited, and the same candidates give the same choice in any order."""

from __future__ import annotations

import dataclasses
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import MisconfiguredError
from pipelines.curate.params import LabelParams, Strategy
from pipelines.curate.selection import SELECTED, select

SCHEMA = {
    "payload_sha256": pl.String,
    "vehicle_id": pl.String,
    "drive_id": pl.String,
    "track_id": pl.String,
    "split": pl.String,
    "predicted_class": pl.String,
    "class_name": pl.String,
    "reason": pl.String,
    "model_digest": pl.String,
    "score_entropy": pl.Float64,
    "score_margin": pl.Float64,
    "score_least_confidence": pl.Float64,
    "embedding": pl.List(pl.Float32),
}


def frames(count: int, *, labelled: bool = False, first: int = 0) -> pl.DataFrame:
    """Frames in tracks of three, one drive in four is a test drive, classes 2 : 1 : 1."""
    return pl.DataFrame(
        [
            {
                "payload_sha256": f"{number:064x}",
                "vehicle_id": "car",
                "drive_id": f"d{number % 8}",
                "track_id": f"t{number // 24}",
                "split": "test" if number % 8 in (0, 1) else "train",
                "predicted_class": "aabc"[number % 4],
                "class_name": "aabc"[number % 4] if labelled else None,
                "model_digest": "m",
                "score_entropy": (number * 7 % 50) / 50,
                "score_margin": (number * 13 % 60) / 60,
                "score_least_confidence": float("nan") if number % 5 == 0 else 0.5,
                "embedding": [float(number % 7), float(number % 3), 1.0],
            }
            for number in range(first, first + count)
        ],
        schema=SCHEMA,
    )


@settings(max_examples=40)
@given(
    st.sampled_from(list(Strategy)),
    st.integers(0, 60),
    st.integers(1, 3),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.integers(0, 1000),
)
def test_every_strategy_keeps_the_budget_and_the_track_limit_in_any_order(
    strategy: Strategy, budget: int, limit: int, chance: float, test: float, seed: int
) -> None:
    params = LabelParams(strategy, limit, chance, test, seed)
    candidates, labelled = frames(90), frames(12, labelled=True, first=200)
    chosen = select(candidates, labelled, budget, params)
    again = select(candidates.sample(fraction=1, shuffle=True, seed=seed), labelled, budget, params)
    assert chosen.columns == list(SELECTED)
    assert chosen.equals(again)
    assert chosen.height <= budget
    assert chosen["payload_sha256"].is_unique().all()
    most = limit + (params.repeats_per_track if strategy is Strategy.COVERAGE else 0)
    assert max(Counter(chosen.select("drive_id", "track_id").iter_rows()).values(), default=0) <= most
    assert chosen.filter(pl.col("arm") == "random")["split"].is_in(["train"]).all()
    assert chosen.filter(pl.col("arm").str.starts_with("test"))["split"].is_in(["test"]).all()


def test_frames_of_a_track_that_has_its_labels_are_not_asked_for() -> None:
    candidates, params = frames(24), LabelParams(Strategy.MARGIN, 1, 0.0, 0.0)
    everything = select(candidates, frames(24, labelled=True), 24, params)
    assert everything.is_empty()


def test_uncertainty_asks_for_the_most_uncertain_first() -> None:
    chosen = select(frames(40), frames(0), 5, LabelParams(Strategy.ENTROPY, 100, 0.0, 0.0))
    best = frames(40).filter(pl.col("split") == "train").sort("score_entropy", descending=True)
    assert chosen["worth"].to_list() == best["score_entropy"].head(5).to_list()


def test_class_balance_asks_for_the_class_with_the_fewest_labels_first() -> None:
    labelled = frames(40, labelled=True, first=400).filter(pl.col("class_name") != "c")
    chosen = select(frames(80), labelled, 8, LabelParams(Strategy.CLASS_BALANCED, 100, 0.0, 0.0))
    assert set(chosen["predicted_class"]) == {"c"}


def test_diversity_takes_distinct_embeddings_before_it_repeats_one() -> None:
    candidates = frames(80)
    chosen = select(candidates, frames(0), 6, LabelParams(Strategy.DIVERSE, 100, 0.0, 0.0))
    taken = candidates.join(chosen.select("payload_sha256"), on="payload_sha256")["embedding"].to_list()
    assert len({tuple(vector) for vector in taken}) == 6


def test_what_one_arm_cannot_spend_the_others_may() -> None:
    only_test = frames(80).filter(pl.col("split") == "test")
    chosen = select(only_test, frames(0), 10, LabelParams(Strategy.MARGIN, 1, 0.1, 0.2))
    assert dict(chosen.group_by("arm").len().iter_rows()) == {"test": 2, "test (spare)": 6}
    assert chosen.height == 8  # all the tracks there are


def test_a_negative_budget_is_refused_by_name() -> None:
    with pytest.raises(MisconfiguredError, match="-1"):
        select(frames(3), frames(0), -1, LabelParams())


def test_another_seed_draws_others_by_chance() -> None:
    params = LabelParams(Strategy.RANDOM, 100, 0.0, 0.0)
    first = select(frames(80), frames(0), 10, params)["payload_sha256"].to_list()
    second = select(frames(80), frames(0), 10, dataclasses.replace(params, seed=1))[
        "payload_sha256"
    ].to_list()
    assert first != second

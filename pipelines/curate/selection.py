"""Select the frames most worth a label, at most so many per track; the same input selects the same frames.

Three arms share the budget: `test` (at random among test drives, so that the test set stays an unbiased sample),
`random` (at random among the others: the baseline of the strategy) and the strategy. What one arm cannot spend, the
next may. Why the limit per track: measured on traffic signs, 1,000 least-confident frames lost to 1,000 random ones
(77.9 % against 86.3 %), and won (90.7 %) once limited to one per track. Only `coverage` selects a track again, when
a label showed that its class is rare. Refuses to select a frame that has a label or was removed.
"""

from __future__ import annotations

import polars as pl

from foundation.errors import MisconfiguredError
from pipelines.curate.coverage import cover
from pipelines.curate.params import LabelParams, Strategy
from pipelines.curate.scores import farthest_first, with_worth
from schemas.reasons import Split

SELECTED = ("payload_sha256", "arm", "worth", "predicted_class", "drive_id", "track_id", "split")
_POOL_FACTOR = 10
"""The diverse strategy chooses among the most valuable frames, this many times its budget."""


def select(
    candidates: pl.DataFrame, labelled: pl.DataFrame, budget: int, params: LabelParams
) -> pl.DataFrame:
    """Return at most `budget` rows with the columns of SELECTED, the test arm first, each arm in order of choice.

    Args:
        candidates: one row per frame that is kept and has no label.
        labelled: one row per frame that has a label; they count towards their track's limit and their class.
        budget: the number of labels that may be paid for.

    Raises MisconfiguredError when `budget` is negative.
    """
    if budget < 0:
        raise MisconfiguredError(f"the labelling budget is {budget}, must be at least 0")
    frames = with_worth(candidates, params.strategy, params.seed).with_columns(
        _track_key().alias("track_key")
    )
    used = labelled.with_columns(_track_key().alias("track_key")).group_by("track_key").len("used")
    frames = frames.join(used, on="track_key", how="left").with_columns(pl.col("used").fill_null(0))
    is_test = pl.col("split") == str(Split.TEST)
    test = _within_tracks(frames.filter(is_test), ["chance"], params).head(int(budget * params.test_ratio))
    others = frames.filter(~is_test)
    by_chance = _within_tracks(others, ["chance"], params).head(int(budget * params.random_ratio))
    rest = _take_out(others, by_chance)
    strategy = _by_strategy(rest, labelled, budget - test.height - by_chance.height, params)
    spare = budget - test.height - by_chance.height - strategy.height
    more = _within_tracks(_take_out(frames.filter(is_test), test), ["chance"], params).head(spare)
    arms = {"test": test, "random": by_chance, str(params.strategy): strategy, "test (spare)": more}
    return pl.concat(
        [chosen.with_columns(pl.lit(arm).alias("arm")).select(SELECTED) for arm, chosen in arms.items()]
    )


def _track_key() -> pl.Expr:
    """Return a key that is unique over drives; a frame without a track is a track of its own."""
    return pl.concat_str(
        "drive_id", pl.lit("\0"), pl.coalesce("track_id", pl.concat_str(pl.lit("\0"), "payload_sha256"))
    )


def _within_tracks(frames: pl.DataFrame, order: list[str], params: LabelParams) -> pl.DataFrame:
    """Return `frames` in `order`, without those beyond the limit of their track."""
    descending = [name == "worth" for name in order]
    ordered = frames.sort(order, descending=descending, maintain_order=True)
    place = pl.col("used") + pl.int_range(pl.len()).over("track_key")
    return ordered.filter(place < params.at_most_per_track)


def _take_out(frames: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """Return `frames` without the chosen ones, which now count towards the limit of their track."""
    counts = chosen.group_by("track_key").len("chosen")
    return (
        frames.join(chosen.select("payload_sha256"), on="payload_sha256", how="anti")
        .join(counts, on="track_key", how="left")
        .with_columns((pl.col("used") + pl.col("chosen").fill_null(0)).alias("used"))
        .drop("chosen")
    )


def _by_strategy(
    frames: pl.DataFrame, labelled: pl.DataFrame, budget: int, params: LabelParams
) -> pl.DataFrame:
    if budget <= 0:
        return frames.clear()
    if params.strategy is Strategy.COVERAGE:
        examples = labelled.with_columns(_track_key().alias("track_key"))
        return frames[cover(frames, examples, budget, params.at_most_per_track, params.repeats_per_track)]
    order = ["chance"] if params.strategy is Strategy.RANDOM else ["worth", "chance"]
    ordered = _within_tracks(frames, order, params)
    if params.strategy is Strategy.DIVERSE:
        pool = ordered.head(budget * _POOL_FACTOR)
        return pool[farthest_first(pool, labelled, budget)]
    if params.strategy is Strategy.CLASS_BALANCED:
        ordered = _fewest_first(ordered, labelled)
    return ordered.head(budget)


def _fewest_first(ordered: pl.DataFrame, labelled: pl.DataFrame) -> pl.DataFrame:
    """Order by the predicted class with the fewest labels at each point; of equal classes the first by name."""
    has = labelled.group_by(pl.col("class_name").alias("predicted_class")).len("labels")
    level = pl.col("labels").fill_null(0) + pl.int_range(pl.len()).over("predicted_class")
    return (
        ordered.join(has, on="predicted_class", how="left", maintain_order="left")
        .with_columns(level.alias("level"))
        .sort("level", "predicted_class", maintain_order=True, nulls_last=True)
        .drop("level", "labels")
    )

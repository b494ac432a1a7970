"""Near-duplicates are removed and name their match; none of a labelled test frame stays outside test (guarantee 5).

Two rules over the exact pairs of `near_pairs`, both pure functions of the set of frames, so that order cannot
matter:
1. a frame of training or validation leaves that is near a good, labelled frame of a test drive, of whatever vehicle; and
   one that is near any readable test frame of its own vehicle, because a later version may use that;
2. of every other pair inside training and validation, and of every pair inside test, the labelled frame is kept (a
   paid label is not thrown away), then the one with the smaller sha256; the other is removed. Two unlabelled frames of
   different vehicles both stay: neither vehicle can keep the other's frames from being labelled.
So what a vehicle sends, and nobody chose to label, removes nothing of another vehicle.
Nearness is not transitive and nothing is grouped: measured on traffic signs, groups would remove 43 % of all frames.
"""

from __future__ import annotations

import polars as pl

from schemas.reasons import RemovalReason, Split

_TEST = str(Split.TEST)


def remove_near_duplicates(frames: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Return one row per removed frame: payload_sha256, reason, match_sha256 and distance.

    Args:
        frames: one row per distinct payload: payload_sha256, split, vehicle_id ("": of no vehicle), is_labelled, is_good
            (passed the quality rules).
        pairs: rows of `near_pairs.PAIR_SCHEMA`; a pair may occur once per measure.
    """
    both = pl.concat(
        [
            pairs.select(
                pl.col("sha_a").alias("payload_sha256"), pl.col("sha_b").alias("match_sha256"), "distance"
            ),
            pairs.select(
                pl.col("sha_b").alias("payload_sha256"), pl.col("sha_a").alias("match_sha256"), "distance"
            ),
        ]
    )
    known = frames.select("payload_sha256", "split", "vehicle_id", "is_labelled", "is_good")
    both = both.join(known, on="payload_sha256").join(
        known.rename({"payload_sha256": "match_sha256"}), on="match_sha256", suffix="_match"
    )
    is_own = pl.col("vehicle_id") == pl.col("vehicle_id_match")
    is_admitted = pl.col("is_labelled_match") & pl.col("is_good_match")
    is_of_test = (pl.col("split") != _TEST) & (pl.col("split_match") == _TEST) & pl.col("is_good")
    of_test = _nearest(both.filter(is_of_test & (is_own | is_admitted)))
    left = both.filter(pl.col("is_good") & pl.col("is_good_match"))
    left = left.filter(is_own | pl.col("is_labelled") | pl.col("is_labelled_match"))
    left = left.filter((pl.col("split") == _TEST) == (pl.col("split_match") == _TEST))
    for side in ("payload_sha256", "match_sha256"):
        left = left.join(of_test.select(pl.col("payload_sha256").alias(side)), on=side, how="anti")
    match_stays = (pl.col("is_labelled_match") & ~pl.col("is_labelled")) | (
        (pl.col("is_labelled_match") == pl.col("is_labelled"))
        & (pl.col("match_sha256") < pl.col("payload_sha256"))
    )
    return pl.concat(
        [
            of_test.with_columns(pl.lit(str(RemovalReason.NEAR_DUPLICATE_OF_TEST)).alias("reason")),
            _nearest(left.filter(match_stays)).with_columns(
                pl.lit(str(RemovalReason.NEAR_DUPLICATE)).alias("reason")
            ),
        ]
    ).sort("payload_sha256")


def _nearest(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return the nearest match of every frame; of equally near ones the smallest sha256."""
    return (
        pairs.sort("payload_sha256", "distance", "match_sha256")
        .unique("payload_sha256", keep="first", maintain_order=True)
        .select("payload_sha256", "match_sha256", "distance")
    )

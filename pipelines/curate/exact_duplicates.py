"""One of the frames with equal bytes is kept, whatever the order of arrival: a test drive's first, then by identity.

What was asked to be labelled goes before every copy of it; of two vehicles that send bytes which nobody labelled the one
that was first in the lake keeps them (no dataset has them yet); and a reference picture for training before a vehicle's copy
in a test drive: a vehicle that sends another's bytes takes no row from it.
A copy in training of a frame of a test drive is removed as a near-duplicate of test at distance 0 (guarantee 5);
every other copy is removed as an exact duplicate. Both name the identity that is kept.
"""

from __future__ import annotations

import polars as pl

from schemas.reasons import RemovalReason, Split


def remove_exact_duplicates(rows: pl.DataFrame) -> pl.DataFrame:
    """Return `rows` with reason, match_sha256, match_identity and distance on the copies that are removed.

    Needs the columns reason, payload_sha256, identity, split, source, vehicle_id, epoch, seq, drive_id,
    track_id, label_identity (of the frame that was asked to be labelled; null: unknown), labeller and ingest_time_ns. A
    fleet row is kept rather than a reference row of the same split; rows that have a reason already are skipped.
    """
    is_for_training = (pl.col("source") != "fleet") & (pl.col("split") != str(Split.TEST))
    displaces = (pl.col("source") == "fleet") & (pl.col("split") == str(Split.TEST))
    is_contested = (pl.col("labeller").is_null().all() & (pl.col("vehicle_id").n_unique() > 1)).over(
        "payload_sha256"
    )
    order = [
        (pl.col("identity") != pl.col("label_identity")).fill_null(True),
        pl.when(is_contested).then("ingest_time_ns"),
        displaces & is_for_training.any().over("payload_sha256"),
        pl.col("split") != str(Split.TEST),
        pl.col("source") != "fleet",
        "vehicle_id",
        "epoch",
        "seq",
        "drive_id",
        "track_id",
    ]
    wanted = ["fragment_id", "row", "payload_sha256", "identity", "split", "source"]
    present = rows.lazy().filter(pl.col("reason").is_null())
    # Only rows that have a copy are sorted, and only by the columns that decide.
    deciding = [*wanted, "vehicle_id", "epoch", "seq", "drive_id", "track_id", "label_identity", "labeller"]
    doubled = present.select(*deciding, "ingest_time_ns").filter(pl.col("payload_sha256").is_duplicated())
    ranked = doubled.sort("payload_sha256", *order, nulls_last=True).select(
        "fragment_id",
        "row",
        pl.col("identity").first().over("payload_sha256").alias("kept_identity"),
        pl.col("split").first().over("payload_sha256").alias("kept_split"),
        pl.int_range(pl.len()).over("payload_sha256").alias("rank"),
    )
    copies = ranked.filter(pl.col("rank") > 0).collect()
    marked = rows.join(copies, on=["fragment_id", "row"], how="left", maintain_order="left")
    is_copy = pl.col("rank").is_not_null()
    of_test = (pl.col("kept_split") == str(Split.TEST)) & (pl.col("split") != str(Split.TEST))
    reason = (
        pl.when(of_test)
        .then(pl.lit(str(RemovalReason.NEAR_DUPLICATE_OF_TEST)))
        .otherwise(pl.lit(str(RemovalReason.EXACT_DUPLICATE)))
    )
    return marked.with_columns(
        pl.when(is_copy).then(reason).otherwise("reason").alias("reason"),
        pl.when(is_copy).then("payload_sha256").otherwise("match_sha256").alias("match_sha256"),
        pl.when(is_copy).then("kept_identity").otherwise("match_identity").alias("match_identity"),
        pl.when(is_copy).then(0.0).otherwise("distance").alias("distance"),
    ).drop("kept_identity", "kept_split", "rank")

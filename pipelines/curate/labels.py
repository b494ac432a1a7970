"""Every frame gets the one label of its payload: the newest answer; the lake's table before the reference's own.

Labels belong to payloads, not to arrivals: a resent or copied frame is never labelled twice. It refuses to
pick between answers by their order in the table: time decides, then the labeller's name, then the class.
"""

from __future__ import annotations

import polars as pl


def resolve_labels(labels: pl.DataFrame) -> pl.DataFrame:
    """One row a payload: payload_sha256, class_name, labeller; from the table `labels`."""
    return (
        labels.sort("payload_sha256", "labelled_time_ns", "labeller", "class_name", "cost")
        .unique("payload_sha256", keep="last", maintain_order=True)
        .select("payload_sha256", "class_name", "labeller")
    )


def join_labels(rows: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """`rows` with class_name and labeller (null without a label). Needs payload_sha256 and reference_class.

    A reference row's own class counts for every row with its payload, unless the table says otherwise.
    """
    own = (
        rows.filter(pl.col("reference_class").is_not_null())
        .sort("payload_sha256", "reference_class")
        .unique("payload_sha256", keep="first", maintain_order=True)
        .select(
            "payload_sha256",
            pl.col("reference_class").alias("own_class"),
            pl.lit("reference").alias("own_labeller"),
        )
    )
    joined = rows.join(resolve_labels(labels), on="payload_sha256", how="left", maintain_order="left").join(
        own, on="payload_sha256", how="left", maintain_order="left"
    )
    return joined.with_columns(
        pl.coalesce("class_name", "own_class").alias("class_name"),
        pl.coalesce("labeller", "own_labeller").alias("labeller"),
    ).drop("own_class", "own_labeller")

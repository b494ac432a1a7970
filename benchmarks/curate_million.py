"""Curation of 1 million rows of metadata beside the same work in plain polars, and the search for near pairs alone.

The lake is a real Delta table of 1 million arrivals with labels; every payload is in the cache of measures, as after an
earlier run, so no image is decoded. The product's side is `run_rows` without shards: Beam, fragments, checks and all. The
plain side reads the same Parquet files and writes the same answer with polars alone, in one process: labels, splits,
exact duplicates, quality, near-duplicates from the known pairs, validation rules, shard numbers. Both must count the same.
The search for pairs is compared apart, with the same bands written as polars joins, because it has no plain form.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.lake_of_a_million import CLASSES, make_lake, random_hashes
from benchmarks.port import Measure, Step, paired_ratio
from connectors.lake.lock import read_lake_lock
from pipelines.curate.fragments import FLEET_COLUMNS, open_snapshots
from pipelines.curate.near_bands import Band, choose_bands, near_hash_pairs
from pipelines.curate.near_pairs import PAIR_SCHEMA
from pipelines.curate.params import Params, load_params
from pipelines.curate.run import cache_of, run_rows, working_folder
from pipelines.curate.split import split_of
from pipelines.runner import RunnerSettings
from workspace.layout import Workspace

Counts = dict[tuple[str, str | None], int]


def product(workspace: Workspace, params: Params) -> tuple[Counts, float]:
    """(rows by state and reason, seconds)."""
    snapshots = open_snapshots(workspace.lake_path, read_lake_lock(workspace.lake_lock_path))
    with working_folder(workspace, "bench") as work:
        begin = time.perf_counter()
        run_rows(workspace, snapshots, params, work, RunnerSettings(), with_shards=False)
        seconds = time.perf_counter() - begin
        counts = _counts(pl.scan_parquet(work.resolved))
        if not cache_of(workspace).pairs_path(params.curate.near_duplicates.max_distance_bits).exists():
            from pipelines.curate.run import remember

            remember(workspace, work, params)
    return counts, seconds


def plain_polars(workspace: Workspace, params: Params, out: Path) -> tuple[Counts, float]:
    """The same rows, states and shards, by hand."""
    begin = time.perf_counter()
    quality, near = params.curate.quality, params.curate.near_duplicates
    files = sorted((workspace.lake_path / "arrivals").rglob("*.parquet"))
    rows = pl.scan_parquet(files).select([pl.col(n).cast(k) for n, k in FLEET_COLUMNS.items()])
    rows = rows.with_columns(
        pl.concat_str("vehicle_id", pl.lit("/"), "epoch", pl.lit("/"), "seq").alias("identity")
    )
    cache = cache_of(workspace)
    landed = pl.col("outcome") == "landed"
    rows = rows.join(pl.scan_parquet(cache.features_path), on="payload_sha256", how="left")
    labels = (
        pl.scan_parquet(sorted((workspace.lake_path / "labels").rglob("*.parquet")))
        .sort("payload_sha256", "labelled_time_ns", "labeller", "class_name", "cost")
        .unique("payload_sha256", keep="last", maintain_order=True)
        .select("payload_sha256", "class_name", "labeller")
    )
    frame = rows.join(labels, on="payload_sha256", how="left").collect()
    drives = frame["drive_id"].unique()
    splits = pl.DataFrame(
        {"drive_id": drives, "split": [str(split_of(drive, params.split)) for drive in drives]}
    )
    frame = frame.join(splits, on="drive_id", how="left")
    side = pl.min_horizontal("width_pixels", "height_pixels")
    frame = frame.with_columns(
        pl.when(~landed)
        .then(pl.lit("not_landed"))
        .when(pl.col("unreadable").is_not_null())
        .then(pl.lit("unreadable"))
        .when(side < quality.min_side_pixels)
        .then(pl.lit("too_small"))
        .when(pl.col("luma") < quality.min_luma)
        .then(pl.lit("too_dark"))
        .when(pl.col("luma") > quality.max_luma)
        .then(pl.lit("too_bright"))
        .when(pl.col("sharpness") < quality.min_sharpness)
        .then(pl.lit("blurred"))
        .alias("reason")
    )
    nobodys = pl.col("class_name").is_null().all() & (pl.col("vehicle_id").n_unique() > 1)
    first = pl.when(nobodys.over("payload_sha256")).then("ingest_time_ns")
    order = [first, pl.col("split") != "test", "vehicle_id", "epoch", "seq"]
    present = frame.filter(pl.col("reason").is_null()).sort("payload_sha256", *order)
    copies = present.select(
        "identity",
        pl.col("split").first().over("payload_sha256").alias("kept_split"),
        pl.int_range(pl.len()).over("payload_sha256").alias("rank"),
    ).filter(pl.col("rank") > 0)
    frame = frame.join(copies, on="identity", how="left").with_columns(
        pl.when(pl.col("rank").is_null())
        .then("reason")
        .when((pl.col("kept_split") == "test") & (pl.col("split") != "test"))
        .then(pl.lit("near_duplicate_of_test"))
        .otherwise(pl.lit("exact_duplicate"))
        .alias("reason")
    )
    readable = frame.filter(landed & pl.col("image_hash").is_not_null())
    known = (
        readable.with_columns(
            pl.col("ingest_time_ns").min().over("payload_sha256", "vehicle_id").alias("first")
        )
        .filter(pl.col("reason").is_null() | (pl.col("split") == "test"))
        .sort("payload_sha256", pl.col("reason").is_not_null(), pl.col("split") != "test", "identity")
        .unique("payload_sha256", keep="first", maintain_order=True)
        .select(
            "payload_sha256",
            "split",
            "vehicle_id",
            pl.col("class_name").is_not_null().alias("lab"),
            pl.col("reason").is_null().alias("good"),
            "first",
        )
    )
    stored = pl.read_parquet(cache.pairs_path(near.max_distance_bits)).filter(pl.col("compared").is_null())
    pairs = stored.select(list(PAIR_SCHEMA))
    left = pairs.select(pl.col("sha_a").alias("payload_sha256"), pl.col("sha_b").alias("other"), "distance")
    right = pairs.select(pl.col("sha_b").alias("payload_sha256"), pl.col("sha_a").alias("other"), "distance")
    both = (
        pl.concat([left, right])
        .join(known, on="payload_sha256")
        .join(known, left_on="other", right_on="payload_sha256")
    )
    mine, theirs = pl.col("split") == "test", pl.col("split_right") == "test"
    own = pl.col("vehicle_id") == pl.col("vehicle_id_right")
    of_test = both.filter(own & ~mine & theirs & pl.col("good"))
    rest = both.filter(own & pl.col("good") & pl.col("good_right") & (mine == theirs))
    gone = of_test.select("payload_sha256").unique()
    rest = rest.join(gone, on="payload_sha256", how="anti").join(
        gone, left_on="other", right_on="payload_sha256", how="anti"
    )
    smaller = pl.col("other") < pl.col("payload_sha256")
    rest = rest.filter(
        (pl.col("lab_right") & ~pl.col("lab")) | ((pl.col("lab_right") == pl.col("lab")) & smaller)
    )
    place = {
        sha: (first, split != "test", not labelled, sha)
        for sha, first, split, labelled in known.select("payload_sha256", "first", "split", "lab").iter_rows()
    }
    foreign = both.filter(~own & pl.col("lab_right") & pl.col("good") & pl.col("good_right"))
    taken = set(gone["payload_sha256"]) | set(rest["payload_sha256"])
    between: list[tuple[str, str]] = []
    cross = foreign.select("payload_sha256", "other", (~mine & theirs).alias("of_test"), "distance").rows()
    for sha, other, is_of_test, _ in sorted(cross, key=lambda row: (place[row[0]], row[3], row[1])):
        if place[other] < place[sha] and sha not in taken and other not in taken:
            taken.add(sha)
            between.append((sha, "near_duplicate_of_test" if is_of_test else "near_duplicate"))
    decided = pl.concat(
        [
            part.sort("payload_sha256", "distance", "other")
            .unique("payload_sha256", keep="first", maintain_order=True)
            .select("payload_sha256", pl.lit(reason).alias("near"))
            for part, reason in ((of_test, "near_duplicate_of_test"), (rest, "near_duplicate"))
        ]
        + [pl.DataFrame(between, {"payload_sha256": pl.String, "near": pl.String}, orient="row")]
    )
    frame = frame.join(decided, on="payload_sha256", how="left").with_columns(
        pl.coalesce("reason", "near").alias("reason")
    )
    kept = frame.filter(pl.col("reason").is_null() & pl.col("class_name").is_not_null())
    before = (
        pl.col("capture_time_ns")
        .shift(1)
        .over("vehicle_id", "epoch", "drive_id", "sensor_id", order_by="seq")
    )
    scores = [c for c in kept.columns if c.startswith("score_")] + ["selection_probability"]
    kept = kept.with_columns(
        pl.any_horizontal(
            pl.col("identity").is_null() | pl.col("identity").is_duplicated(),
            ~pl.col("payload_sha256").str.contains("^[0-9a-f]{64}$"),
            ~pl.col("class_name").is_in(CLASSES),
            ~pl.col("split").is_in(["train", "validation", "test"]),
            *[~pl.col(name).is_between(0.0, 1.0) | pl.col(name).is_nan() for name in scores],
            ~pl.col("luma").is_between(0.0, 255.0),
            (pl.col("capture_time_ns") <= before).fill_null(False),
            pl.col("split").n_unique().over("drive_id") != 1,
        ).alias("bad")
    )
    good = kept.filter(~pl.col("bad")).sort("split", "payload_sha256")
    number = (
        pl.col("payload_bytes").cum_sum().over("split") - pl.col("payload_bytes")
    ) // params.curate.shards.target_bytes
    shards = good.select(
        "identity", pl.concat_str("split", pl.lit("-"), number.cast(pl.String).str.zfill(5)).alias("shard")
    )
    frame = (
        frame.join(kept.select("identity", "bad"), on="identity", how="left")
        .join(shards, on="identity", how="left")
        .with_columns(
            pl.when(pl.col("reason").is_not_null())
            .then(pl.lit("removed"))
            .when(pl.col("class_name").is_null())
            .then(pl.lit("unlabelled"))
            .when(pl.col("bad"))
            .then(pl.lit("quarantined"))
            .otherwise(pl.lit("kept"))
            .alias("state")
        )
    )
    frame.write_parquet(out, compression="lz4")
    seconds = time.perf_counter() - begin
    return _counts(pl.scan_parquet(out)), seconds


def _counts(rows: pl.LazyFrame) -> Counts:
    counted = rows.group_by("state", "reason").len().collect()
    return {(state, reason): number for state, reason, number in counted.rows()}


def polars_pairs(words: np.ndarray, bands: tuple[Band, ...], bits: int) -> pl.DataFrame:
    """Pairs by the same bands as joins of equal keys; each candidate compared in full, each pair once."""
    frame = pl.DataFrame({f"w{n}": words[:, n] for n in range(4)}).with_row_index("row")
    distance = pl.sum_horizontal(
        (pl.col(f"w{n}") ^ pl.col(f"w{n}_right")).bitwise_count_ones() for n in range(4)
    )
    rows = ("row", "row_right")
    ends = (pl.min_horizontal(rows).alias("a"), pl.max_horizontal(rows).alias("b"))
    found = []
    for band in bands:
        keyed = frame.with_columns(pl.Series("key", band.keys(words)))
        for flip in [0, *(1 << place for place in range(len(band.bits)))] if band.radius else [0]:
            other = keyed.with_columns(pl.col("key") ^ flip)
            clear = keyed if not flip else keyed.filter((pl.col("key") & flip) == 0)
            near = clear.lazy().join(other.lazy(), on="key").filter(distance <= bits)
            near = near if flip else near.filter(pl.col("row") < pl.col("row_right"))
            found.append(near.select(ends).collect())
    return pl.concat(found).unique()


def run(seed: int, quick: bool) -> Sequence[Measure]:
    """The rows with known pairs, then the search alone."""
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return [_rows(Path(folder), seed, quick), _search(seed, quick)]
    finally:
        logging.disable(logging.NOTSET)


def _rows(folder: Path, seed: int, quick: bool) -> Measure:
    count = 20_000 if quick else 1_000_000
    workspace = make_lake(folder / "ws", count, seed)
    params = load_params(workspace.params_path)
    _, first_s = product(workspace, params)
    ours, theirs = [], []
    for _ in range(1 if quick else 3):
        counts, seconds = product(workspace, params)
        ours.append(count / seconds)
        plain, seconds = plain_polars(workspace, params, folder / "plain.parquet")
        theirs.append(count / seconds)
        if counts != plain:
            raise RuntimeError(f"the product counts {counts}, plain polars {plain}")
    ratio, spread = paired_ratio(ours, theirs)
    return Measure(
        f"curation of {count:,} rows of metadata, pairs known",
        "the same work in plain polars",
        ratio,
        ">= 0.60",
        ratio >= 0.60,
        spread,
        {
            "product_rows_per_s": statistics.median(ours),
            "plain_rows_per_s": statistics.median(theirs),
            "first_run_with_the_search_for_pairs_s": first_s,
        },
        "the same rows in each state by each reason; the product's side starts a Beam pipeline and checks that nothing is lost",
    )


def _search(seed: int, quick: bool) -> Measure:
    count, bits = (20_000 if quick else 200_000), 29
    words = random_hashes(count, np.random.default_rng(seed))
    bands = choose_bands(count, 0, bits)
    ours, theirs = [], []
    for _ in range(1 if quick else 2):
        seconds, (a, b, _) = _timed(lambda: near_hash_pairs(words, bits))
        ours.append(count / seconds)
        seconds, joined = _timed(lambda: polars_pairs(words, bands, bits))
        theirs.append(count / seconds)
        if set(zip(a.tolist(), b.tolist(), strict=True)) != set(joined.rows()):
            raise RuntimeError(f"the bands find {len(a)} pairs, the joins {joined.height}")
    ratio, spread = paired_ratio(ours, theirs)
    return Measure(
        f"near pairs of {count:,} hashes, at most {bits} of 256 bits",
        "the same bands as polars joins",
        ratio,
        ">= 0.60",
        ratio >= 0.60,
        spread,
        {
            "product_hashes_per_s": statistics.median(ours),
            "joins_hashes_per_s": statistics.median(theirs),
            "pairs": float(len(a)),
        },
        "the same pairs; exact, in stripes of bounded memory; the work grows with the square divided by 2^17 of one band in 15",
    )


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


STEPS = (Step("curation", run),)

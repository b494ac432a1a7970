"""Steps 2 and 3: apply the quality rules and remove exact copies, then find all near pairs of the rest.

`GatherRows` runs once, over columns. `FindPairs` runs in parallel over bands of the hash, or over pairs of blocks where
that is faster (`near_bands`); only pairs with a payload that no earlier run compared are looked for, because the cache
holds the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl

from pipelines.curate.dense_scenes import collapse
from pipelines.curate.exact_duplicates import remove_exact_duplicates
from pipelines.curate.labels import join_labels
from pipelines.curate.measure_cache import MeasureCache
from pipelines.curate.near_bands import band_pairs, choose_bands, cut
from pipelines.curate.near_pairs import (
    PAIR_SCHEMA,
    Block,
    blocks_to_compare,
    embedding_pairs,
    hash_pairs,
    pairs_frame,
    rounded_unit,
)
from pipelines.curate.params import Params
from pipelines.curate.perceptual_hash import as_words
from pipelines.curate.quality import judge
from pipelines.curate.split import with_drive_names, with_split
from schemas.reasons import RemovalReason, Split

HASH, BAND, EMBEDDING = "hash", "band", "embedding"


def judge_rows(rows: pl.DataFrame, labels: pl.DataFrame, params: Params) -> pl.DataFrame:
    """Return every measured row with split, label, and the reason of the first step that removes it (null: kept so far)."""
    empty = [
        pl.when(pl.col("outcome") == "landed")
        .then(None)
        .otherwise(pl.lit(str(RemovalReason.NOT_LANDED)))
        .alias("reason"),
        pl.lit(None, pl.Float64).alias("reason_value"),
        pl.lit(None, pl.String).alias("match_sha256"),
        pl.lit(None, pl.String).alias("match_identity"),
        pl.lit(None, pl.Float64).alias("distance"),
    ]
    rows = with_split(with_drive_names(rows.with_columns(empty), params.split), params.split)
    return remove_exact_duplicates(judge(join_labels(rows, labels, params.task), params.curate.quality))


def frames_to_compare(rows: pl.DataFrame, label_column: str, *, with_embeddings: bool = True) -> pl.DataFrame:
    """Return one row per readable payload, by sha256: those kept so far, and those of test drives whatever their quality.

    `since_ns` is when the lake first got the payload from the vehicle of that row; null of a reference picture.
    """
    is_test = pl.col("split") == str(Split.TEST)
    readable = rows.filter((pl.col("outcome") == "landed") & pl.col("image_hash").is_not_null())
    since = pl.col("ingest_time_ns").min().over("payload_sha256", "vehicle_id").alias("since_ns")
    present = readable.with_columns(since).filter(pl.col("reason").is_null() | is_test)
    order = ["payload_sha256", pl.col("reason").is_not_null(), ~is_test, "identity"]
    first = (
        present.lazy()
        .select("payload_sha256", "reason", "split", "identity", pl.int_range(pl.len()).alias("place"))
        .sort(order)
        .unique("payload_sha256", keep="first", maintain_order=True)
        .collect()["place"]
    )
    return present.select(
        "payload_sha256",
        "split",
        pl.col("vehicle_id").fill_null(""),
        "image_hash",
        *(("model_digest", "embedding") if with_embeddings else ()),
        pl.col(label_column).is_not_null().alias("is_labelled"),
        pl.col("reason").is_null().alias("is_good"),
        "since_ns",
    )[first]


class GatherRows(beam.DoFn):
    """All measured files -> `judged.arrow` and `frames.arrow` in the work folder -> the comparisons to make."""

    def __init__(self, work: str, cache: str, labels_path: str, params: Params) -> None:
        self._work = Path(work)
        self._cache = cache
        self._labels_path = labels_path
        self._params = params

    def process(self, element: Iterable[str]) -> Iterator[str]:
        """Yield the comparisons to make, one text each.

        "measure begin_a end_a begin_b end_b": rows of `frames.arrow` to compare by that measure; or
        "band number first_new count width radius": the one of `cut(count, width, radius)` in which to look for pairs with
        a row from `first_new` on.
        """
        rows = pl.concat([pl.read_ipc(path) for path in sorted(element)], how="vertical")
        judged = judge_rows(rows, pl.read_parquet(self._labels_path), self._params)
        judged.write_ipc(self._work / "judged.arrow")
        near = self._params.curate.near_duplicates
        _, compared = MeasureCache(Path(self._cache)).read_pairs(near.max_distance_bits)
        column = self._params.task.label_column
        frames = frames_to_compare(judged, column, with_embeddings=near.max_embedding_distance > 0)
        frames, dense = collapse(frames, near.max_distance_bits)
        dense.write_ipc(self._work / "dense.arrow")
        known = frames.join(compared, on="payload_sha256", how="semi").sort("payload_sha256")
        fresh = frames.join(compared, on="payload_sha256", how="anti").sort("payload_sha256")
        pl.concat([known, fresh]).write_ipc(self._work / "frames.arrow")
        words = as_words(pl.concat([known, fresh])["image_hash"].to_list())
        bands = choose_bands(frames.height, known.height, near.max_distance_bits, words)
        for band in bands:
            # The form of the bands is in the element, so that every worker cuts the same ones.
            yield f"{BAND} {band.number} {known.height} {len(bands)} {len(band.bits)} {band.radius}"
        if not bands:
            for block in blocks_to_compare(frames.height, first_new=known.height):
                yield " ".join([HASH, *map(str, block)])
        if near.max_embedding_distance > 0:
            for block in blocks_to_compare(frames.height):
                yield " ".join([EMBEDDING, *map(str, block)])


class FindPairs(beam.DoFn):
    """A comparison of `GatherRows` -> the path of the pairs found by it, if there are any."""

    def __init__(self, work: str, params: Params) -> None:
        self._work = Path(work)
        self._params = params
        self._frames: pl.DataFrame | None = None
        self._words: np.ndarray | None = None

    def process(self, element: str) -> Iterator[str]:
        """Write the pairs at most the threshold apart and yield the path."""
        measure, *numbers = element.split()
        if self._frames is None:
            self._frames = pl.read_ipc(self._work / "frames.arrow")
        near = self._params.curate.near_duplicates
        if measure == BAND:
            number, first_new, count, width, radius = (int(word) for word in numbers)
            bands = cut(count, width, radius)
            found = band_pairs(self._hashes(), bands, number, near.max_distance_bits, first_new)
            pairs = pairs_frame(self._frames["payload_sha256"], *found, HASH)
        else:
            begin_a, end_a, begin_b, end_b = (int(word) for word in numbers)
            block = (begin_a, end_a, begin_b, end_b)
            if measure == HASH:
                found = hash_pairs(self._hashes(), block, near.max_distance_bits)
                pairs = pairs_frame(self._frames["payload_sha256"], *found, HASH)
            else:
                pairs = self._by_embedding(block, near.max_embedding_distance)
        if pairs.height:
            path = self._work / "pairs" / f"{'-'.join([measure, *numbers])}.parquet"
            pairs.write_parquet(path, compression="lz4")
            yield str(path)

    def _hashes(self) -> np.ndarray:
        if self._words is None:
            assert self._frames is not None  # noqa: S101
            self._words = as_words(self._frames["image_hash"].to_list())
        return self._words

    def _by_embedding(self, block: Block, limit: float) -> pl.DataFrame:
        """Return the pairs by cosine distance. Only embeddings of one model and one size are compared."""
        assert self._frames is not None  # noqa: S101
        begin_a, end_a, begin_b, end_b = block
        part = self._frames[begin_a:end_a]
        if begin_b >= end_a:
            part = pl.concat([part, self._frames[begin_b:end_b]])
        part = part.with_columns(pl.col("embedding").list.len().alias("size")).filter(pl.col("size") > 0)
        found = []
        for _, group in part.group_by("model_digest", "size", maintain_order=True):
            vectors = rounded_unit(np.array(group["embedding"].to_list(), dtype=np.float32))
            rows = embedding_pairs(vectors, (0, len(vectors), 0, len(vectors)), limit)
            found.append(pairs_frame(group["payload_sha256"], *rows, EMBEDDING))
        return pl.concat(found) if found else pl.DataFrame(schema=PAIR_SCHEMA)

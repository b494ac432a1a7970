"""Find exactly the pairs of frames at most a threshold apart, whatever the order of frames or blocks.

All pairs are compared, block against block; half of the bits decide for most of them (their distance is never more
than that of all bits). Two measures: differing bits of the perceptual hash, and cosine distance of embeddings. The
embeddings are rounded to 8 bits first, so that their products are whole numbers and no order of additions can
change a result. Refuses to group: nearness is not transitive.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.reasons import Split

BLOCK_ROWS = 4096
_SPARSE = 16
"""While half of the bits leave less than one pair in this many, the others are compared one by one."""
Block = tuple[int, int, int, int]
"""Rows [begin_a, end_a) against rows [begin_b, end_b)."""
PAIR_SCHEMA = {"sha_a": pl.String, "sha_b": pl.String, "distance": pl.Float64, "measure": pl.String}
"""One row per pair, sha_a < sha_b; `distance` in bits (measure "hash") or 0..2 (measure "embedding")."""
_EMBEDDING_LEVELS = 127


def blocks_to_compare(rows: int, first_new: int = 0, block_rows: int = BLOCK_ROWS) -> Iterator[Block]:
    """Yield blocks [begin_a, end_a) x [begin_b, end_b) that cover every pair with a row >= `first_new` once.

    Rows before `first_new` were compared with each other already; the larger row of a pair is in block b.
    """
    for begin_b in range(first_new, rows, block_rows):
        end_b = min(begin_b + block_rows, rows)
        for begin_a in range(0, end_b, block_rows):
            yield begin_a, min(begin_a + block_rows, end_b), begin_b, end_b


def hash_pairs(
    words: npt.NDArray[np.uint64], block: Block, max_distance_bits: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return row numbers a < b with a in [begin_a, end_a), b in [begin_b, end_b), and their distances in bits.

    `words` has the shape (n, 4): hashes as `perceptual_hash.as_words` gives them.
    """
    begin_a, end_a, begin_b, end_b = block
    block_b = words[begin_b:end_b]
    found_a, found_b, found_d = [], [], []
    stripe = max(1, (1 << 18) // max(1, len(block_b)))
    for begin in range(begin_a, end_a, stripe):
        block_a = words[begin : min(begin + stripe, end_a)]
        bits = np.bitwise_count(block_a[:, None, 0] ^ block_b[None, :, 0])
        bits += np.bitwise_count(block_a[:, None, 1] ^ block_b[None, :, 1])
        near = np.flatnonzero(bits <= max_distance_bits)
        if len(near) > bits.size // _SPARSE:
            # One scene: half of the bits decide for few, and naming a pair costs more than comparing all of its bits.
            rest = np.bitwise_count(block_a[:, None, 2] ^ block_b[None, :, 2])
            rest += np.bitwise_count(block_a[:, None, 3] ^ block_b[None, :, 3])
            left = np.uint8(max_distance_bits) - np.minimum(bits, np.uint8(max_distance_bits))
            near = np.flatnonzero((bits <= max_distance_bits) & (rest <= left))
        rows_a, rows_b = np.divmod(near, max(1, len(block_b)))
        keep = rows_a + begin < rows_b + begin_b
        rows_a, rows_b = rows_a[keep], rows_b[keep]
        distance = np.bitwise_count(block_a[rows_a] ^ block_b[rows_b]).sum(axis=1, dtype=np.int64)
        keep = distance <= max_distance_bits
        found_a.append(rows_a[keep] + begin)
        found_b.append(rows_b[keep] + begin_b)
        found_d.append(distance[keep])
    return np.concatenate(found_a), np.concatenate(found_b), np.concatenate(found_d)


def rounded_unit(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return unit vectors of shape (n, d), rounded to whole numbers in [-127, 127]; non-finite values count as zero."""
    clean = np.where(np.isfinite(embeddings), embeddings, 0).astype(np.float64)
    length = np.sqrt((clean**2).sum(axis=1, keepdims=True))
    unit = np.divide(clean, length, out=np.zeros_like(clean), where=length > 0)
    return np.rint(unit * _EMBEDDING_LEVELS).astype(np.float32)


def embedding_pairs(
    rounded: npt.NDArray[np.float32], block: Block, max_distance: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the same as `hash_pairs`, by cosine distance of rows of `rounded_unit` (exact up to 1,040 dimensions)."""
    begin_a, end_a, begin_b, end_b = block
    a, b = rounded[begin_a:end_a], rounded[begin_b:end_b]
    squares_a, squares_b = (a.astype(np.float64) ** 2).sum(axis=1), (b.astype(np.float64) ** 2).sum(axis=1)
    length = np.sqrt(squares_a[:, None] * squares_b[None, :])
    products = (a @ b.T).astype(np.float64)
    distance = 1.0 - np.divide(products, length, out=np.full_like(length, -1.0), where=length > 0)
    rows_a, rows_b = np.nonzero(distance <= max_distance)
    keep = rows_a + begin_a < rows_b + begin_b
    rows_a, rows_b = rows_a[keep], rows_b[keep]
    return rows_a + begin_a, rows_b + begin_b, np.round(distance[rows_a, rows_b], 9)


def pairs_frame(
    sha256s: pl.Series,
    rows_a: npt.NDArray[np.int64],
    rows_b: npt.NDArray[np.int64],
    distance: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    measure: str,
) -> pl.DataFrame:
    """Return the pairs by sha256 in the columns of PAIR_SCHEMA, the smaller sha256 first."""
    first, second = sha256s.gather(rows_a), sha256s.gather(rows_b)
    return pl.DataFrame(
        {
            "x": first,
            "y": second,
            "distance": pl.Series(distance, dtype=pl.Float64),
            "measure": pl.Series([measure], dtype=pl.String).new_from_index(0, len(first)),
        }
    ).select(
        pl.min_horizontal("x", "y").alias("sha_a"),
        pl.max_horizontal("x", "y").alias("sha_b"),
        "distance",
        "measure",
    )


def test_distances(rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Return payload_sha256 and test_distance_bits of the payloads with a near test frame among `rows`."""
    tests = rows.filter(pl.col("split") == str(Split.TEST)).select("payload_sha256")
    by_hash = pairs.filter(pl.col("measure") == "hash")
    both = [
        by_hash.join(tests, left_on=other, right_on="payload_sha256", how="semi").select(
            pl.col(mine).alias("payload_sha256"), pl.col("distance").alias("test_distance_bits")
        )
        for mine, other in (("sha_a", "sha_b"), ("sha_b", "sha_a"))
    ]
    return pl.concat(both).group_by("payload_sha256").agg(pl.col("test_distance_bits").min())

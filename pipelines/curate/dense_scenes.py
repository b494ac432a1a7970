"""Leave one frame of a dense scene before near-duplicates are compared, so that a parked car costs no quadratic time.

n pictures of one scene are n(n-1)/2 near pairs: 100,000 of them filled any memory. So where more than DENSE_FRAMES
unlabelled frames of one vehicle are near one of them (the leader), they are removed as its near-duplicates at once, and
nobody compares them. Such a frame keeps no other out. Labelled frames are never taken, and no frame of another vehicle
is. Leaders are found in groups of equal bits, the frames in order of sha256, so neither arrival, workers nor a cache
matter. Smaller groups are left to the exact comparison (`near_pairs`), and so is what differs in every group of bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.curate.near_bands import Rows, Words, cut
from pipelines.curate.perceptual_hash import as_words
from schemas.reasons import RemovalReason

DENSE_FRAMES = 64
"""More near frames than this of one vehicle are a dense scene; tracks of moving objects stay far below it."""
_BANDS, _BAND_BITS = 15, 17
_MOST_LEADERS = 64
"""Of one group of equal bits, so that hashes which agree in some bits only cannot make the search quadratic."""
DECISIONS = {
    "payload_sha256": pl.String,
    "match_sha256": pl.String,
    "distance": pl.Float64,
    "reason": pl.String,
}


def collapse(frames: pl.DataFrame, max_distance_bits: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the frames that are left to compare, and one row of DECISIONS per frame that leaves.

    Args:
        frames: one row per payload: payload_sha256, image_hash, vehicle_id, split, is_labelled, is_good.
        max_distance_bits: at most so far is near.
    """
    ordered = frames.sort("payload_sha256").with_row_index("place")
    free = ordered.filter(~pl.col("is_labelled"))
    if free.height <= DENSE_FRAMES:
        return frames, pl.DataFrame(schema=DECISIONS)
    # Near-duplicates are looked for on either side of test, and among good frames; so are leaders.
    side = pl.struct("vehicle_id", pl.col("split") == "test", "is_good")
    groups = free.select(side.rank("dense").alias("group"))["group"].to_numpy().astype(np.int64)
    words = as_words(free["image_hash"].to_list())
    leader, distance = _leaders(words, groups, max_distance_bits)
    names = free["payload_sha256"]
    gone = np.flatnonzero(leader >= 0)
    decisions = pl.DataFrame(
        {
            "payload_sha256": names.gather(gone),
            "match_sha256": names.gather(leader[gone]),
            "distance": distance[gone].astype(np.float64),
            "reason": [str(RemovalReason.NEAR_DUPLICATE)] * len(gone),
        },
        schema=DECISIONS,
    )
    if decisions.is_empty():
        return frames, decisions
    return frames.join(decisions, on="payload_sha256", how="anti", maintain_order="left"), decisions


def _leaders(words: Words, groups: Rows, max_distance_bits: int) -> tuple[Rows, Rows]:
    """Return for each hash the row of its leader (-1: it stays) and the distance in bits to it."""
    leader = np.full(len(words), -1, np.int64)
    distance = np.zeros(len(words), np.int64)
    leads = np.zeros(len(words), np.bool_)  # who leads stays
    for band in cut(_BANDS, _BAND_BITS, 1):
        present = np.flatnonzero(leader < 0)
        keys = (groups[present] << _BAND_BITS) | band.keys(words[present]).astype(np.int64)
        for rows in _large_groups(present, keys):
            left = rows
            for _ in range(_MOST_LEADERS):
                if len(left) <= DENSE_FRAMES:
                    break
                apart = np.bitwise_count(words[left] ^ words[left[0]]).sum(axis=1, dtype=np.int64)
                is_near = (apart <= max_distance_bits) & ~leads[left]
                is_near[0] = False
                if is_near.sum() > DENSE_FRAMES:
                    leads[left[0]] = True
                    leader[left[is_near]] = left[0]
                    distance[left[is_near]] = apart[is_near]
                    left = left[~is_near]
                left = left[1:]
    return leader, distance


def _large_groups(rows: Rows, keys: npt.NDArray[np.int64]) -> Iterator[Rows]:
    """Yield the rows of each key that more than DENSE_FRAMES have, in their order."""
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order], append=-1)) + 1
    for begin, end in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
        if end - begin > DENSE_FRAMES:
            yield rows[order[begin:end]]

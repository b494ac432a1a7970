"""Score how much each unlabelled frame is worth a label, from 0 (nothing) to 1.

The scores are those that the vehicle computed with `modelkit.scores` when it predicted; a frame without a
prediction (or with a NaN score) scores 0, so it is drawn at random or not at all. Equal scores are ordered by a
hash, never by arrival. Refuses to run a model.
"""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from pipelines.curate.near_pairs import rounded_unit
from pipelines.curate.params import Strategy

_COLUMN = {
    Strategy.ENTROPY: "score_entropy",
    Strategy.MARGIN: "score_margin",
    Strategy.LEAST_CONFIDENCE: "score_least_confidence",
    Strategy.CLASS_BALANCED: "score_margin",
    Strategy.COVERAGE: "score_margin",
    Strategy.DIVERSE: "score_margin",
}


def with_worth(candidates: pl.DataFrame, strategy: Strategy, seed: int) -> pl.DataFrame:
    """Return `candidates` with `worth` (0..1) and `chance` (a hash of seed and payload, for draws and for ties)."""
    chance = [hashlib.sha256(f"{seed}/{sha}".encode()).hexdigest() for sha in candidates["payload_sha256"]]
    score = pl.lit(0.0) if strategy is Strategy.RANDOM else pl.col(_COLUMN[strategy])
    return candidates.with_columns(
        score.fill_nan(0.0).fill_null(0.0).clip(0.0, 1.0).alias("worth"),
        pl.Series("chance", chance, dtype=pl.String),
    )


def farthest_first(candidates: pl.DataFrame, labelled: pl.DataFrame, count: int) -> list[int]:
    """Return the row numbers of `count` candidates, each the farthest from all labelled and all chosen before it.

    Distances are cosine distances of embeddings of the model that made most of the candidates' ones (candidates
    without one come last); of equally far ones the first in `candidates` is chosen. (Gonzalez, "Clustering to
    minimize the maximum intercluster distance", 1985.)
    """
    digests = candidates["model_digest"].drop_nulls()
    if count <= 0 or candidates.is_empty() or digests.is_empty():
        return list(range(min(count, candidates.height)))
    model = digests.value_counts().sort(["count", "model_digest"], descending=[True, False])["model_digest"][
        0
    ]
    ours, size = _embeddings(candidates, model, 0)
    seen, _ = _embeddings(labelled, model, size)
    nearest = np.full(len(ours), np.inf)
    known = np.any(ours != 0, axis=1)
    unit = _unit(ours)
    for other in _unit(seen[np.any(seen != 0, axis=1)]):
        nearest = np.minimum(nearest, 1.0 - unit @ other)
    nearest[~known] = -1.0
    taken: list[int] = []
    for _ in range(min(count, len(ours))):
        best = int(np.argmax(nearest))
        taken.append(best)
        nearest = np.where(known, np.minimum(nearest, 1.0 - unit @ unit[best]), nearest)
        nearest[taken] = -np.inf
    return taken


def _embeddings(frames: pl.DataFrame, model: str, size: int) -> tuple[np.ndarray, int]:
    lists = [
        values if digest == model and values is not None else []
        for digest, values in zip(frames["model_digest"], frames["embedding"].to_list(), strict=True)
    ]
    size = size or max((len(values) for values in lists), default=0)
    matrix = np.zeros((len(lists), size), dtype=np.float32)
    for row, values in enumerate(lists):
        if len(values) == size and size:
            matrix[row] = values
    return rounded_unit(matrix), size


def _unit(rounded: np.ndarray) -> np.ndarray:
    length = np.sqrt((rounded.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    # Rounded, so that the last bits of a sum can never decide between two frames.
    return np.round(np.divide(rounded, length, out=np.zeros(rounded.shape), where=length > 0), 6)

"""Score how much each unlabelled frame is worth a label, from 0 (nothing) to 1.

The scores are those that the vehicle computed with `modelkit.scores` when it predicted; a frame without a
prediction (or with a NaN score) scores 0, so it is drawn at random or not at all. Equal scores are ordered by a
hash, never by arrival. Refuses to run a model.
"""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from pipelines.curate.fair_shares import DRIVE, VEHICLE, Shares
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


def with_worth(candidates: pl.DataFrame, strategy: Strategy, seed: int, salt: str = "") -> pl.DataFrame:
    """Return `candidates` with `worth` (0..1) and `chance`: a hash of seed, salt and payload, for draws and for ties.

    With a salt that no vehicle knows, no vehicle can choose bytes that are drawn.
    """
    begin = f"{seed}/{salt}/" if salt else f"{seed}/"
    chance = [hashlib.sha256(f"{begin}{sha}".encode()).hexdigest() for sha in candidates["payload_sha256"]]
    score = pl.lit(0.0) if strategy is Strategy.RANDOM else pl.col(_COLUMN[strategy])
    return candidates.with_columns(
        score.fill_nan(0.0).fill_null(0.0).clip(0.0, 1.0).alias("worth"),
        pl.Series("chance", chance, dtype=pl.String),
    )


def farthest_first(candidates: pl.DataFrame, labelled: pl.DataFrame, count: int, shares: Shares) -> list[int]:
    """Return the row numbers of `count` candidates, each the farthest from all labelled and all chosen before it.

    Distances are cosine distances of embeddings of one form (candidates without it come last); of equally far ones the
    first in `candidates` is chosen. No vehicle gets more than its share. (Gonzalez, "Clustering to minimize the
    maximum intercluster distance", 1985.)
    """
    form = embedding_form(candidates)
    ours, seen = (_embeddings(frames, form) for frames in (candidates, labelled))
    nearest = np.full(len(ours), np.inf)
    known = np.any(ours != 0, axis=1)
    unit = _unit(ours)
    for other in _unit(seen[np.any(seen != 0, axis=1)]):
        nearest = np.minimum(nearest, 1.0 - unit @ other)
    nearest[~known] = -1.0
    owners = candidates[VEHICLE].to_numpy(), candidates[DRIVE].to_numpy()
    ledger = shares.ledger()
    taken: list[int] = []
    is_open = np.ones(len(ours), np.bool_)
    while len(taken) < count and is_open.any():
        best = int(np.argmax(np.where(is_open, nearest, -np.inf)))
        vehicle, drive = owners[0][best], owners[1][best]
        if not ledger.has_room(vehicle, drive):
            beyond = owners[0] == vehicle if ledger.vehicles[vehicle] <= 0 else owners[1] == drive
            is_open &= ~beyond
            continue
        ledger.spend(vehicle, drive)
        taken.append(best)
        is_open[best] = False
        nearest = np.where(known, np.minimum(nearest, 1.0 - unit @ unit[best]), nearest)
    return taken


def embedding_form(frames: pl.DataFrame) -> tuple[str, int] | None:
    """Return the model digest and length of the embeddings that the most vehicles sent; None when there are none.

    Votes are vehicles, not frames, so that no number of records of one vehicle decides for the others. Of equally many
    vehicles the form with the most frames counts, then the first by name.
    """
    sized = frames.select(VEHICLE, "model_digest", pl.col("embedding").list.len().alias("size"))
    forms = (
        sized.filter(pl.col("model_digest").is_not_null() & (pl.col("size") > 0))
        .group_by("model_digest", "size")
        .agg(pl.col(VEHICLE).n_unique().alias("vehicles"), pl.len().alias("frames"))
        .sort("vehicles", "frames", "model_digest", "size", descending=[True, True, False, False])
    )
    return None if forms.is_empty() else (str(forms["model_digest"][0]), int(forms["size"][0]))


def has_form(form: tuple[str, int]) -> pl.Expr:
    """Return the condition that a frame's embedding is of this form."""
    digest, size = form
    return ((pl.col("model_digest") == digest) & (pl.col("embedding").list.len() == size)).fill_null(False)


def _embeddings(frames: pl.DataFrame, form: tuple[str, int] | None) -> np.ndarray:
    """Return the embeddings as rounded unit vectors, shape (frames, size); zeros where a frame has none of this form."""
    matrix = np.zeros((frames.height, form[1] if form else 0), dtype=np.float32)
    if form is not None:
        found = frames.with_row_index("place").filter(has_form(form))
        if found.height:
            matrix[found["place"].to_numpy()] = np.array(found["embedding"].to_list(), dtype=np.float32)
    return rounded_unit(matrix)


def _unit(rounded: np.ndarray) -> np.ndarray:
    length = np.sqrt((rounded.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    # Rounded, so that the last bits of a sum can never decide between two frames.
    return np.round(np.divide(rounded, length, out=np.zeros(rounded.shape), where=length > 0), 6)

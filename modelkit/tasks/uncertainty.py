"""Uncertainty scores from 0 (certain) to 1 (most uncertain), for a distribution, for labels and for one score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foundation.errors import RejectedError

Floats = NDArray[np.float64]

_TINY = np.finfo(np.float64).tiny


def _distributions(probabilities: ArrayLike) -> Floats:
    """Return probabilities over the last axis as float64; each row is finite, non-negative and sums to 1."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim < 1 or p.shape[-1] < 2:
        raise RejectedError(
            f"probabilities of shape {p.shape}: there must be at least 2 classes", reason="invalid_value"
        )
    # A NaN or an infinity fails these comparisons too.
    if not (p.min(initial=0.0) >= 0.0 and (np.abs(p.sum(axis=-1) - 1.0) <= 1e-2).all()):
        raise RejectedError("probabilities must be finite, at least 0 and sum to 1", reason="invalid_value")
    return p


def entropy(probabilities: ArrayLike) -> Floats:
    """Return Shannon entropy over the last axis, divided by that of the uniform distribution; (..., C) to (...)."""
    return _unit_range(_entropy(_distributions(probabilities)))


def _entropy(p: Floats) -> Floats:
    terms = p * np.log(np.maximum(p, _TINY))  # 0 for p = 0
    return np.asarray(-terms.sum(axis=-1) / np.log(p.shape[-1]))


def margin(probabilities: ArrayLike) -> Floats:
    """Return one minus the gap between the two most likely classes; (..., C) to (...)."""
    return _unit_range(_margin(_distributions(probabilities)))


def _margin(p: Floats) -> Floats:
    top = np.partition(p, p.shape[-1] - 2, axis=-1)[..., -2:]
    return np.asarray(1.0 - (top[..., 1] - top[..., 0]))


def least_confidence(probabilities: ArrayLike) -> Floats:
    """Return one minus the largest probability, 1 for the uniform distribution; (..., C) to (...)."""
    return _unit_range(_least_confidence(_distributions(probabilities)))


def _least_confidence(p: Floats) -> Floats:
    classes = p.shape[-1]
    return np.asarray((1.0 - p.max(axis=-1)) * classes / (classes - 1))


def distribution_scores(probabilities: ArrayLike) -> dict[str, float]:
    """Return all three scores of one distribution, which is checked once because this runs per frame."""
    p = _distributions(probabilities)
    return {
        "entropy": _unit(float(_entropy(p))),
        "margin": _unit(float(_margin(p))),
        "least_confidence": _unit(float(_least_confidence(p))),
    }


def label_scores(probabilities: ArrayLike) -> dict[str, float]:
    """Return the same for independent labels: each is a distribution of yes and no, and the most uncertain counts.

    Without any label all are 0. For yes and no, margin and least confidence are one number.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if not p.size:
        return {"entropy": 0.0, "margin": 0.0, "least_confidence": 0.0}
    doubtful = float(p[np.abs(p - 0.5).argmin()])
    pair = np.array([doubtful, 1.0 - doubtful])
    doubt = _unit(float(_margin(pair)))
    return {"entropy": _unit(float(_entropy(pair))), "margin": doubt, "least_confidence": doubt}


def mean_label_scores(probabilities: ArrayLike) -> dict[str, float]:
    """Return entropy and margin of every label (`mean_box_entropy`, `mean_box_margin`), averaged; 0 without any."""
    p = np.asarray(probabilities, dtype=np.float64)
    if not p.size:
        return {"mean_box_entropy": 0.0, "mean_box_margin": 0.0}
    pairs = np.stack([p, 1.0 - p], axis=-1)
    return {
        "mean_box_entropy": _unit(float(_entropy(pairs).mean())),
        "mean_box_margin": _unit(float(_margin(pairs).mean())),
    }


def map_scores(maps: Sequence[Floats]) -> dict[str, float]:
    """Return the same averaged over the cells of maps (C, h, w), each cell of which is a distribution; checked once.

    Several maps are the doubts of several answers about one cell, of which the most doubtful counts.
    """
    by_cell = [_distributions(np.moveaxis(each, 0, -1)) for each in maps]
    measures = (("entropy", _entropy), ("margin", _margin), ("least_confidence", _least_confidence))
    return {
        name: _unit(float(np.max([measure(each) for each in by_cell], axis=0).mean()))
        for name, measure in measures
    }


def _unit_range(values: ArrayLike) -> Floats:
    return np.asarray(np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0), dtype=np.float64)


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)

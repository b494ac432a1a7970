"""Arithmetic of boxes as arrays (N, 4) of left, top, right, bottom edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def area(boxes: Floats) -> Floats:
    """(N,), 0 for a box whose edges are crossed."""
    size = np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None)
    return np.asarray(size[:, 0] * size[:, 1])


def overlap(a: Floats, b: Floats) -> Floats:
    """Return intersection over union of every pair, (N, M) in [0, 1]; 0 where both have no area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    size = np.clip(high - low, 0.0, None)
    shared = size[..., 0] * size[..., 1]
    union = area(a)[:, None] + area(b)[None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def clip(boxes: Floats, width: float, height: float) -> Floats:
    """Return the parts of the boxes inside a picture."""
    return np.asarray(np.clip(boxes, 0.0, np.array([width, height, width, height], dtype=np.float64)))


def suppress(
    boxes: Floats, scores: Floats, groups: NDArray[np.int64], max_overlap: float, most: int
) -> list[int]:
    """Return row numbers that stay, best first, at most `most`; of equal scores the earlier row comes first and stays.

    A row goes when a better one of its group overlaps it by more than `max_overlap`, as ONNX NonMaxSuppression
    does: an overlap that is equal does not suppress.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    alive = np.ones(len(order), dtype=np.bool_)
    for place, row in enumerate(order.tolist()):
        if not alive[place]:
            continue
        kept.append(row)
        if len(kept) == most:
            break
        rest = order[place + 1 :]
        hit = overlap(boxes[row : row + 1], boxes[rest])[0] > max_overlap
        alive[place + 1 :] &= ~(hit & (groups[rest] == groups[row]))
    return kept

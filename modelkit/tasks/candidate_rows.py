"""Candidates of a detector: rows of box, score and class number, and the grids of cells that they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from modelkit.specs import ContractFields

Floats = NDArray[np.float64]
DEFAULT_STRIDES: Final = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Rows:
    """Candidates of one picture: boxes (N, 4), scores (N,), class numbers (N,). Any of them may be not finite."""

    boxes: Floats
    scores: Floats
    classes: Floats


def grid(contract: ContractFields) -> tuple[Floats, Floats]:
    """Return column and row of every cell (N, 2), and its stride (N, 1): strides in order, rows from top to bottom."""
    cells, strides = [], []
    for stride in contract.head.strides or DEFAULT_STRIDES:
        rows, columns = contract.input.height // stride, contract.input.width // stride
        y, x = np.divmod(np.arange(rows * columns), max(columns, 1))
        cells.append(np.stack([x, y], axis=1))
        strides.append(np.full((rows * columns, 1), stride))
    return np.concatenate(cells).astype(np.float64), np.concatenate(strides).astype(np.float64)


def best_of(boxes: Floats, by_class: Floats) -> Rows:
    """Return every row with its best class; a NaN in any class makes the row's score NaN."""
    if not by_class.shape[1]:
        return Rows(boxes, np.zeros(len(boxes)), np.zeros(len(boxes)))
    return Rows(boxes, by_class.max(axis=1), by_class.argmax(axis=1).astype(np.float64))


def centres(values: Floats) -> Floats:
    """Convert centre and size in pixels of the input to edges: the form of every YOLO head, whatever `boxes` says."""
    half = values[:, 2:4] / 2
    return np.concatenate([values[:, :2] - half, values[:, :2] + half], axis=1)

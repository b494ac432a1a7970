"""Masks: a class number per cell of a grid over the whole picture, and how a model's map becomes one."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modelkit.geometry import Placed
from schemas.predictions import MAX_MASK_SIDE, UNSEEN, SegmentationOutput

if TYPE_CHECKING:
    from modelkit.specs import InputSpec

Cells = NDArray[np.uint8]
_LEVEL = 1
"""Of zlib: a mask is large even surfaces, and a vehicle's time is short."""


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """`cells` (rows, columns), uint8: the number of one of `classes`, or UNSEEN; the grid covers the whole picture."""

    classes: tuple[str, ...]
    cells: Cells = field(repr=False)

    def shares(self) -> dict[str, float]:
        """Return each class's share of the seen cells, in the order of the classes; 0 without any."""
        counts = np.bincount(self.cells.reshape(-1), minlength=256)[: len(self.classes)]
        total = max(int(counts.sum()), 1)
        return {name: int(count) / total for name, count in zip(self.classes, counts, strict=True)}


def pack(mask: Mask) -> SegmentationOutput:
    """Return the mask as it is transferred."""
    height, width = mask.cells.shape
    return SegmentationOutput(mask.classes, height, width, zlib.compress(mask.cells.tobytes(), _LEVEL))


def unpack(output: SegmentationOutput) -> Mask:
    """Return the mask of a record that was checked (`schemas.predictions.check_mask`)."""
    cells = np.frombuffer(zlib.decompress(output.mask), dtype=np.uint8)
    return Mask(output.classes, cells.reshape(output.height, output.width))


def resized(cells: Cells, height: int, width: int) -> Cells:
    """Return the grid with other numbers of rows and columns: the nearest cell of each."""
    if cells.shape == (height, width):
        return cells
    return cells[_nearest(cells.shape[0], height)[:, None], _nearest(cells.shape[1], width)[None, :]]


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1)


def over_picture(numbers: Cells, where: Placed, spec: InputSpec) -> Cells:
    """Convert a map over the model's input to a grid over the whole picture; what a crop cut off is UNSEEN.

    The grid has as many cells per pixel of the input as the map, at most MAX_MASK_SIDE per axis.
    """
    rows = _axis(numbers.shape[0], spec.height, where.top, where.inner_height)
    columns = _axis(numbers.shape[1], spec.width, where.left, where.inner_width)
    if len(rows) == numbers.shape[0] and len(columns) == numbers.shape[1] and where.left == where.top == 0:
        return numbers
    found = numbers[np.clip(rows, 0, None)[:, None], np.clip(columns, 0, None)[None, :]]
    return np.where((rows < 0)[:, None] | (columns < 0)[None, :], np.uint8(UNSEEN), found)


def _axis(cells: int, pixels: int, begin: int, inner: int) -> NDArray[np.int64]:
    """Return the map's cell for each cell of the grid along one axis, -1 outside of the map."""
    count = min(max(round(inner * cells / pixels), 1), MAX_MASK_SIDE)
    at = begin + (np.arange(count) + 0.5) * (inner / count)
    found = np.floor(at * (cells / pixels)).astype(np.int64)
    return np.where((at >= 0) & (at < pixels), np.minimum(found, cells - 1), -1)


def thinned(values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Return every n-th row and column of a map (C, h, w), so that at most about `most` cells remain."""
    step = max(math.ceil(math.sqrt(values.shape[1] * values.shape[2] / most)), 1)
    return values[:, ::step, ::step]

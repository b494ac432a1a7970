"""Compute where a picture is placed in a model's input, and convert coordinates between the two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelkit.specs import InputSpec, Preprocessing

Window = tuple[int, int, int, int]
"""Left, top, right and bottom edge of a part of a picture, in pixels."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A picture of `width` x `height` pixels at (left, top) of the input, resized to `inner` there.

    What lies outside the input (a crop) has a negative `left` or `top`. All in pixels.
    """

    width: int
    height: int
    left: int
    top: int
    inner_width: int
    inner_height: int

    def to_picture(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert boxes (..., 4; left, top, right, bottom) from pixels of the input to those of the picture; not clipped."""
        offset = np.array([self.left, self.top, self.left, self.top], dtype=np.float64)
        return np.asarray((boxes - offset) / self._scale(), dtype=np.float64)

    def to_input(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert boxes from pixels of the picture to those of the input: the inverse of `to_picture`."""
        offset = np.array([self.left, self.top, self.left, self.top], dtype=np.float64)
        return np.asarray(boxes * self._scale() + offset, dtype=np.float64)

    def window(self, spec: InputSpec) -> Window:
        """Return the part of the resized picture that lies inside the input; a crop leaves the rest out."""
        left, top = max(-self.left, 0), max(-self.top, 0)
        right = min(self.inner_width, spec.width - self.left)
        return left, top, right, min(self.inner_height, spec.height - self.top)

    def _scale(self) -> NDArray[np.float64]:
        x, y = self.inner_width / self.width, self.inner_height / self.height
        return np.array([x, y, x, y], dtype=np.float64)


def place(width: int, height: int, spec: InputSpec, how: Preprocessing) -> Placed:
    """Return where a picture of this size lies in the input. No side ever becomes 0 pixels."""
    if how.fit == "stretch":
        return Placed(width, height, 0, 0, spec.width, spec.height)
    short = how.crop_from / min(width, height)
    scale = short if how.fit == "crop-centre" else min(spec.width / width, spec.height / height)
    inner_width = max(1, round(width * scale))
    inner_height = max(1, round(height * scale))
    if how.fit == "letterbox-topleft":
        return Placed(width, height, 0, 0, inner_width, inner_height)
    left, top = (spec.width - inner_width) // 2, (spec.height - inner_height) // 2
    return Placed(width, height, left, top, inner_width, inner_height)

"""Convert pictures of any size to the model's input, exactly as its contract says: fit, colours, values, layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkit.contract import ModelContract
from modelkit.geometry import Placed, Window, place
from modelkit.images import Pixels, resize_to
from modelkit.specs import InputSpec, Preprocessing


def fit_in(image: Pixels, spec: InputSpec, how: Preprocessing) -> Pixels:
    """Return the picture inside the input, still 8-bit RGB: (spec.height, spec.width, 3)."""
    return _paste(image, place(image.shape[1], image.shape[0], spec, how), spec, how)


def _paste(image: Pixels, where: Placed, spec: InputSpec, how: Preprocessing) -> Pixels:
    resize = resize_to if how.resample == "averaged" else resize_two_point
    seen = resize(image, where.inner_width, where.inner_height, where.window(spec))
    if seen.shape[:2] == (spec.height, spec.width):
        return seen
    canvas = np.full((spec.height, spec.width, spec.channels), how.pad, dtype=np.uint8)
    left, top = max(where.left, 0), max(where.top, 0)
    canvas[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
    return canvas


def resize_two_point(image: Pixels, width: int, height: int, window: Window | None = None) -> Pixels:
    """Resize bilinearly between the two nearest pixels per axis (half-pixel centres), without averaging.

    `window` as in `resize_to`.
    """
    left, top, right, bottom = window or (0, 0, width, height)
    if image.shape[:2] == (height, width):
        return image[top:bottom, left:right]
    columns = _between(image, width, range(left, right), axis=1)
    return np.rint(_between(columns, height, range(top, bottom), axis=0)).astype(np.uint8)


def _between(
    values: NDArray[np.uint8] | NDArray[np.float32], size: int, wanted: range, axis: int
) -> NDArray[np.float32]:
    """Return the `wanted` places of an axis that is resized to `size`."""
    old = values.shape[axis]
    at = np.clip((np.arange(wanted.start, wanted.stop) + 0.5) * (old / size) - 0.5, 0, old - 1)
    low = np.floor(at).astype(np.int64)
    share = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
    high = np.minimum(low + 1, old - 1)
    return np.asarray(
        values.take(low, axis) * (1 - share) + values.take(high, axis) * share, dtype=np.float32
    )


def normalise(pixels: NDArray[np.uint8] | NDArray[np.float32], how: Preprocessing) -> NDArray[np.float32]:
    """Compute `(pixels * scale - mean) / std`: (N, H, W, 3) RGB of 0 to 255 to float32 (N, 3, H, W)."""
    factor, offset = _linear(how.scale, tuple(how.mean), tuple(how.std))
    ordered = pixels if how.color == "RGB" else pixels[..., ::-1]
    values = ordered.astype(np.float32)
    values *= factor
    values -= offset
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


@lru_cache(maxsize=16)
def _linear(
    scale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what each channel is multiplied by and what is subtracted then."""
    spread = np.asarray(std, dtype=np.float32)
    return np.float32(scale) / spread, np.asarray(mean, dtype=np.float32) / spread


def place_all(images: Sequence[Pixels], contract: ModelContract) -> list[Placed]:
    """Return where each picture lies in the input."""
    return [place(i.shape[1], i.shape[0], contract.input, contract.preprocessing) for i in images]


def preprocess(images: Sequence[Pixels], contract: ModelContract) -> NDArray[Any]:
    """Return the model's input for these pictures, N may be 0: (N, channels, height, width), or as the contract lays it out."""
    return _input(images, place_all(images, contract), contract)


def _input(images: Sequence[Pixels], placed: Sequence[Placed], contract: ModelContract) -> NDArray[Any]:
    spec = contract.input
    fitted = np.empty((len(images), spec.height, spec.width, spec.channels), dtype=np.uint8)
    for row, (image, where) in enumerate(zip(images, placed, strict=True)):
        fitted[row] = _paste(image, where, spec, contract.preprocessing)
    return as_input(fitted, contract)


def as_input(fitted: NDArray[np.uint8], contract: ModelContract) -> NDArray[Any]:
    """Convert pictures at the input's size, uint8 (N, H, W, 3) RGB, to the values and layout of the contract."""
    spec, how = contract.input, contract.preprocessing
    if spec.dtype == "uint8":
        ordered = fitted if how.color == "RGB" else fitted[..., ::-1]
        return np.ascontiguousarray(ordered if spec.layout == "NHWC" else ordered.transpose(0, 3, 1, 2))
    values = normalise(fitted, how)
    if spec.layout == "NHWC":
        values = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    return values if spec.dtype == "float32" else values.astype(np.float16)


def feeds(
    images: Sequence[Pixels], placed: Sequence[Placed], contract: ModelContract
) -> Mapping[str, NDArray[Any]]:
    """Return all inputs of the graph by name; a fixed batch is filled up with zeros."""
    spec = contract.input
    found = {spec.name: _input(images, placed, contract)}
    size = contract.size_input
    if size is not None:
        sizes = [
            (where.height, where.width) if size.of == "original" else (spec.height, spec.width)
            for where in placed
        ]
        ordered = sizes if size.order == "height-width" else [pair[::-1] for pair in sizes]
        found[size.name] = np.array(ordered, dtype=size.dtype)
    for extra in contract.extra_inputs:
        if extra.kind == "scale":
            scales = [
                (where.inner_height / where.height, where.inner_width / where.width) for where in placed
            ]
            ordered_scales = scales if extra.order == "height-width" else [pair[::-1] for pair in scales]
            found[extra.name] = np.array(ordered_scales, dtype=extra.dtype)
    missing = spec.batch - len(images)
    if missing > 0:
        found = {
            name: np.concatenate([v, np.zeros((missing, *v.shape[1:]), v.dtype)]) for name, v in found.items()
        }
    for extra in contract.extra_inputs:
        if extra.kind == "constant":
            found[extra.name] = np.array(extra.values, dtype=extra.dtype).reshape(extra.shape)
    return found

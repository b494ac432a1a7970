"""From an encoded picture to the model's input, its light and its sharpness: one definition for everyone.

A picture is refused from its header, before a pixel is decoded, when it is larger than the limits. Colour
profiles and orientation tags are ignored on purpose: vehicle, training and evaluation see the stored
pixels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from foundation.errors import RejectedError
from modelkit.contract import InputSpec, ModelContract, Preprocessing

Pixels = NDArray[np.uint8]
"""A picture: (height, width, 3), 8-bit RGB."""

Condition = Literal["dark", "bright", "blurred", "normal"]
CONDITIONS: Final[tuple[Condition, ...]] = ("normal", "dark", "bright", "blurred")

# Thresholds of `condition_of`, in 8-bit luma and in the unit of `sharpness`. Reported with every evaluation.
DARK_BELOW_LUMA: Final = 50.0
BRIGHT_ABOVE_LUMA: Final = 180.0
BLURRED_BELOW_SHARPNESS: Final = 0.15
ANALYSIS_SIZE_PIXELS: Final = 32

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP")
_MODES: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_UNREADABLE: Final = (
    UnidentifiedImageError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    IndexError,
)
_LUMA_WEIGHTS: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds of one encoded picture, checked before its pixels are decoded."""

    max_bytes: int = 20_000_000
    max_side_pixels: int = 10_000
    max_pixels: int = 25_000_000


@dataclass(frozen=True, slots=True)
class ImageMeasures:
    """Mean luma (0 to 255), sharpness (0 and up, see `sharpness`) and the condition that follows."""

    luma: float
    sharpness: float
    condition: Condition


def decode_image(payload: bytes, limits: ImageLimits | None = None) -> Pixels:
    """The picture's stored pixels as 8-bit RGB, (height, width, 3); the first frame of an animation.

    Raises:
        RejectedError: reason `unreadable_image`; not a PNG, JPEG, WebP or BMP, damaged, cut short, or over
        a limit.
    """
    bounds = limits if limits is not None else ImageLimits()
    if len(payload) > bounds.max_bytes:
        raise _unreadable(f"{len(payload)} bytes, the limit is {bounds.max_bytes}")
    try:
        with Image.open(io.BytesIO(payload), formats=_FORMATS) as image:
            _check_header(image, bounds)
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except Image.DecompressionBombError as error:
        raise _unreadable(f"{error} (the limit is {bounds.max_pixels} pixels)") from error
    except _UNREADABLE as error:
        raise _unreadable(f"{type(error).__name__}: {error}") from error


def _check_header(image: Image.Image, bounds: ImageLimits) -> None:
    width, height = image.size
    if (
        width < 1
        or height < 1
        or max(width, height) > bounds.max_side_pixels
        or width * height > bounds.max_pixels
    ):
        limits = f"the limits are {bounds.max_side_pixels} pixels a side and {bounds.max_pixels} in all"
        raise _unreadable(f"{width} x {height} pixels; {limits}")
    if image.mode not in _MODES:
        raise _unreadable(f"pixel mode {image.mode!r}; allowed are {sorted(_MODES)}")


def _unreadable(why: str) -> RejectedError:
    return RejectedError(f"unreadable image: {why}", reason="unreadable_image")


def resize(image: Pixels, spec: InputSpec) -> Pixels:
    """The picture at the input's size, bilinear with anti-aliasing; (spec.height, spec.width, 3)."""
    if image.shape[:2] == (spec.height, spec.width):
        return image
    small = Image.fromarray(image).resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.uint8)


def normalise(pixels: NDArray[np.uint8] | NDArray[np.float32], how: Preprocessing) -> NDArray[np.float32]:
    """`(pixels * scale - mean) / std`, (N, H, W, 3) to float32 (N, 3, H, W). Pixels are 0 to 255."""
    mean = np.asarray(how.mean, dtype=np.float32)
    std = np.asarray(how.std, dtype=np.float32)
    values = pixels.astype(np.float32) * (np.float32(how.scale) / std) - mean / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def preprocess(images: Sequence[Pixels], contract: ModelContract) -> NDArray[np.float32]:
    """The model's input for these pictures: float32 (N, channels, height, width), N may be 0."""
    spec = contract.input
    resized = np.empty((len(images), spec.height, spec.width, spec.channels), dtype=np.uint8)
    for row, image in enumerate(images):
        resized[row] = resize(image, spec)
    return normalise(resized, contract.preprocessing)


def luma(image: Pixels) -> float:
    """Mean luma of the picture, 0 (black) to 255 (white), ITU-R BT.601 weights."""
    return float(image.reshape(-1, 3).mean(axis=0, dtype=np.float64) @ _LUMA_WEIGHTS.astype(np.float64))


def sharpness(image: Pixels) -> float:
    """Energy of the Laplacian over energy of the contrast, at 32 x 32 pixels; 0 for a flat picture.

    The ratio does not change with brightness or contrast, and the fixed size makes crops of every size
    comparable: it says how sharp the picture is at the size at which a small model sees it.
    """
    side = ANALYSIS_SIZE_PIXELS
    grey = resize(image, InputSpec(height=side, width=side)).astype(np.float32) @ _LUMA_WEIGHTS
    contrast = float(grey.var())
    if contrast < 1.0:
        return 0.0
    inner = grey[1:-1, 1:-1]
    laplacian = 4.0 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float((laplacian * laplacian).mean()) / contrast


def measure(image: Pixels) -> ImageMeasures:
    """Luma, sharpness and condition: the first that holds of dark, bright and blurred, else normal."""
    mean_luma = luma(image)
    sharp = sharpness(image)
    condition: Condition = "normal"
    if mean_luma < DARK_BELOW_LUMA:
        condition = "dark"
    elif mean_luma > BRIGHT_ABOVE_LUMA:
        condition = "bright"
    elif sharp < BLURRED_BELOW_SHARPNESS:
        condition = "blurred"
    return ImageMeasures(mean_luma, sharp, condition)


def condition_of(image: Pixels) -> Condition:
    """Light and sharpness of a picture in one word: the slices of vehicle, dataset and evaluation."""
    return measure(image).condition

"""Decode pictures and measure their luma and sharpness: one definition for vehicle, curation and training.

A picture is refused from its bytes, before a decoder sees it, when it is larger than the limits. Pixels are those
that a viewer shows: turned as the EXIF orientation says, the first frame of an animation, transparency on black,
16-bit values by their upper eight bits. Colour profiles are ignored: vehicle, training and evaluation agree.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from foundation.errors import RejectedError
from foundation.picture_header import PictureHeader, read_header
from modelkit.geometry import Window

Pixels = NDArray[np.uint8]
"""A picture: (height, width, 3), 8-bit RGB."""

Condition = Literal["dark", "bright", "blurred", "normal"]
CONDITIONS: Final[tuple[Condition, ...]] = ("normal", "dark", "bright", "blurred")

# Thresholds of `condition_of`, in 8-bit luma and in the unit of `sharpness`. Reported with every evaluation.
DARK_BELOW_LUMA: Final = 50.0
BRIGHT_ABOVE_LUMA: Final = 180.0
BLURRED_BELOW_SHARPNESS: Final = 0.15
ANALYSIS_SIZE_PIXELS: Final = 32

_MODES_16: Final = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_MODES: Final = _MODES_16 | {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_EXIF_KEYS: Final = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
_ORIENTATION: Final = 0x0112
_GIF_FRAME: Final = b"!\xf9\x04"
"""A graphic control extension: after the first image it belongs to a further frame."""
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LUMA_WEIGHTS: Final = np.array(
    [299.0, 587.0, 114.0]
)  # ITU-R BT.601, in thousandths: sums of them are whole numbers


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


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture. `stored_size` is (width, height) before it was turned by `orientation` (EXIF, 1 to 8).

    `notes` says in a few words each what was done besides decoding: turned, first frame, on black, to 8 bits.
    """

    pixels: Pixels
    format: str
    stored_size: tuple[int, int]
    orientation: int
    notes: tuple[str, ...]


def decode_image(payload: bytes, limits: ImageLimits | None = None) -> Pixels:
    """Return the picture as a viewer shows it: 8-bit RGB, (height, width, 3). See `read_picture`."""
    return read_picture(payload, limits).pixels


def read_picture(payload: bytes, limits: ImageLimits | None = None) -> Picture:
    """Decode a PNG, JPEG, WebP, BMP, GIF, PPM or TIFF, whatever its name says.

    Raises:
        RejectedError: reason `unreadable_image`; another format, damaged, cut short, or over a limit.
        MemoryError: the machine has too little memory for it now.
    """
    bounds = limits if limits is not None else ImageLimits()
    if len(payload) > bounds.max_bytes:
        raise _unreadable(f"{len(payload)} bytes, the limit is {bounds.max_bytes}")
    try:
        header = read_header(payload)
    except ValueError as error:
        raise _unreadable(str(error)) from error
    _check_size(header.width, header.height, bounds)
    try:
        with Image.open(io.BytesIO(payload), formats=(header.format,)) as image:
            return _decoded(image, payload, header, bounds)
    except (RejectedError, MemoryError):
        raise
    # A decoder fails in more ways than it documents, and each of them means that the picture is unreadable.
    except Exception as error:
        raise _unreadable(f"{type(error).__name__}: {error}") from error


def _decoded(image: Image.Image, payload: bytes, header: PictureHeader, bounds: ImageLimits) -> Picture:
    name = header.format
    _check_size(*image.size, bounds)
    if image.mode not in _MODES and not (image.mode == "I" and name in ("PNG", "PPM")):
        raise _unreadable(f"pixel mode {image.mode!r}; allowed are {sorted(_MODES)}")
    orientation = _tiff_orientation(image) if name == "TIFF" else 1  # which Pillow turns while it loads
    is_animated = _is_animated(image, payload)
    image.load()
    _check_size(*image.size, bounds)
    pixels, notes = _rgb(image)
    if is_animated:
        notes.append("first frame of an animation")
    if name != "TIFF":
        orientation = _orientation(image)
        if orientation in _TURNS:
            pixels = np.ascontiguousarray(Image.fromarray(pixels).transpose(_TURNS[orientation]))
    if orientation in _TURNS:
        notes.append(f"turned as EXIF orientation {orientation} says")
    return Picture(pixels, name, (header.width, header.height), orientation, tuple(notes))


def _rgb(image: Image.Image) -> tuple[Pixels, list[str]]:
    """Return the loaded picture as 8-bit RGB, and what was done for that."""
    if image.mode in _MODES_16 or image.mode == "I":
        grey = (np.asarray(image).clip(0, 65_535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2), ["16-bit values by their upper eight bits"]
    if not image.has_transparency_data:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8), []
    layers = np.asarray(image.convert("RGBA"), dtype=np.uint8)
    opacity = layers[:, :, 3:].astype(np.uint16)
    if opacity.min() == 255:
        return np.ascontiguousarray(layers[:, :, :3]), []
    pixels = ((layers[:, :, :3] * opacity + 127) // 255).astype(np.uint8)
    return pixels, ["transparency on black"]


def _is_animated(image: Image.Image, payload: bytes) -> bool:
    """Return whether more frames follow the first; not how many, for which each would be read."""
    try:
        if isinstance(image, GifImageFile):  # a decoder walks over its blocks in a time that no bound holds
            return payload.find(_GIF_FRAME, image.tile[0].offset) >= 0
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - damage behind the first frame is no reason to refuse it
        return False


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded picture; 1 where there is none or it cannot be read, as viewers do."""
    if _EXIF_KEYS.isdisjoint(image.info):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a damaged tag is no reason to refuse sound pixels
        return 1


def _tiff_orientation(image: Image.Image) -> int:
    try:
        return int(getattr(image, "tag_v2", {}).get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - as above
        return 1


def _check_size(width: int, height: int, bounds: ImageLimits) -> None:
    if (
        width < 1
        or height < 1
        or max(width, height) > bounds.max_side_pixels
        or width * height > bounds.max_pixels
    ):
        limits = f"the limits are {bounds.max_side_pixels} pixels a side and {bounds.max_pixels} in all"
        raise _unreadable(f"{width} x {height} pixels; {limits}")


def _unreadable(why: str) -> RejectedError:
    return RejectedError(f"unreadable image: {why}", reason="unreadable_image")


def resize_to(image: Pixels, width: int, height: int, window: Window | None = None) -> Pixels:
    """Return the picture at another size, bilinear with anti-aliasing; (height, width, 3).

    With a `window` only that part of the resized picture is computed and returned; memory follows its size.
    """
    left, top, right, bottom = window or (0, 0, width, height)
    old_height, old_width = image.shape[:2]
    if (old_height, old_width) == (height, width):
        return image[top:bottom, left:right]
    part = (
        left * old_width / width,
        top * old_height / height,
        right * old_width / width,
        bottom * old_height / height,
    )
    small = Image.fromarray(image).resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=part)
    return np.asarray(small, dtype=np.uint8)


def luma(image: Pixels) -> float:
    """Return mean luma of the picture, 0 (black) to 255 (white), ITU-R BT.601 weights; the same on every processor."""
    height, width = image.shape[:2]
    columns = image.reshape(height, width * 3).sum(axis=0, dtype=np.uint64)  # adds whole rows, which is fast
    thousandths: int = int(columns.reshape(width, 3).sum(axis=0) @ _LUMA_WEIGHTS)
    pixels: int = height * width
    return thousandths / (1000 * pixels)


def sharpness(image: Pixels) -> float:
    """Return energy of the Laplacian over energy of the contrast, at 32 x 32 pixels; 0 for a flat picture.

    The ratio does not change with brightness or contrast, and the fixed size makes crops of every size
    comparable: it says how sharp the picture is at the size at which a small model sees it.

    A dataset's digest holds it, so that it must be the same on every processor: all sums are of whole numbers
    below 2 ** 53, which float64 adds exactly in any order, and only the last division rounds.
    """
    side = ANALYSIS_SIZE_PIXELS
    grey = resize_to(image, side, side) @ _LUMA_WEIGHTS
    number = side * side
    total: int = int(grey.sum())
    contrast: int = number * int(np.vdot(grey, grey)) - total * total  # variance * (1000 * number) ** 2
    if contrast < (1000 * number) ** 2:
        return 0.0
    inner = grey[1:-1, 1:-1]
    laplacian = 4.0 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    energy: int = int(np.vdot(laplacian, laplacian)) * number * number
    return energy / ((side - 2) * (side - 2) * contrast)


def measure(image: Pixels) -> ImageMeasures:
    """Return luma, sharpness and condition: the first that holds of dark, bright and blurred, else normal."""
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
    """Return the condition of a picture: dark, bright, blurred or normal, the slices of dataset and evaluation."""
    return measure(image).condition

"""Random augmentation: shift, zoom, brightness, blur, noise. No flips: traffic signs are not symmetric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class AugmentParams:
    """Bounds of the random changes, for pixel values of 0 to 255."""

    max_shift_pixels: int = 3
    min_gain: float = 0.3
    max_gain: float = 1.5
    max_offset: float = 25.0
    blur_probability: float = 0.2
    max_noise: float = 6.0
    max_zoom: float = 1.6


def augment(
    pixels: NDArray[np.uint8], rng: np.random.Generator, params: AugmentParams | None = None
) -> NDArray[np.float32]:
    """Return changed copies, float32 (N, H, W, 3) in 0 to 255; equal `rng` states give equal pictures."""
    p = params if params is not None else AugmentParams()
    count, height, width, _ = pixels.shape
    out = _shift(pixels, rng, p.max_shift_pixels)
    gain = np.exp(rng.uniform(np.log(p.min_gain), np.log(p.max_gain), (count, 1, 1, 1))).astype(np.float32)
    offset = rng.uniform(-p.max_offset, p.max_offset, (count, 1, 1, 1)).astype(np.float32)
    out = out * gain + offset
    blurred = np.asarray(rng.random(count) < p.blur_probability)
    if blurred.any():
        out[blurred] = _blur(out[blurred])
    noise = rng.uniform(0.0, p.max_noise, (count, 1, 1, 1)).astype(np.float32)
    out += noise * rng.standard_normal((count, height, width, 1), dtype=np.float32)
    return np.clip(out, 0.0, 255.0, out=out)


@dataclass(frozen=True, slots=True)
class Zoom:
    """A picture magnified by `scale` and then moved by (right, down) pixels of the input."""

    scale: float
    right: float
    down: float

    def edges(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert boxes (N, 4; edges in pixels) of the picture before to those of the picture after; not clipped."""
        offset = np.array([self.right, self.down, self.right, self.down], dtype=np.float32)
        return np.asarray(boxes * np.float32(self.scale) + offset)


def draw_zooms(count: int, height: int, width: int, rng: np.random.Generator, most: float) -> list[Zoom]:
    """Draw magnifications from 1 / sqrt(most) to `most`, each placed so that the picture fills most of the input."""
    found = []
    for scale in np.exp(rng.uniform(-np.log(most) / 2, np.log(most), count)):
        slack_x, slack_y = width * (1.0 - scale), height * (1.0 - scale)
        right, down = slack_x * rng.uniform(0.0, 1.0), slack_y * rng.uniform(0.0, 1.0)
        found.append(Zoom(float(scale), float(right), float(down)))
    return found


def zoomed(pixels: NDArray[np.uint8], zooms: Sequence[Zoom]) -> NDArray[np.uint8]:
    """Return each picture (N, H, W, 3) zoomed, by the nearest pixel; the border repeats."""
    count, height, width, _ = pixels.shape
    scale, right, down = (
        np.array([getattr(z, n) for z in zooms])[:, None] for n in ("scale", "right", "down")
    )
    rows = np.clip((np.arange(height)[None] + 0.5 - down) / scale, 0, height - 1).astype(np.int64)
    columns = np.clip((np.arange(width)[None] + 0.5 - right) / scale, 0, width - 1).astype(np.int64)
    return np.asarray(pixels[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]])


def _shift(pixels: NDArray[np.uint8], rng: np.random.Generator, most: int) -> NDArray[np.float32]:
    """Return each picture moved by up to `most` pixels; the border repeats."""
    count, height, width, _ = pixels.shape
    down, right = rng.integers(-most, most + 1, (2, count))
    rows = np.clip(np.arange(height)[None, :] + down[:, None], 0, height - 1)
    columns = np.clip(np.arange(width)[None, :] + right[:, None], 0, width - 1)
    picked = pixels[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.astype(np.float32)


def _blur(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the 3 x 3 mean, applied twice."""
    for _ in range(2):
        padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
        pixels = ((rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / np.float32(9.0)).astype(np.float32)
    return pixels

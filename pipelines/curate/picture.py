"""What curation measures of one picture: size, luma, sharpness, condition, perceptual hash. Runs in a confined process.

Imports no table library, because each process that decodes pictures starts with this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from modelkit.images import decode_image
from modelkit.images import measure as measure_image
from pipelines.curate.perceptual_hash import dct_hash

_DECIMALS: Final = 6


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of a picture that could be decoded."""

    width_pixels: int
    height_pixels: int
    luma: float
    sharpness: float
    condition: str
    image_hash_hex: str


def measured(payload: bytes) -> Measured:
    """Decode and measure one picture. Raises RejectedError, or whatever a decoder raises: it cannot be used."""
    image = decode_image(payload)
    measures = measure_image(image)
    height, width = image.shape[:2]
    return Measured(
        int(width),
        int(height),
        round(measures.luma, _DECIMALS),
        round(measures.sharpness, _DECIMALS),
        str(measures.condition),
        dct_hash(image).hex(),
    )

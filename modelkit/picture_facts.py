"""What labels and reference pictures need to know of a picture: its shapes and its condition. A task for `confined`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from modelkit.images import condition_of, read_picture

TASK: Final = "modelkit.picture_facts:facts"


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """Sizes in pixels: as a viewer shows it, and as stored; the EXIF orientation (1 to 8); the condition."""

    width: int
    height: int
    stored_width: int
    stored_height: int
    orientation: int
    condition: str


def facts(payload: bytes) -> PictureFacts:
    """Decode a picture and tell its facts. Raises RejectedError, or whatever a decoder raises."""
    picture = read_picture(payload)
    height, width = picture.pixels.shape[:2]
    stored_width, stored_height = picture.stored_size
    return PictureFacts(
        width, height, stored_width, stored_height, picture.orientation, str(condition_of(picture.pixels))
    )

"""The port of a sensor, or of a recording of one. This module does no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schemas.reasons import Provenance


@dataclass(frozen=True, slots=True)
class Frame:
    """One image as a sensor (or a recording of one) gave it. `payload` is the encoded file, never pixels.

    `place` names the frame within its source and is given to `FrameSource.frames` to go on after it. It is empty
    where `frame_id` does that; a recording whose frame ids repeat gives each row a place of its own.
    """

    frame_id: str
    drive_id: str
    sensor_id: str
    track_id: str | None
    capture_time_ns: int
    capture_time_uncertainty_ns: int
    content_type: str
    payload: bytes
    provenance: Provenance
    calibration_ref: str = ""
    place: str = field(default="", compare=False)

    @property
    def resume_place(self) -> str:
        """What `FrameSource.frames` takes to go on after this frame."""
        return self.place or self.frame_id


@dataclass(frozen=True, slots=True)
class SourceNote:
    """How many files or rows of a source something holds for, and the first of them."""

    count: int
    first: str


class FrameSource(Protocol):
    """Frames in order of capture. Cameras, videos and recordings stand behind this one port.

    A source that can be replayed starts after `resume_after` (a frame's `resume_place`) when it is given one. The
    end of an iteration means that there is nothing more now: a recording that grows gives the rest to the next.
    """

    def frames(self, resume_after: str | None = None) -> Iterator[Frame]:
        """The frames in order; RejectedError (reason unknown_frame) when there is no frame `resume_after`."""

    def notes(self) -> Mapping[str, SourceNote]:
        """What was left out of the source so far, and what was taken with a doubt, each in a few words."""

    def close(self) -> None:
        """Give files and devices back."""

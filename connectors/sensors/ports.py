"""The port of a sensor, or of a recording of one. This module does no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from schemas.reasons import Provenance


@dataclass(frozen=True, slots=True)
class Frame:
    """One image as a sensor (or a recording of one) gave it. `payload` is the encoded file, never pixels."""

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


class FrameSource(Protocol):
    """Frames in order of capture. Cameras, videos and recordings stand behind this one port.

    A source that can be replayed starts after `resume_after` (a frame_id) when it is given one.
    """

    def frames(self, resume_after: str | None = None) -> Iterator[Frame]:
        """The frames in order; RejectedError (reason unknown_frame) when there is no frame `resume_after`."""

    def close(self) -> None:
        """Give files and devices back."""

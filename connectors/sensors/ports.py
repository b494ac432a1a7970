"""The port of sensors and of recordings. This module does no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schemas.reasons import Modality, Provenance
from schemas.records import Content

WHOLE = Content()
"""The content of a payload that is one item at one instant."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One output of a sensor or of a recording: an image, a video segment, a block of signals, a pose or an event.

    `payload` is encoded as `content_type` and `content` say, never raw pixels; signals are a columnar block (an Arrow IPC
    stream). `sensor_id` names the stream, within which observations are in order. The payload covers
    [capture_time_ns, capture_time_ns + content.span_ns). `place` identifies the observation within its source, so that
    `ObservationSource.observations` can resume after it. It is empty where `frame_id` is unique; a recording whose frame
    ids repeat gives each row a place.
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
    modality: Modality = Modality.IMAGE
    content: Content = WHOLE

    @property
    def resume_place(self) -> str:
        """The argument of `ObservationSource.observations` that resumes after this observation."""
        return self.place or self.frame_id


@dataclass(frozen=True, slots=True)
class SourceNote:
    """A count of files or rows of a source that were left out or read with a warning, and the first of them."""

    count: int
    first: str


class ObservationSource(Protocol):
    """Observations in order of capture: cameras, buses, videos and recordings implement this port.

    A source that can be replayed starts after `resume_after` (the `resume_place` of an observation) if one is given. The end
    of an iteration means that there is nothing more now; a growing recording yields the rest in the next iteration.
    """

    is_waiting: bool
    """Whether a part of the source is still being written, so that its end is not reached."""
    is_live: bool
    """Whether what is not taken soon is lost, as with a camera; a recording waits."""

    def observations(self, resume_after: str | None = None) -> Iterator[Observation]:
        """Yield observations in order. Raises RejectedError (reason unknown_frame) if `resume_after` does not exist."""

    def notes(self) -> Mapping[str, SourceNote]:
        """Return what was left out so far, and what was read with a warning, by a short text."""

    def close(self) -> None:
        """Close files and devices."""

"""The port of a sensor, or of a recording of one. This module does no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schemas.reasons import Modality, Provenance
from schemas.records import Content

WHOLE = Content()
"""A payload that is one item of one instant."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one sensor (or a recording of one) gave: an image, a piece of video, a block of signals, a pose, an event.

    `payload` is encoded as `content_type` and `content` say, never pixels; signals are a columnar block (an Arrow
    stream). `sensor_id` names the stream: observations of one stream are in order. The payload covers
    [capture_time_ns, capture_time_ns + content.span_ns). `place` names the observation within its source and is given
    to `ObservationSource.observations` to go on after it. It is empty where `frame_id` does that; a recording whose
    ids repeat gives each row a place of its own.
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
        """What `ObservationSource.observations` takes to go on after this one."""
        return self.place or self.frame_id


@dataclass(frozen=True, slots=True)
class SourceNote:
    """How many files or rows of a source something holds for, and the first of them."""

    count: int
    first: str


class ObservationSource(Protocol):
    """Observations in order of capture. Cameras, buses, videos and recordings stand behind this one port.

    A source that can be replayed starts after `resume_after` (an observation's `resume_place`) when it is given one. The
    end of an iteration means that there is nothing more now: a recording that grows gives the rest to the next.
    """

    is_waiting: bool
    """Whether something of it is still being written, so that it has not come to its end."""

    def observations(self, resume_after: str | None = None) -> Iterator[Observation]:
        """What it has, in order; RejectedError (reason unknown_frame) when there is nothing named `resume_after`."""

    def notes(self) -> Mapping[str, SourceNote]:
        """What was left out of the source so far, and what was taken with a doubt, each in a few words."""

    def close(self) -> None:
        """Give files and devices back."""

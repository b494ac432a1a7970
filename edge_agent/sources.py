"""Opens the frame source that the settings name, and plays it from a place. Loads only the reader that is
needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from connectors.sensors.ports import Frame, FrameSource
from edge_agent.config import SourceKind, SourceSettings
from foundation.errors import CorruptError, FleetLoopError, MisconfiguredError, RejectedError
from foundation.events import EventLog


class SourceFailedError(FleetLoopError):
    """The recording cannot be played any further; `error` says why. What was played before it stands."""

    def __init__(self, error: FleetLoopError) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


def open_source(settings: SourceSettings) -> FrameSource:
    """Return the source.

    Raises:
        MisconfiguredError: the path does not exist, or the reader of Parquet files is not installed.
    """
    if not settings.path.exists():
        raise MisconfiguredError(f"source.path is {str(settings.path)!r}; it must exist")
    if settings.kind is SourceKind.IMAGE_FOLDER:
        from connectors.sensors.image_folder import CaptureTimes, ImageFolderSource

        interval_ns = round(settings.frame_interval_s * 1e9) or None
        times = CaptureTimes(interval_ns, zone_minutes=settings.utc_offset_minutes)
        return ImageFolderSource(settings.path, times=times, is_growing=settings.follow)
    try:
        from connectors.sensors.parquet_frames import ParquetFrameSource
    except ImportError as error:
        raise MisconfiguredError(
            f"source.kind is 'parquet', which needs pyarrow: pip install 'fleetloop[replay]' ({error})"
        ) from error
    return ParquetFrameSource(settings.path)


def source_id(settings: SourceSettings) -> str:
    """Name one playing of one recording: a place in it means nothing in another."""
    return json.dumps([settings.kind.value, str(settings.path), settings.replay_id])


def frames_from(
    source: FrameSource,
    resume_after: str | None,
    lap: int,
    *,
    loop: bool,
    events: EventLog,
    has_ended: bool = False,
) -> Iterator[tuple[Frame, int]]:
    """Every frame from the place on, with its lap; a looped source never ends unless it is empty.

    A place that is no longer in the recording is told, and the recording is played from its beginning; but not one
    that had ended (`has_ended`), of which only what it gained is played.

    Raises:
        SourceFailedError: the recording is damaged or holds what cannot be a frame.
    """
    while True:
        has_any = resume_after is not None
        for frame in _from(source, resume_after, events, has_ended=has_ended):
            has_any = True
            yield frame, lap
        if not loop or not has_any:
            return
        resume_after, lap = None, lap + 1


def _from(
    source: FrameSource, resume_after: str | None, events: EventLog, *, has_ended: bool
) -> Iterator[Frame]:
    try:
        try:
            yield from source.frames(resume_after)
        except RejectedError as error:
            if resume_after is None or error.reason != "unknown_frame":
                raise
            events.emit("place_unknown", level="warning", frame_id=resume_after, error=str(error))
            if not has_ended:
                yield from source.frames(None)
    except (RejectedError, CorruptError, MisconfiguredError) as error:
        raise SourceFailedError(error) from error

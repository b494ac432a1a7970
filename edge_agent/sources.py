"""Open the configured sources and play each from its position. Loads only the readers that are needed.

A source that is missing, unreadable or fails is reported and retried with backoff; it holds up no other one. One that
may block is read in its own thread (`source_thread.py`); recordings are read directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from connectors.sensors.ports import Observation, ObservationSource, SourceNote
from edge_agent.config import SourceKind, SourceSettings, source_id
from edge_agent.progress import Place
from edge_agent.source_thread import SourceThread
from foundation.clock import Clock
from foundation.errors import CorruptError, FleetLoopError, MisconfiguredError, RejectedError, RetryLaterError
from foundation.events import EventLog

FOLLOW_NS = 1_000_000_000
LOOK_NS = 5_000_000
"""How often a source with a thread is polled."""
SILENT_AFTER_NS = 5_000_000_000
"""After this time a source that does not answer is reported, and treated as having nothing to give now."""
DROPPED = "left out: the queue was full"
NEVER_NS = 1 << 62
FIRST_RETRY_NS = 1_000_000_000
LAST_RETRY_NS = 60_000_000_000
"""A source that failed is retried after 1 s, then after twice as long each time, up to a minute."""


class SourceFailedError(FleetLoopError):
    """The recording cannot be played any further; `error` says why. What was played before is valid."""

    def __init__(self, error: FleetLoopError) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


def open_source(settings: SourceSettings) -> ObservationSource:
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


def played(
    source: ObservationSource,
    resume_after: str | None,
    lap: int,
    *,
    loop: bool,
    events: EventLog,
    has_ended: bool = False,
    on_open: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Observation, int]]:
    """Yield everything from the position on, with its lap; a looped source never ends unless it is empty.

    A position that is no longer in the recording is reported, and the recording is played from its beginning; of one
    that had ended (`has_ended`), only new observations are played.

    Raises:
        SourceFailedError: the recording is damaged or holds what cannot be an observation.
    """
    while True:
        on_open()
        has_any = resume_after is not None
        for observation in _from(source, resume_after, events, has_ended=has_ended):
            has_any = True
            yield observation, lap
        if not loop or not has_any:
            return
        resume_after, lap = None, lap + 1


def _from(
    source: ObservationSource, resume_after: str | None, events: EventLog, *, has_ended: bool
) -> Iterator[Observation]:
    try:
        try:
            yield from source.observations(resume_after)
        except RejectedError as error:
            if resume_after is None or error.reason != "unknown_frame":
                raise
            events.emit("place_unknown", level="warning", frame_id=resume_after, error=str(error))
            if not has_ended:
                yield from source.observations(None)
    except (RejectedError, CorruptError, MisconfiguredError) as error:
        raise SourceFailedError(error) from error


class SourceFeed:
    """One source, played from its position: the next observation, when it is due, and its state. Never raises for it.

    `state` is waiting (missing or failed, retried), running, silent (it does not answer) or ended; `error` says why it
    waits or ended.
    """

    def __init__(
        self,
        settings: SourceSettings,
        place: Place,
        clock: Clock,
        events: EventLog,
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        """The source is opened when the first observation is asked for.

        `on_open` is called before a source without a thread is opened, and before each lap: to list it may take long.
        """
        self.settings = settings
        self.source_id = source_id(settings)
        self.state = "starting"
        self.error: FleetLoopError | None = None
        self.given = 0
        self.is_resumed = place.frame_id is not None
        self._place = place
        self._clock = clock
        self._events = events
        self._on_open = on_open if not settings.may_block else lambda: None
        self._interval_ns = round(1e9 / settings.rate_hz) if settings.rate_hz else 0
        self._due_ns = clock.monotonic_ns()
        self._retry_ns = FIRST_RETRY_NS
        self._source: ObservationSource | None = None
        self._playing: Iterator[tuple[Observation, int]] | None = None
        self._dropped = SourceNote(0, "")
        self._head: tuple[Observation, int] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it came to its end, and no file of it is still being written."""
        return self.state == "ended" and not (self._source and self._source.is_waiting)

    @property
    def is_playing(self) -> bool:
        """Whether it has more to give, as far as it knows."""
        return self.state in ("starting", "running")

    @property
    def due_ns(self) -> int:
        """When to ask again, by the monotonic clock."""
        return self._due_ns

    def notes(self) -> dict[str, SourceNote]:
        """Return the counts of observations that were skipped, or accepted with a reservation."""
        found = {} if self._source is None else dict(self._source.notes())
        if self._dropped.count:
            found[DROPPED] = self._dropped
        return found

    @property
    def silent_s(self) -> float:
        """For how many seconds the source has not answered; 0 when it is not silent."""
        playing = self._playing
        return round(playing.silent_ns / 1e9, 1) if isinstance(playing, SourceThread) else 0.0

    def head(self) -> Observation | None:
        """Return what comes next, without taking it; None when nothing is due now."""
        if self._clock.monotonic_ns() < self._due_ns:
            return None
        if self._head is None and self._is_ready():
            self._head = self._next()
        return None if self._head is None else self._head[0]

    def _is_ready(self) -> bool:
        """Return whether the source can be read without blocking; starts the thread of one that may block."""
        if not self.settings.may_block:
            return True
        if self._playing is None:
            self._playing = SourceThread(
                self._play,
                self._clock,
                may_drop=lambda: self._source is not None and self._source.is_live,
                on_drop=self._note_dropped,
                at_stop=self._close_source,
            )
        if not isinstance(self._playing, SourceThread) or self._playing.is_ready:
            return True
        self._due_ns = self._clock.monotonic_ns() + LOOK_NS
        if self._playing.silent_ns >= SILENT_AFTER_NS and self.state != "silent":
            self.state = "silent"
            self._events.emit("source_silent", level="error", source=self.source_id, seconds=self.silent_s)
        return False

    def _note_dropped(self, dropped: tuple[Observation, int]) -> None:
        note = self._dropped
        self._dropped = SourceNote(note.count + 1, note.first or dropped[0].frame_id)

    def take(self) -> tuple[Observation, int]:
        """Take what `head` showed, with its lap. Raises RuntimeError without a head."""
        if self._head is None:
            raise RuntimeError(f"{self.source_id} has nothing to take")
        taken, self._head = self._head, None
        self._place = Place(taken[0].resume_place, taken[1])
        self.given += 1
        self._due_ns = max(self._due_ns, self._clock.monotonic_ns()) + self._interval_ns
        return taken

    def close(self) -> None:
        """Close the source; one that does not answer is closed by its thread, should it ever answer."""
        playing, self._playing = self._playing, None
        if not isinstance(playing, SourceThread) or playing.stop():
            self._close_source()

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()

    def _next(self) -> tuple[Observation, int] | None:
        try:
            if self._playing is None:
                self._playing = self._play()
            found = next(self._playing, None)
        except SourceFailedError as failure:
            self._fail(failure.error)
            return None
        except (FleetLoopError, OSError) as error:
            told = (
                error
                if isinstance(error, FleetLoopError)
                else RetryLaterError(f"{self.settings.path}: {error}")
            )
            self._fail(told)
            return None
        except Exception as error:  # noqa: BLE001 - a reader or driver of whatever kind stops nothing else
            self._fail(CorruptError(f"{type(error).__name__}: {error}", path=self.settings.path))
            return None
        if found is None:
            self._end()
            return None
        self.state, self.error, self._retry_ns = "running", None, FIRST_RETRY_NS
        observation, lap = found
        if self.settings.stream:
            observation = replace(observation, sensor_id=self.settings.stream)
        if self.settings.drive:
            observation = replace(observation, drive_id=self.settings.drive)
        return observation, lap

    def _play(self) -> Iterator[tuple[Observation, int]]:
        self._on_open()
        if self._source is None:
            self._source = open_source(self.settings)
        has_ended = self._place.has_ended
        return played(
            self._source,
            self._place.frame_id,
            self._place.lap,
            loop=self.settings.loop and not has_ended,
            events=self._events,
            has_ended=has_ended,
            on_open=self._on_open,
        )

    def _end(self) -> None:
        """Handle the end: a source that is followed, or still being written, is read again later."""
        self.state, self.error, self._playing = "ended", None, None
        if self._place.frame_id is not None:
            self._place = Place(self._place.frame_id, self._place.lap, has_ended=True)
        is_growing = self.settings.follow or (self._source is not None and self._source.is_waiting)
        self._due_ns = self._clock.monotonic_ns() + (FOLLOW_NS if is_growing else NEVER_NS)

    def _fail(self, error: FleetLoopError) -> None:
        if str(error) != str(self.error):
            self._events.emit(
                "source_failed",
                level="error",
                source=self.source_id,
                error=f"{type(error).__name__}: {error}",
            )
        self.state, self.error = "waiting", error
        self.close()
        self._source = None
        self._due_ns = self._clock.monotonic_ns() + self._retry_ns
        self._retry_ns = min(2 * self._retry_ns, LAST_RETRY_NS)

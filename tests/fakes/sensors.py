"""A fake of the sensor port, which passes the same contract tests as the real sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from connectors.sensors.ports import Observation, SourceNote
from foundation.errors import RejectedError


class ListFrameSource:
    """A source of the given observations in the given order."""

    def __init__(self, frames: Iterable[Observation]) -> None:
        self._frames = list(frames)
        self.is_closed = False
        self.is_waiting = self.is_live = False

    def observations(self, resume_after: str | None = None) -> Iterator[Observation]:
        """See `ObservationSource.observations`."""
        names = [frame.resume_place for frame in self._frames]
        if resume_after is None:
            return iter(self._frames)
        if resume_after not in names:
            raise RejectedError(f"there is no frame {resume_after!r} to resume after", reason="unknown_frame")
        return iter(self._frames[names.index(resume_after) + 1 :])

    def notes(self) -> Mapping[str, SourceNote]:
        """Return no notes: nothing is left out of a list."""
        return {}

    def close(self) -> None:
        """Record that it was closed."""
        self.is_closed = True

"""Collect the read position of each source, until a sample or a commit carries it into the spool."""

from __future__ import annotations

import numpy as np

from edge_agent.progress import KeptFrame, Place, Progress, Step
from edge_agent.record import Seen
from edge_agent.window_tail import TailChange
from foundation.documents import plain


class PlaceKeeper:
    """Changes since the last step that the spool accepted. One thread only."""

    def __init__(self, progress: Progress) -> None:
        """`progress` is that of the spool when it was opened; it is not read afterwards."""
        self.frames_seen = progress.frames_seen
        self._known = dict(progress.places)
        self._places: dict[str, Place] = {}
        self._change = TailChange()
        self._has_refused = False

    def settle(self, seen: Seen, change: TailChange) -> None:
        """Add an observation that left the window, and what later ones need of it, to the next step."""
        self._places[seen.source_id] = Place(seen.observation.resume_place, seen.lap)
        self._change.add(change)
        self.frames_seen += 1

    def refuse(self) -> None:
        """Note that the counts of refused observations changed: they are written with the next step."""
        self._has_refused = True

    def step(self, kept: KeptFrame | None = None) -> object | None:
        """Return the step since the last one that was `taken`, as plain JSON; None when nothing changed."""
        if kept is None and not (self._places or self._has_refused):
            return None
        step: object = plain(Step(self.frames_seen, self._places, self._change, kept))
        return step

    def taken(self) -> None:
        """Note that the spool accepted the step; after a refused sample, the next step contains everything again."""
        self._known |= self._places
        self._places, self._change, self._has_refused = {}, TailChange(), False

    def end(self, source_id: str) -> None:
        """Record that a source ended; one that never gave anything is not recorded."""
        place = self._places.get(source_id) or self._known.get(source_id, Place())
        if place.frame_id is not None:
            self._places[source_id] = Place(place.frame_id, place.lap, has_ended=True)


def kept_frame(seen: Seen, *, by_rule: bool, remembers: bool) -> KeptFrame:
    """Return what keeping `seen` costs the limits; its embedding only when novelty remembers any."""
    said = seen.serving if remembers else None
    return KeptFrame(
        drive_id=seen.observation.drive_id,
        track_id=seen.observation.track_id,
        payload_bytes=len(seen.observation.payload),
        counts_for_track=by_rule,
        monotonic_ns=seen.monotonic_ns,
        model_digest=said.model_digest if said is not None else "",
        embedding=np.asarray(said.embedding, dtype="<f4").tobytes() if said is not None else b"",
    )

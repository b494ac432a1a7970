"""Keeps the place in each source with what the spool accepts: a step before each sample, the places at each commit.

A disk without room for the place stops nothing: the vehicle works on, says so, and a restart repeats observations.
"""

from __future__ import annotations

import numpy as np

from edge_agent.progress import KeptFrame, Place, Progress, Refused, Step
from edge_agent.progress_journal import ProgressJournal
from edge_agent.record import Seen
from edge_agent.spool.writer import SpoolWriter
from edge_agent.window_tail import TailChange
from foundation.clock import Clock
from foundation.errors import FleetLoopError
from foundation.events import EventLog
from schemas.reasons import NotAcceptedReason

JOURNAL_RETRY_S = 5.0


class PlaceKeeper:
    """What was settled since the last step, and the journal of steps. One thread only."""

    def __init__(self, journal: ProgressJournal, writer: SpoolWriter, clock: Clock, events: EventLog) -> None:
        """A disk that was full when `journal` was opened is told, and tried anew later."""
        self._journal = journal
        self._writer = writer
        self._clock = clock
        self._events = events
        self._places: dict[str, Place] = {}
        self._change = TailChange()
        self._last_seq = -1
        self._has_refused = False
        self._has_journal = True
        self._lost_ns = 0
        self.error = ""
        """Why the places are not written down now; empty while they are."""
        if journal.start_error:
            self._lose(journal.start_error)

    @property
    def progress(self) -> Progress:
        """The state as of the last step."""
        return self._journal.progress

    def settle(self, seen: Seen, change: TailChange) -> None:
        """The observation left the window: the next step says so, and what later ones need of it."""
        self._places[seen.source_id] = Place(seen.observation.resume_place, seen.lap)
        self._change.add(change)
        self.progress.frames_seen += 1

    def refuse(self) -> None:
        """The counts of refused observations changed: the next step says them, together with the places."""
        self._has_refused = True

    def begin_sample(self, kept: KeptFrame) -> Step:
        """Write the step of the sample that the spool is given next; `accept` it when the spool took it."""
        step = self._step(self._last_seq + 1, kept)
        self._write(step)
        return step

    def accept(self, step: Step) -> None:
        """The spool took the sample of `step`."""
        self._last_seq = step.seq
        self._apply(step)

    def reject(self, step: Step) -> None:
        """The spool refused the sample of `step`: what its place says holds with the next step."""
        self.progress.tail.apply(step.tail)

    def write_places(self) -> None:
        """Write where the reading is, although nothing was kept there."""
        if not self._places:
            return
        step = self._step(self._last_seq, None)
        self._write(step)
        self._apply(step)

    def end(self, source_id: str) -> None:
        """Remember that a source came to its end; one that never gave anything is not remembered."""
        place = self._places.get(source_id) or self.progress.place(source_id)
        if place.frame_id is not None:
            self._places[source_id] = Place(place.frame_id, place.lap, has_ended=True)
            self.write_places()

    def must_compact(self) -> bool:
        """Whether the journal has grown, or was lost and is to be tried anew: a whole snapshot mends it."""
        if self._has_journal:
            return self._journal.is_large
        return self._clock.monotonic_ns() - self._lost_ns >= JOURNAL_RETRY_S * 1e9

    def compact(self) -> None:
        """Begin the journal anew; only when every step that was written holds."""
        try:
            self._journal.compact()
        except (OSError, FleetLoopError) as error:
            self._lose(str(error))
            return
        if not self._has_journal:
            self._has_journal, self.error = True, ""
            self._events.emit("progress_kept_again")

    def _step(self, seq: int, kept: KeptFrame | None) -> Step:
        change, self._change = self._change, TailChange()
        return Step(
            epoch=self._writer.epoch,
            seq=seq,
            places=dict(self._places),
            frames_seen=self.progress.frames_seen,
            tail=change,
            kept=kept,
            refused=self._refused(),
        )

    def _refused(self) -> Refused | None:
        """The counts, when they changed since the last step."""
        if not self._has_refused:
            return None
        self._has_refused = False
        counts, size_bytes = self._writer.refused_frames()
        counts.pop(NotAcceptedReason.EMPTY_DRIVE, None)
        return Refused(counts, size_bytes)

    def _apply(self, step: Step) -> None:
        self.progress.apply(step)
        self._places.clear()

    def _write(self, step: Step) -> None:
        if not self._has_journal:
            return
        try:
            self._journal.write(step)
        except (OSError, FleetLoopError) as error:  # a full disk, a journal that takes no more writes
            self._lose(str(error))

    def _lose(self, error: str) -> None:
        if self._has_journal:
            self._events.emit("progress_lost", level="error", error=error)
        self._has_journal, self.error = False, error
        self._lost_ns = self._clock.monotonic_ns()


def kept_frame(seen: Seen, *, by_rule: bool, remembers: bool) -> KeptFrame:
    """Return what keeping `seen` costs the limits; its embedding only when novelty remembers any."""
    said = seen.serving
    embedding = said.embedding if said is not None and remembers else ()
    return KeptFrame(
        drive_id=seen.observation.drive_id,
        track_id=seen.observation.track_id,
        payload_bytes=len(seen.observation.payload),
        counts_for_track=by_rule,
        monotonic_ns=seen.monotonic_ns,
        model_digest=said.model_digest if said is not None else "",
        embedding=np.asarray(embedding, dtype=np.float32),
    )

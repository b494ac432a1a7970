"""Deliver's knowledge of releases per role, in memory and in `fetch.json`; the only writer of these files.

A refused release stays refused on a full disk: what could not be written is kept in memory, reported once, and written
later. Only the count of attempts must be on disk before the trial that it counts.
"""

from __future__ import annotations

from dataclasses import replace

from edge_agent.models.slot_documents import FetchState, SlotRef, with_event
from edge_agent.models.slots import SlotFolder
from foundation.clock import Clock
from foundation.errors import CorruptError, RejectedError
from foundation.events import EventLog
from schemas.reasons import RefuseReason
from schemas.records import ModelEvent

MAX_TRIAL_ATTEMPTS = 3


class FetchJournal:
    """The journal of all roles. Not thread-safe. Only `count_attempt` raises for a disk error."""

    def __init__(self, clock: Clock, events: EventLog) -> None:
        self._clock = clock
        self._log = events
        self._unwritten: dict[str, tuple[SlotFolder, FetchState]] = {}

    def known(self, slots: SlotFolder) -> FetchState:
        """Return what is known of the role's releases.

        A damaged file costs only knowledge of what was refused: it would be tried, and refused, again.
        """
        if slots.role in self._unwritten:
            return self._unwritten[slots.role][1]
        try:
            return slots.read_fetch()
        except (CorruptError, OSError) as error:
            self._log.emit("fetch_state_damaged", level="error", reason=str(error))
            return FetchState()

    def count_attempt(self, slots: SlotFolder, release_id: str) -> None:
        """Count a trial that begins.

        Raises:
            RejectedError: too many trials began already and never ended.
            OSError: the disk refused it; nothing was counted.
        """
        known = self.known(slots)
        attempts = known.attempts.get(release_id, 0)
        if attempts >= MAX_TRIAL_ATTEMPTS:
            raise RejectedError(
                f"{attempts} trials never came to an end", reason=RefuseReason.TRIAL_NEVER_ENDED
            )
        self._write(slots, replace(known, attempts={**known.attempts, release_id: attempts + 1}))

    def add(self, slots: SlotFolder, slot: SlotRef, word: str, reason: str, *, refused: str = "") -> None:
        """Add an event, which ends the count of attempts; `refused` is why the release is refused for good."""
        known = self.known(slots)
        if known.events and word == "untrusted" and known.events[-1].reason == reason:
            return
        event = ModelEvent(self._clock.now_ns(), slot.digest, slot.name, word, reason, slot.release_id)
        refusals = {**known.refused, slot.release_id: refused} if refused else known.refused
        attempts = {key: count for key, count in known.attempts.items() if key != slot.release_id}
        self._keep(slots, FetchState(refusals, attempts, with_event(known.events, event)))

    def forget_attempt(self, slots: SlotFolder, release_id: str) -> None:
        """Undo the last count, because the trial could not be started."""
        known = self.known(slots)
        attempts = {**known.attempts, release_id: max(0, known.attempts.get(release_id, 0) - 1)}
        self._keep(slots, replace(known, attempts=attempts))

    def _keep(self, slots: SlotFolder, state: FetchState) -> None:
        try:
            self._write(slots, state)
        except OSError as error:
            if slots.role not in self._unwritten:
                self._log.emit(
                    "fetch_state_not_written", level="error", role=slots.role, reason=str(error.strerror)
                )
            self._unwritten[slots.role] = slots, state

    def write_again(self) -> None:
        """Retry writes that failed before."""
        for slots, state in list(self._unwritten.values()):
            try:
                self._write(slots, state)
            except OSError:
                continue  # told when it began

    def _write(self, slots: SlotFolder, state: FetchState) -> None:
        slots.write_fetch(state)
        self._unwritten.pop(slots.role, None)

"""Perceive's last decision on the model of a role, in memory and in `active.json`; the only writer of that file.

A damaged file is set aside and the factory model, if any, gets the role. A failed write is retried, while the decided
model serves anyway. Refuses to load or judge a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edge_agent.models.settings import ServingSettings
from edge_agent.models.slot_documents import NO_MODEL, ActiveState, Loading, SlotRef, with_event
from edge_agent.models.slots import SlotFolder
from foundation.clock import Clock
from foundation.errors import CorruptError, RetryLaterError
from foundation.events import EventLog
from schemas.reasons import RefuseReason
from schemas.records import ModelEvent

_WARNED = ("rolled_back", "withdrawn", "refused")


class ActiveModels:
    """The state, read once at the start. `state` is what serves, whether or not it could be written.

    Raises (the constructor):
        CorruptError: `active.json` is damaged, and so is `factory.json`.
    """

    def __init__(self, slots: SlotFolder, clock: Clock, events: EventLog) -> None:
        self._slots = slots
        self._clock = clock
        self._log = events
        self._is_unsaved = False
        self.state: ActiveState = self._read()
        self._interrupted: Loading | None = None

    def count_start(self, *, has_crashed: bool = False) -> None:
        """Count a start on probation, or after a crash, on disk before the model is loaded.

        A later kill cannot undo it. Starts of the factory model are not counted: there is no model to fall back to.
        """
        if not self.state.confirmed or (has_crashed and self.state.active.release_id):
            self.save(replace(self.state, starts=self.state.starts + 1))

    def begin_load(self, slot: SlotRef) -> None:
        """Write that this candidate is being loaded, before it is. Raises RetryLaterError: it cannot be written."""
        last = self._interrupted
        times = last.times + 1 if last is not None and last.slot == slot else 1
        self.decide(replace(self.state, loading=Loading(slot, times)))

    def end_load(self) -> None:
        """Write that no candidate is being loaded, after one that was not taken."""
        self.save(replace(self.state, loading=None))

    def judge_interrupted_load(self, settings: ServingSettings, *, has_crashed: bool) -> bool:
        """Return whether the process before this one ended while it loaded a candidate.

        The candidate is refused if the process crashed, or was ended otherwise (for want of memory, say) too many times.
        """
        loading = self.state.loading
        if loading is None:
            return False
        if has_crashed:
            self.refuse(
                loading.slot, f"{RefuseReason.CRASHED}: perceive crashed while it loaded the candidate"
            )
        elif loading.times > settings.max_unconfirmed_starts:
            self.refuse(
                loading.slot, f"{RefuseReason.CRASHED}: perceive was ended in {loading.times} loads of it"
            )
        else:
            self._interrupted = loading
            self.end_load()
        return True

    def decide(self, state: ActiveState) -> None:
        """Set the state only if it could be written. Raises RetryLaterError: nothing was changed."""
        try:
            self._slots.write_active(state)
        except OSError as error:  # a full disk: the old model keeps serving
            raise RetryLaterError(f"active.json cannot be written: {error.strerror}") from error
        self.state = state

    def save(self, state: ActiveState) -> None:
        """Set the state and write it; on a full disk the write is retried at the next poll."""
        self.state = state
        try:
            self._slots.write_active(state)
            self._is_unsaved = False
        except OSError as error:
            self._is_unsaved = True
            self._log.emit("active_state_not_written", level="error", reason=str(error.strerror))

    def save_again(self) -> None:
        """Retry a write that failed before."""
        if self._is_unsaved:
            self.save(self.state)

    def factory_behind(self, slot: SlotRef) -> SlotRef | None:
        """Return the model of enrolment; None when it is `slot` itself, when its file is damaged, and in a role without one."""
        if not self._slots.has_factory:
            return None
        try:
            factory = self._slots.read_factory()
        except CorruptError:
            return None
        return None if factory.digest == slot.digest else factory

    def event(self, slot: SlotRef, word: str, reason: str = "") -> ModelEvent:
        """Return an event with the current time; `save` or `decide` a state with it."""
        return ModelEvent(self._clock.now_ns(), slot.digest, slot.name, word, reason, slot.release_id)

    def refuse(self, slot: SlotRef, reason: str) -> ModelEvent:
        """Block this release on this vehicle, although deliver offered it. Returns the event, saved and logged."""
        event = self.event(slot, "refused", reason)
        blocked = {**self.state.blocked, slot.release_id: reason}
        events = with_event(self.state.events, event)
        self.save(replace(self.state, blocked=blocked, events=events, loading=None))
        self.tell(event)
        return event

    def tell(self, event: ModelEvent) -> None:
        """Write the event to the process's own log."""
        self._log.emit(
            f"model_{event.event}",
            level="warning" if event.event in _WARNED else "info",
            model_digest=event.model_digest,
            model_name=event.model_name,
            release_id=event.release_id,
            role=self._slots.role,
            reason=event.reason,
        )

    def _read(self) -> ActiveState:
        try:
            return self._slots.read_active()
        except CorruptError as error:
            slot = self._slots.read_factory() if self._slots.has_factory else NO_MODEL
            self._slots.keep_damaged()
            self._is_unsaved = True
            self._log.emit("active_state_damaged", level="error", role=self._slots.role, reason=str(error))
            events = (self.event(slot, "activated", "active_state_damaged"),) if slot != NO_MODEL else ()
            return ActiveState(slot, blocked=self._known_blocked(), events=events)

    def _known_blocked(self) -> Mapping[str, str]:
        """Return what another file of the role knows, once the damaged one is set aside."""
        try:
            return self._slots.read_active().blocked
        except CorruptError:
            return {}

"""A model in a role beside serving, such as shadow: it sees the same pictures, and nothing depends on its answers.

It comes as a serving model does (signed, tried on this vehicle, authorised again from disk just before it is taken) and
is refused and watched by the same rules. Where a serving model gives way to the one before it, this one gives way to
none: a role without a model is absent. Whatever it does, short of ending the process, is kept from the caller; for a
process that it ended it is blamed before the serving model is (see `ModelSet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge_agent.models.active import ActiveModels
from edge_agent.models.desired import authorise, desired, plans_of
from edge_agent.models.health import HealthWatch
from edge_agent.models.loading import ModelLoader
from edge_agent.models.serving import NOT_HERE, Served
from edge_agent.models.settings import ServingSettings
from edge_agent.models.slots import NO_MODEL, ActiveState, SlotFolder, with_event
from edge_agent.models.trust import SavedTrust
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import Vehicle
from foundation.clock import Clock
from foundation.errors import FleetLoopError, MisconfiguredError, RejectedError, RetryLaterError
from foundation.events import EventLog
from modelkit.images import Pixels
from modelkit.predictor import Predictor
from modelkit.runtime import Backend
from schemas.reasons import RollbackReason
from schemas.records import Health


class SideRole:
    """The model of one role beside serving, or none. One thread only; the only writer of the role's `active.json`."""

    def __init__(
        self,
        role: str,
        state_folder: Path,
        vehicle: Vehicle,
        backend: Backend,
        settings: ServingSettings,
        clock: Clock,
        events: EventLog,
        *,
        has_crashed: bool = False,
    ) -> None:
        """`has_crashed`: a signal of the processor, such as SIGSEGV, ended the process before this one."""
        self.role = role
        self._slots = SlotFolder(state_folder, role)
        self._trust = TrustFolder(state_folder)
        self._vehicle = vehicle
        self._settings = settings
        self._clock = clock
        self._log = events
        self._loader = ModelLoader(backend, settings, lambda _step: None)
        self._watch = HealthWatch(settings.health)
        self._plan_seen: tuple[tuple[int, int], ...] = ()
        self._next_poll_ns = clock.monotonic_ns()
        self._offered = 0
        self.frames = 0
        """Answered or failed at since the process started."""
        self._predictor: Predictor | None = None
        self._models = ActiveModels(self._slots, clock, events)
        self.had_model = self.has_model
        """Whether the process before this one left a model in the role; what this start makes of it says nothing."""
        if self.had_model:
            self._models.count_start(has_crashed=has_crashed)
            self._load_active()

    @property
    def has_model(self) -> bool:
        """Whether a model has the role, loaded or not."""
        return bool(self._models.state.active.digest)

    def health(self) -> Health:
        """How its models behaved since the process started."""
        return self._watch.report()

    def predict(self, images: Sequence[Pixels]) -> Served | None:
        """Answer for these pictures; None without a model, when it is not due, and when it fails."""
        if self._predictor is None:
            return None
        self._offered += 1
        if (self._offered - 1) % self._settings.other_roles_every:
            return None
        slot = self._models.state.active
        self.frames += 1
        began_ns = self._clock.monotonic_ns()
        try:
            predictions = self._predictor.predict(images)
        except Exception as error:  # noqa: BLE001 - nothing that this model does may stop the serving one
            verdict = self._watch.failed(f"{type(error).__name__}: {error}")
            if verdict is not None:
                self._give_way("rolled_back", verdict, blocks=True)
            return None
        latency_ns = self._clock.monotonic_ns() - began_ns
        verdict = self._watch.answered(predictions, latency_ns)
        if verdict is not None:
            self._give_way("rolled_back", verdict, blocks=True)
            return None
        self._end_probation()
        return Served(predictions, slot.name, slot.digest, latency_ns, role=self.role)

    def poll(self) -> None:
        """Between two frames: obey a halt, or take a candidate. Trouble is logged and tried again; it never raises."""
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._next_poll_ns:
            return
        try:
            self._models.save_again()
            if not self._obey_halt():
                self._take_candidate()
        except RetryLaterError as error:
            self._log.emit("swap_postponed", role=self.role, reason=str(error))
        except Exception as error:  # noqa: BLE001 - as in predict
            self._next_poll_ns = now_ns + round(self._settings.refused_wait_s * 1e9)
            self._log.emit("swap_refused", level="warning", role=self.role, reason=_said(error))

    def _end_probation(self) -> None:
        state = self._models.state
        if self._watch.frames < self._settings.probation_frames or (state.confirmed and not state.starts):
            return
        events = state.events
        if not state.confirmed:
            event = self._models.event(state.active, "confirmed")
            events = with_event(events, event)
            self._models.tell(event)
        self._models.save(replace(state, confirmed=True, starts=0, events=events))

    def _obey_halt(self) -> bool:
        seen = self._trust.stamp("rollouts")
        if not self.has_model or seen == self._plan_seen:
            return False
        trust = SavedTrust.load(self._trust, self._clock, fresh=False)
        intent = desired(plans_of(trust.index("rollouts")), self._vehicle, self.role)
        self._plan_seen = seen
        if self._models.state.active.release_id not in intent.withdrawn:
            return False
        self._give_way("withdrawn", RollbackReason.PLAN_HALTED, blocks=False)
        return True

    def _take_candidate(self) -> None:
        candidate, state = self._slots.read_candidate(), self._models.state
        if candidate is None or candidate.slot == state.active or candidate.slot.release_id in state.blocked:
            return
        slot = candidate.slot
        with self._slots.lock(self._clock):
            authorise(slot, self._trust, self._vehicle, self._clock, self.role)
            data = self._slots.read_slot(slot.digest)
            try:
                predictor = self._loader.load(data, slot.digest)
            except RejectedError as error:
                if error.reason not in NOT_HERE:
                    raise  # perhaps passing: it stays the candidate
                self._models.refuse(slot, f"{error.reason}: {error}"[:500])
                return
            event = self._models.event(slot, "activated")
            self._models.decide(
                replace(
                    state,
                    active=slot,
                    confirmed=False,
                    starts=0,
                    swaps=state.swaps + 1,
                    events=with_event(state.events, event),
                )
            )
        self._predictor, self._plan_seen = predictor, ()
        self._watch.restart()
        self._models.tell(event)

    def _give_way(self, word: str, reason: str, *, blocks: bool) -> None:
        """The role is without a model before anything is written."""
        self._predictor = None
        self._watch.restart()
        state = self._models.state
        event = self._models.event(state.active, word, reason)
        blocked = {**state.blocked, state.active.release_id: reason} if blocks else state.blocked
        self._models.save(
            ActiveState(
                active=NO_MODEL,
                swaps=state.swaps,
                rollbacks=state.rollbacks + 1,
                blocked=blocked,
                events=with_event(state.events, event),
            )
        )
        self._models.tell(event)

    def _load_active(self) -> None:
        state = self._models.state
        if state.starts > self._settings.max_unconfirmed_starts:
            self._give_way("rolled_back", RollbackReason.CRASHED_ON_PROBATION, blocks=True)
            return
        try:
            data = self._slots.read_slot(state.active.digest)
            self._predictor = self._loader.load(data, state.active.digest)
        except Exception as error:  # noqa: BLE001 - as in predict
            reason = f"{RollbackReason.CANNOT_LOAD}: {_said(error)}"[:500]
            self._give_way("rolled_back", reason, blocks=not _is_of_the_machine(error))


def _is_of_the_machine(error: Exception) -> bool:
    """No memory, or no runtime: another time the same release may well be loaded."""
    return isinstance(error, MisconfiguredError | MemoryError) or isinstance(error.__cause__, MemoryError)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, FleetLoopError) else f"{type(error).__name__}: {error}"

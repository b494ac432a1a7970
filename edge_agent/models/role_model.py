"""The model of one role: a candidate is swapped in between frames, a faulty model is rolled back within its frame.

A swap, in steps (each may be the last before a crash):
  1. candidate-read   deliver says that a slot passed its trial
  2. verified         active.json names it as being loaded; its bytes are read and verified again
  3. loaded           it runs beside the previous model, once, on a grey picture
  4. plan-read        the signed plan and release are verified again from disk: fresh, running, meant for this
  vehicle
  5. persisted        the role's active.json names it: the one step that decides
  6. swapped          the next frame goes to it

It is then on probation: a start of the process in that time counts against it (it may be what kills the
process), an output that is not finite, too many errors or too slow answers make it give way within the same call, and
block the release on this vehicle for good.
A process that crashed (SIGSEGV and its like) puts the model on such a probation again, unless it crashed while it loaded
a candidate: then that candidate is refused. A release whose plan is halted is withdrawn, without blocking it.

Roles differ in one thing (`SlotFolder.has_factory`). The role serving begins with the model of enrolment and is never
without one: a faulty model is replaced by the previous one, which also answers a picture at which one on probation
fails. In any other role a faulty model is removed, and the role is empty until the next candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.models.active import ActiveModels
from edge_agent.models.desired import authorise, desired, plans_of
from edge_agent.models.health import HealthWatch
from edge_agent.models.loading import ModelLoader, OnStep, ask
from edge_agent.models.settings import ServingSettings
from edge_agent.models.slot_documents import NO_MODEL, ActiveState, Candidate, SlotRef, with_event
from edge_agent.models.slots import SlotFolder, is_shortage
from edge_agent.models.trust import SavedTrust
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import read_vehicle
from foundation.clock import Clock
from foundation.errors import (
    CorruptError,
    FleetLoopError,
    MisconfiguredError,
    RejectedError,
    RetryLaterError,
)
from foundation.events import EventLog
from modelkit.images import Pixels
from modelkit.placement import PlacementStatement
from modelkit.predictor import Prediction, Predictor
from modelkit.runtime import Backend
from schemas.reasons import ModelState, RefuseReason, RollbackReason
from schemas.records import Health, ModelEvent
from schemas.roles import SERVING

NOT_HERE = frozenset({RefuseReason.CPU_FALLBACK, RefuseReason.NO_ALLOWED_PROVIDER})
"""Reasons why a candidate can never serve on this vehicle, although its trial passed (or had other settings)."""


@dataclass(frozen=True, slots=True)
class Served:
    """The answer to one call of `predict`: whose it is, how long it took, and what it changed."""

    predictions: list[Prediction]
    model_name: str
    model_digest: str
    latency_ns: int
    event: ModelEvent | None = None
    role: str = SERVING


class RoleModel:
    """The model of one role. One thread only; the only writer of the role's `active.json`.

    Raises:
        MisconfiguredError: the vehicle was never enrolled.
        CorruptError: not even the factory model can be loaded (the role serving only).
    """

    def __init__(
        self,
        role: str,
        state_folder: Path,
        backend: Backend,
        settings: ServingSettings,
        clock: Clock,
        events: EventLog,
        on_step: OnStep | None = None,
        *,
        has_crashed: bool = False,
        is_excused: bool = False,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`has_crashed`: the previous process crashed (ended by SIGSEGV, SIGABRT or another fault signal).

        `is_excused`: its end is blamed on another role; this start counts against no model of this one.

        `on_progress`: called again and again while a model is verified and loaded.
        """
        self.role = role
        self._slots = SlotFolder(state_folder, role)
        self._trust = TrustFolder(state_folder)
        self._vehicle = read_vehicle(state_folder)
        self._settings = settings
        self._clock = clock
        self._log = events
        self._on_step: OnStep = on_step or (lambda _step: None)
        self._on_progress = on_progress
        self._loader = ModelLoader(backend, settings)
        self._watch = HealthWatch(settings.health)
        self._next_poll_ns = clock.monotonic_ns()
        self._plan_seen: tuple[tuple[int, int], ...] = ()
        self._is_stuck = False
        self._previous: Predictor | None = None
        self.frames = 0
        """Answered or failed at since the process started."""
        self._models = ActiveModels(self._slots, clock, events)
        self.had_model = self.has_model
        """Whether the process before this one left a model in the role; what this start makes of it says nothing."""
        is_counted = (
            not self._models.judge_interrupted_load(settings, has_crashed=has_crashed) and not is_excused
        )
        self._is_start_counted = is_counted and not has_crashed
        if is_counted:
            self._models.count_start(has_crashed=has_crashed)
        self._predictor = self._load_active() if self.had_model else None

    # What has the role.

    @property
    def has_model(self) -> bool:
        """Whether a model has the role; in the role serving one always has."""
        return bool(self._state.active.digest)

    @property
    def digest(self) -> str:
        """Digest of the model, "" without one."""
        return self._state.active.digest

    @property
    def name(self) -> str:
        """Name of the model, from its contract."""
        return self._state.active.name

    @property
    def release_id(self) -> str:
        """The release that the model came with; empty for the factory model."""
        return self._state.active.release_id

    @property
    def state(self) -> ModelState:
        """TRIAL while the model is on probation, else what a model of the role is."""
        return self._state.model_state(self.role)

    @property
    def swaps(self) -> int:
        """The number of swaps since enrolment."""
        return self._state.swaps

    @property
    def rollbacks(self) -> int:
        """The number of rollbacks since enrolment."""
        return self._state.rollbacks

    @property
    def events(self) -> tuple[ModelEvent, ...]:
        """What happened in the role since enrolment, the last 200."""
        return self._state.events

    @property
    def placement(self) -> PlacementStatement | None:
        """Where the nodes of the model run, as reported by the runtime; None without a model."""
        return None if self._predictor is None else self._predictor.placement

    @property
    def _state(self) -> ActiveState:
        return self._models.state

    def health(self) -> Health:
        """Return the health of the models since the process started, and where the model of now runs."""
        health, found = self._watch.report(), self.placement
        return (
            health if found is None else replace(health, work=found.work, is_fallen_back=found.is_fallen_back)
        )

    def end_in_order(self) -> None:
        """Take back the count of this start: the process ends as it was told to, which says nothing about the model.

        A start after a crash stays counted: the count stands for that crash.
        """
        if self._is_start_counted and not self._state.confirmed and self._state.starts:
            self._models.save(replace(self._state, starts=self._state.starts - 1))
        self._is_start_counted = False

    # Frames.

    def predict(self, images: Sequence[Pixels]) -> Served:
        """Answer for these pictures, by the model before this one when it fails at them.

        Raises:
            RejectedError: no model could answer (reason `run_failed`, `wrong_io` or `model_error`); the frame is to
                be counted as such.
        """
        told: ModelEvent | None = None
        self.frames += self._predictor is not None
        while (
            self._predictor is not None
        ):  # at most once per model: each rollback goes to an older one, or to none
            began_ns = self._clock.monotonic_ns()
            try:
                predictions = ask(self._predictor, images)
                latency_ns = self._clock.monotonic_ns() - began_ns
                event = self.observe(predictions, latency_ns)
            except RejectedError as error:
                event = self._act_on(self._watch.failed(str(error)))
                if event is None:
                    if self._previous is None or self._state.previous is None:
                        raise
                    return self._answer_by(self._state.previous, self._previous, images, told)
            told = event or told
            if event is None or event.event != "rolled_back":
                active = self._state.active
                return Served(predictions, active.name, active.digest, latency_ns, told, self.role)
        raise RejectedError(f"no model has the role {self.role}", reason=RefuseReason.MODEL_ERROR)

    def _answer_by(
        self, slot: SlotRef, predictor: Predictor, images: Sequence[Pixels], told: ModelEvent | None
    ) -> Served:
        """Let the previous model answer for one on probation that failed at these pictures."""
        began_ns = self._clock.monotonic_ns()
        predictions = ask(predictor, images)
        latency_ns = self._clock.monotonic_ns() - began_ns
        return Served(predictions, slot.name, slot.digest, latency_ns, told, self.role)

    def observe(self, predictions: Sequence[Prediction], latency_ns: int) -> ModelEvent | None:
        """Judge an answer of the model. A returned event `rolled_back` means: ask again, another one has the role."""
        event = self._act_on(self._watch.answered(predictions, latency_ns))
        if event is not None or self._watch.frames < self._settings.probation_frames:
            return event
        if not self._state.confirmed:
            return self._confirm()
        if self._state.starts:
            self._models.save(replace(self._state, starts=0))  # it crashed, but not again
        return None

    # Between two frames.

    def is_poll_due(self, now_ns: int) -> bool:
        """Return whether `poll` would look for news at this time of the monotonic clock."""
        return now_ns >= self._next_poll_ns

    def poll(self) -> ModelEvent | None:
        """Between two frames: obey a halt, or let a candidate take over. Cheap when there is nothing new.

        Whatever goes wrong is logged and tried again while the model that has the role goes on.
        """
        now_ns = self._clock.monotonic_ns()
        if not self.is_poll_due(now_ns):
            return None
        self._next_poll_ns = now_ns + round(self._settings.poll_interval_s * 1e9)
        self._models.save_again()
        try:
            return self._obey_halt() or self._take_candidate()
        except RetryLaterError as error:
            self._log.emit("swap_postponed", role=self.role, reason=str(error))
        except Exception as error:  # noqa: BLE001 - no memory, say: a vehicle drives on with the model that it has
            self._next_poll_ns = now_ns + round(self._settings.refused_wait_s * 1e9)
            self._log.emit("swap_refused", level="warning", role=self.role, reason=_said(error))
        return None

    def _obey_halt(self) -> ModelEvent | None:
        release_id = self._state.active.release_id
        if not release_id:
            return None
        seen = self._trust.stamp("rollouts")
        if seen == self._plan_seen:
            return None
        trust = SavedTrust.load(self._trust, self._clock, fresh=False)
        intent = desired(plans_of(trust.index("rollouts")), self._vehicle, self.role)
        self._plan_seen = seen
        return (
            self._give_way("withdrawn", RollbackReason.PLAN_HALTED, blocks=False)
            if release_id in intent.withdrawn
            else None
        )

    def _take_candidate(self) -> ModelEvent | None:
        candidate = self._slots.read_candidate()
        if candidate is None or candidate.slot == self._state.active:
            return None
        if candidate.slot.release_id in self._state.blocked:
            return None
        self._on_step("candidate-read")
        self._authorise(candidate.slot)  # cheap: no loading of what may not have the role
        with self._slots.lock(self._clock):
            self._models.begin_load(candidate.slot)
            try:
                return self._swap_in(candidate)
            except Exception:
                self._models.end_load()
                raise

    def _swap_in(self, candidate: Candidate) -> ModelEvent:
        try:
            predictor = self._load(candidate.slot.digest)
        except CorruptError as error:
            if not is_shortage(error):
                self._slots.remove_damaged(candidate.slot.digest)
            raise
        except RejectedError as error:
            if error.reason not in NOT_HERE:
                raise  # perhaps passing: it stays the candidate
            return self._models.refuse(candidate.slot, f"{error.reason}: {error}"[:500])
        self._on_step("loaded")
        self._authorise(candidate.slot)
        self._on_step("plan-read")
        return self._activate(candidate, predictor)

    def _authorise(self, slot: SlotRef) -> None:
        authorise(slot, self._trust, self._vehicle, self._clock, self.role)

    def _activate(self, candidate: Candidate, predictor: Predictor) -> ModelEvent:
        old = self._state
        event = self._models.event(candidate.slot, "activated")
        state = ActiveState(
            active=candidate.slot,
            previous=old.active if self._slots.has_factory else None,
            confirmed=False,
            swaps=old.swaps + 1,
            rollbacks=old.rollbacks,
            blocked=old.blocked,
            events=with_event(old.events, event),
        )
        self._models.decide(state)
        self._on_step("persisted")
        self._previous = self._predictor if self._slots.has_factory else None
        self._predictor = predictor
        self._watch.restart()
        self._plan_seen = ()
        self._on_step("swapped")
        self._models.tell(event)
        return event

    def _confirm(self) -> ModelEvent:
        event = self._models.event(self._state.active, "confirmed")
        self._previous = None  # from now on a rollback loads it again from its slot
        self._models.save(
            replace(self._state, confirmed=True, starts=0, events=with_event(self._state.events, event))
        )
        self._models.tell(event)
        return event

    # Giving way.

    def _act_on(self, verdict: RollbackReason | None) -> ModelEvent | None:
        return self._give_way("rolled_back", verdict, blocks=True) if verdict else None

    def _give_way(self, word: str, reason: str, *, blocks: bool) -> ModelEvent | None:
        """Replace the model before anything is written; return None if a previous model is needed and there is none."""
        bad = self._state.active
        back = self._way_back() if self._slots.has_factory else (NO_MODEL, None)
        if back is None:
            if not self._is_stuck:
                self._log.emit("no_way_back", level="error", model_digest=bad.digest, reason=reason)
            self._is_stuck = True
            return None
        ref, predictor = back
        event = self._models.event(bad, word, reason)
        events = with_event(self._state.events, event)
        if ref != NO_MODEL:
            events = with_event(events, self._models.event(ref, "activated", word))
        blocked = dict(self._state.blocked)
        if blocks and bad.release_id:
            blocked[bad.release_id] = reason
        self._predictor, self._previous = predictor, None
        self._watch.restart()
        self._models.save(
            ActiveState(
                active=ref,
                previous=self._models.factory_behind(ref),
                swaps=self._state.swaps,
                rollbacks=self._state.rollbacks + 1,
                blocked=blocked,
                events=events,
            )
        )
        self._on_step("gave-way")
        self._models.tell(event)
        return event

    def _way_back(self) -> tuple[SlotRef, Predictor] | None:
        previous = self._state.previous
        if self._previous is not None and previous is not None:
            return previous, self._previous
        for ref in (previous, self._models.factory_behind(self._state.active)):
            if (
                ref is None
                or ref.digest == self._state.active.digest
                or ref.release_id in self._state.blocked
            ):
                continue
            try:
                return ref, self._load(ref.digest)
            except Exception as error:  # noqa: BLE001 - the next one may be loaded
                self._log.emit("slot_unusable", level="error", model_digest=ref.digest, reason=_said(error))
        return None

    # Starting.

    def _load_active(self) -> Predictor | None:
        state = self._state
        reason = state.blocked.get(state.active.release_id, "")  # an older release may have taken it again
        if state.starts > self._settings.max_unconfirmed_starts:
            reason = str(RollbackReason.CRASHED_ON_PROBATION)
        is_unwanted, blocks = bool(reason), True
        if not is_unwanted:
            try:
                return self._load(state.active.digest)
            except Exception as error:  # noqa: BLE001 - whatever it is, another model may be loaded
                reason = f"{RollbackReason.CANNOT_LOAD}: {_said(error)}"[:500]
                blocks = not _is_of_the_machine(error)
        if self._give_way("rolled_back", reason, blocks=blocks) is None:
            if is_unwanted:
                return self._load(state.active.digest)  # nothing else is there: it may have been chance
            raise CorruptError(f"no model can serve: {reason}", path=self._slots.path)
        return self._predictor

    def _load(self, digest: str) -> Predictor:
        self._on_progress()
        verified = self._slots.verified(digest, self._on_progress)
        self._on_progress()
        self._on_step("verified")
        return self._loader.load(verified)


def _is_of_the_machine(error: Exception) -> bool:
    """Return whether the error is this machine's, so that the release may load another time.

    No memory, no runtime, or a slot that is missing, damaged or cannot be read: deliver fetches it again.
    """
    machine = (MisconfiguredError, MemoryError, CorruptError, OSError)
    return isinstance(error, machine) or isinstance(error.__cause__, MemoryError)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, FleetLoopError) else f"{type(error).__name__}: {error}"

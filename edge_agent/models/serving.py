"""One model serves at every instant: a better one takes over between two frames, a bad one gives way within
its own frame.

A swap, in steps (each may be the last before a crash, and a model serves after it):
  1. candidate-read   deliver says that a slot passed its trial
  2. verified         its bytes are read and verified again
  3. loaded           it runs beside the serving model, once, on a grey picture
  4. plan-read        the signed plan and release are verified again from disk: fresh, running, meant for this
  vehicle
  5. persisted        active.json names it: the one step that decides
  6. swapped          the next frame goes to it

It is then on probation: a start of the process in that time counts against it (it may be what kills the
process), an output that is not finite, too many errors or too slow answers bring the previous model back
within the same call, and block the release on this vehicle for good. A release whose plan is halted is
withdrawn, without blocking it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_agent.models.desired import authorise, desired, plans_of
from edge_agent.models.frames import TrialFrames
from edge_agent.models.health import HealthWatch
from edge_agent.models.settings import ServingSettings
from edge_agent.models.slots import ActiveState, Candidate, SlotFolder, SlotRef, with_event
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
    UntrustedError,
)
from foundation.events import EventLog
from modelkit.images import Pixels
from modelkit.predictor import Prediction, Predictor
from modelkit.runtime import Backend, RuntimeOptions
from modelkit.verify import verify_model
from schemas.reasons import ModelState
from schemas.records import Health, ModelEvent

OnStep = Callable[[str], None]
CRASHED = "crashed_on_probation"
_GREY_PIXELS = 64


@dataclass(frozen=True, slots=True)
class Served:
    """The answer to one call of `predict`: whose it is, how long it took, and what it changed."""

    predictions: list[Prediction]
    model_name: str
    model_digest: str
    latency_ns: int
    event: ModelEvent | None = None


class ServingModel:
    """The model of perceive. One thread only; the only writer of `models/active.json`.

    Raises:
        MisconfiguredError: the vehicle was never enrolled.
        CorruptError: not even the factory model can be loaded.
    """

    def __init__(
        self,
        state_folder: Path,
        backend: Backend,
        settings: ServingSettings,
        clock: Clock,
        events: EventLog,
        on_step: OnStep | None = None,
    ) -> None:
        self._slots = SlotFolder(state_folder)
        self._trust = TrustFolder(state_folder)
        self._vehicle = read_vehicle(state_folder)
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self._log = events
        self._on_step: OnStep = on_step or (lambda _step: None)
        self._watch = HealthWatch(settings.health)
        self._frames = TrialFrames(
            self._slots.path / "trial_frames", count=settings.trial_frames, every=settings.trial_frame_every
        )
        self._next_poll_ns = clock.monotonic_ns()
        self._plan_seen: tuple[tuple[int, int], ...] = ()
        self._is_unsaved = False
        self._is_stuck = False
        self._previous: Predictor | None = None
        self._state = self._read_state()
        self._count_start()
        self._predictor: Predictor = self._load_serving()

    # What serves.

    @property
    def predictor(self) -> Predictor:
        """The serving model's predictor. Ask again for every frame: it changes."""
        return self._predictor

    @property
    def digest(self) -> str:
        """Digest of the serving model."""
        return self._state.active.digest

    @property
    def name(self) -> str:
        """Name of the serving model, from its contract."""
        return self._state.active.name

    @property
    def release_id(self) -> str:
        """The release that the serving model came with; empty for the factory model."""
        return self._state.active.release_id

    @property
    def state(self) -> ModelState:
        """TRIAL while the serving model is on probation, else SERVING."""
        return ModelState.SERVING if self._state.confirmed else ModelState.TRIAL

    @property
    def swaps(self) -> int:
        """How often a candidate took over, since enrolment."""
        return self._state.swaps

    @property
    def rollbacks(self) -> int:
        """How often a model gave way to the one before it, since enrolment."""
        return self._state.rollbacks

    @property
    def events(self) -> tuple[ModelEvent, ...]:
        """What happened to the slots since enrolment, the last 200."""
        return self._state.events

    def health(self) -> Health:
        """How the models behaved since the process started."""
        return self._watch.report()

    # Frames.

    def predict(self, images: Sequence[Pixels]) -> Served:
        """Answer for these pictures, by the previous model when the serving one fails at them.

        Raises:
            RejectedError: no model could answer (reason `run_failed` or `wrong_io`); the frame is to be
                counted as such.
        """
        told: ModelEvent | None = None
        while True:  # at most once a model: each rollback goes to an older one
            began_ns = self._clock.monotonic_ns()
            try:
                predictions = self._predictor.predict(images)
                latency_ns = self._clock.monotonic_ns() - began_ns
                event = self.observe(predictions, latency_ns)
            except RejectedError as error:
                event = self._act_on(self._watch.failed(str(error)))
                if event is None:
                    raise
            told = event or told
            if event is None or event.event != "rolled_back":
                active = self._state.active
                return Served(predictions, active.name, active.digest, latency_ns, told)

    def observe(self, predictions: Sequence[Prediction], latency_ns: int) -> ModelEvent | None:
        """Judge an answer of the serving model. A returned event `rolled_back` means: ask the predictor
        again.
        """
        event = self._act_on(self._watch.answered(predictions, latency_ns))
        if (
            event is None
            and not self._state.confirmed
            and self._watch.frames >= self._settings.probation_frames
        ):
            return self._confirm()
        return event

    def remember(self, payload: bytes) -> bool:
        """Perhaps keep this encoded frame for the trial of the next candidate."""
        return self._frames.offer(payload)

    # Between two frames.

    def poll(self) -> ModelEvent | None:
        """Between two frames: obey a halt, or let a candidate take over. Cheap when there is nothing new."""
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._next_poll_ns:
            return None
        self._next_poll_ns = now_ns + round(self._settings.poll_interval_s * 1e9)
        if self._is_unsaved:
            self._save(self._state)
        try:
            return self._obey_halt() or self._take_candidate()
        except RetryLaterError as error:
            self._log.emit("swap_postponed", reason=str(error))
        except (UntrustedError, CorruptError, RejectedError, MisconfiguredError) as error:
            self._next_poll_ns = now_ns + round(self._settings.refused_wait_s * 1e9)
            self._log.emit("swap_refused", level="warning", reason=str(error))
        return None

    def _obey_halt(self) -> ModelEvent | None:
        release_id = self._state.active.release_id
        if not release_id:
            return None
        seen = self._trust.stamp("rollouts")
        if seen == self._plan_seen:
            return None
        trust = SavedTrust.load(self._trust, self._clock, fresh=False)
        intent = desired(plans_of(trust.index("rollouts")), self._vehicle)
        self._plan_seen = seen
        return (
            self._give_way("withdrawn", "plan_halted", blocks=False)
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
        authorise(
            candidate.slot, self._trust, self._vehicle, self._clock
        )  # cheap: no loading of what may not serve
        with self._slots.lock(self._clock):
            predictor = self._load(self._slots.read_slot(candidate.slot.digest), candidate.slot.digest)
            self._on_step("loaded")
            authorise(candidate.slot, self._trust, self._vehicle, self._clock)
            self._on_step("plan-read")
            return self._activate(candidate, predictor)

    def _activate(self, candidate: Candidate, predictor: Predictor) -> ModelEvent:
        old = self._state
        event = self._event(candidate.slot, "activated")
        state = ActiveState(
            active=candidate.slot,
            previous=old.active,
            confirmed=False,
            swaps=old.swaps + 1,
            rollbacks=old.rollbacks,
            blocked=old.blocked,
            events=with_event(old.events, event),
        )
        try:
            self._slots.write_active(state)
        except OSError as error:  # a full disk: the old model goes on, nothing was changed
            raise RetryLaterError(f"active.json cannot be written: {error.strerror}") from error
        self._on_step("persisted")
        self._previous, self._predictor, self._state = self._predictor, predictor, state
        self._watch.restart()
        self._plan_seen = ()
        self._on_step("swapped")
        self._tell(event)
        return event

    def _confirm(self) -> ModelEvent:
        event = self._event(self._state.active, "confirmed")
        self._previous = None  # from now on a rollback loads it again from its slot
        self._save(
            replace(self._state, confirmed=True, starts=0, events=with_event(self._state.events, event))
        )
        self._tell(event)
        return event

    # Giving way.

    def _act_on(self, verdict: str) -> ModelEvent | None:
        return self._give_way("rolled_back", verdict, blocks=True) if verdict else None

    def _give_way(self, word: str, reason: str, *, blocks: bool) -> ModelEvent | None:
        """The previous model serves before anything is written; None when there is no other model."""
        bad = self._state.active
        back = self._way_back()
        if back is None:
            if not self._is_stuck:
                self._log.emit("no_way_back", level="error", model_digest=bad.digest, reason=reason)
            self._is_stuck = True
            return None
        ref, predictor = back
        event = self._event(bad, word, reason)
        events = with_event(with_event(self._state.events, event), self._event(ref, "activated", word))
        blocked = dict(self._state.blocked)
        if blocks and bad.release_id:
            blocked[bad.release_id] = reason
        factory = self._factory()
        self._predictor, self._previous = predictor, None
        self._watch.restart()
        self._save(
            ActiveState(
                active=ref,
                previous=factory if factory is not None and factory.digest != ref.digest else None,
                swaps=self._state.swaps,
                rollbacks=self._state.rollbacks + 1,
                blocked=blocked,
                events=events,
            )
        )
        self._on_step("gave-way")
        self._tell(event)
        return event

    def _way_back(self) -> tuple[SlotRef, Predictor] | None:
        previous = self._state.previous
        if self._previous is not None and previous is not None:
            return previous, self._previous
        for ref in (previous, self._factory()):
            if (
                ref is None
                or ref.digest == self._state.active.digest
                or ref.release_id in self._state.blocked
            ):
                continue
            try:
                return ref, self._load(self._slots.read_slot(ref.digest), ref.digest)
            except FleetLoopError as error:
                self._log.emit("slot_unusable", level="error", model_digest=ref.digest, reason=str(error))
        return None

    # Starting.

    def _read_state(self) -> ActiveState:
        try:
            return self._slots.read_active()
        except CorruptError as error:
            factory = self._slots.read_factory()
            self._slots.keep_damaged()
            self._is_unsaved = True
            self._log.emit("active_state_damaged", level="error", reason=str(error))
            event = self._event(factory, "activated", "active_state_damaged")
            return ActiveState(factory, events=(event,))

    def _count_start(self) -> None:
        """A start on probation is written down before the model is touched: what kills the process cannot
        undo it.
        """
        if self._state.confirmed:
            return
        self._save(replace(self._state, starts=self._state.starts + 1))

    def _load_serving(self) -> Predictor:
        state = self._state
        if state.confirmed or state.starts <= self._settings.max_unconfirmed_starts:
            try:
                return self._load(self._slots.read_slot(state.active.digest), state.active.digest)
            except FleetLoopError as error:
                reason = f"cannot_load: {error}"[:500]
        else:
            reason = CRASHED
        if self._give_way("rolled_back", reason, blocks=True) is None:
            raise CorruptError(f"no model can serve: {reason}", path=self._slots.path)
        return self._predictor

    def _load(self, data: bytes, digest: str) -> Predictor:
        """Verify, load and run once. Raises RejectedError: not acceptable, not loadable, or not finite on
        grey.
        """
        verified = verify_model(data, digest)
        self._on_step("verified")
        loaded = self._backend.load(verified, RuntimeOptions(threads=self._settings.threads))
        predictor = Predictor(loaded, verified.contract)
        predictor.predict([np.full((_GREY_PIXELS, _GREY_PIXELS, 3), 128, dtype=np.uint8)])
        return predictor

    def _factory(self) -> SlotRef | None:
        try:
            return self._slots.read_factory()
        except CorruptError:
            return None

    def _save(self, state: ActiveState) -> None:
        """Take the state, and write it; a full disk is tried again at the next poll, the right model serves
        anyway.
        """
        self._state = state
        try:
            self._slots.write_active(state)
            self._is_unsaved = False
        except OSError as error:
            self._is_unsaved = True
            self._log.emit("active_state_not_written", level="error", reason=str(error.strerror))

    def _event(self, slot: SlotRef, word: str, reason: str = "") -> ModelEvent:
        return ModelEvent(self._clock.now_ns(), slot.digest, slot.name, word, reason, slot.release_id)

    def _tell(self, event: ModelEvent) -> None:
        self._log.emit(
            f"model_{event.event}",
            level="warning" if event.event in ("rolled_back", "withdrawn") else "info",
            model_digest=event.model_digest,
            model_name=event.model_name,
            release_id=event.release_id,
            reason=event.reason,
        )

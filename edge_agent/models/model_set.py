"""The models of this vehicle by role: serving, which always has one, and other roles, which may have none.

The serving model runs first, unaffected by the others. After a fault signal ended the process, the models of other
roles are blamed first: a start after such a crash does not count against the serving model, confirmed or not, when one
of them had a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from edge_agent.models.frames import TrialFrames
from edge_agent.models.loading import OnStep
from edge_agent.models.role_model import RoleModel, Served
from edge_agent.models.settings import ServingSettings
from edge_agent.models.slots import SlotFolder, was_loading
from foundation.clock import Clock
from foundation.errors import RejectedError
from foundation.events import EventLog
from modelkit.images import Pixels
from modelkit.predictor import to_wire
from modelkit.runtime import Backend
from schemas.predictions import ModelPrediction, check_predictions
from schemas.reasons import ModelState
from schemas.roles import SERVING


class ModelSet:
    """All roles of perceive. One thread only. Raises as `RoleModel` of serving does; no other role makes it raise."""

    def __init__(
        self,
        state_folder: Path,
        backend: Backend,
        settings: ServingSettings,
        clock: Clock,
        events: EventLog,
        on_step: OnStep | None = None,
        *,
        has_crashed: bool = False,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._log = events
        self._unrecorded: Counter[str] = Counter()
        self._every = settings.other_roles_every
        self._frames = 0
        self._trial_frames = TrialFrames(
            state_folder / "models" / "trial_frames",
            count=settings.trial_frames,
            every=settings.trial_frame_every,
        )
        self._ended_in_load = any(
            was_loading(SlotFolder(state_folder, role)) for role in (SERVING, *settings.other_roles)
        )
        self._others = tuple(
            RoleModel(
                role,
                state_folder,
                backend,
                settings,
                clock,
                events,
                has_crashed=has_crashed,
                is_excused=self._ended_in_load,
                on_progress=on_progress,
            )
            for role in settings.other_roles
        )
        self.serving = RoleModel(
            SERVING,
            state_folder,
            backend,
            settings,
            clock,
            events,
            on_step,
            has_crashed=has_crashed,
            is_excused=self._ended_in_load
            or (has_crashed and any(other.had_model for other in self._others)),
            on_progress=on_progress,
        )
        self._clock = clock
        self._roles = (self.serving, *self._others)

    def predict(self, images: Sequence[Pixels]) -> list[Served]:
        """Return the answers for these pictures: the serving model's first, then those of other roles that are due.

        Raises:
            RejectedError: no serving model could answer, see `RoleModel.predict`.
        """
        answers = [self.serving.predict(images)]
        self._frames += 1
        if (self._frames - 1) % self._every:
            return answers
        for other in self._others:
            if other.has_model:
                with suppress(RejectedError):  # counted in its health
                    answers.append(other.predict(images))
        return answers

    @property
    def is_suspect(self) -> bool:
        """Whether a crash in a model may be its fault: a candidate was being loaded, another role has a model, or serving is
        on probation.
        """
        return (
            self._ended_in_load
            or self.serving.state is ModelState.TRIAL
            or any(other.had_model for other in self._others)
        )

    def end_in_order(self) -> None:
        """Say that the process ends as it was told to, before it does: see `RoleModel.end_in_order`."""
        for one in self._roles:
            one.end_in_order()

    def remember(self, payload: bytes) -> bool:
        """Offer this encoded frame for the trial of the next candidate; return whether it was kept."""
        return self._trial_frames.offer(payload)

    def is_poll_due(self) -> bool:
        """Return whether `poll` would look for news in any role."""
        now_ns = self._clock.monotonic_ns()
        return any(one.is_poll_due(now_ns) for one in self._roles)

    def poll(self) -> None:
        """Obey halts and swap in candidates in every role, between two frames."""
        for one in self._roles:
            one.poll()

    def other_roles(self) -> dict[str, dict[str, object]]:
        """Return, for perceive's status: role -> model, frames, unrecorded answers and health since the process started."""
        return {
            other.role: {
                "model": {
                    "name": other.name,
                    "digest": other.digest,
                    "state": other.state.value,
                    "release_id": other.release_id,
                }
                if other.has_model
                else None,
                "swaps": other.swaps,
                "rollbacks": other.rollbacks,
                "frames": other.frames,
                "unrecorded": self._unrecorded[other.role],
                "health": asdict(other.health()),
            }
            for other in self._others
        }

    def recorded(self, answers: Sequence[Served]) -> tuple[ModelPrediction, ...]:
        """Return the predictions of other roles for a sample, those of the first picture.

        An answer that does not fit a record is left out and counted in the status (`unrecorded`): the sample is kept.
        """
        found = []
        for served in answers:
            first = served.predictions[0]
            said = to_wire(
                first,
                first.scores,
                role_name=served.role,
                model_name=served.model_name,
                model_digest=served.model_digest,
            )
            try:
                check_predictions((said,))
            except RejectedError as error:
                if not self._unrecorded[served.role]:
                    self._log.emit("answer_not_recorded", level="warning", role=served.role, error=str(error))
                self._unrecorded[served.role] += 1
                continue
            found.append(said)
        return tuple(found)

"""The models of this vehicle by role: serving, which is always there, and the roles beside it, which may be absent.

The serving model answers first and as if it were alone. When a signal of the processor ended the process, the roles
beside it are blamed first: a start after such a crash does not count against the serving model, confirmed or not, when
one of them had a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edge_agent.models.loading import OnStep
from edge_agent.models.serving import Served, ServingModel
from edge_agent.models.settings import ServingSettings
from edge_agent.models.side_role import SideRole
from edge_agent.models.vehicle import read_vehicle
from foundation.clock import Clock
from foundation.errors import RejectedError
from foundation.events import EventLog
from modelkit.images import Pixels
from modelkit.predictor import to_wire
from modelkit.runtime import Backend
from schemas.predictions import ModelPrediction, check_predictions


class ModelSet:
    """All roles of perceive. One thread only. Raises as `ServingModel` does; no other role makes it raise."""

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
    ) -> None:
        vehicle = read_vehicle(state_folder)
        self._clock = clock
        self._log = events
        self._unrecorded: Counter[str] = Counter()
        self._poll_interval_ns = round(settings.poll_interval_s * 1e9)
        self._next_poll_ns = clock.monotonic_ns()
        self._others = tuple(
            SideRole(role, state_folder, vehicle, backend, settings, clock, events, has_crashed=has_crashed)
            for role in settings.other_roles
        )
        is_excused = has_crashed and any(other.had_model for other in self._others)
        self.serving = ServingModel(
            state_folder,
            backend,
            settings,
            clock,
            events,
            on_step,
            has_crashed=has_crashed,
            is_excused=is_excused,
        )

    def predict(self, images: Sequence[Pixels]) -> list[Served]:
        """Answers for these pictures: the serving model's first, then one of each other role that is due and well.

        Raises:
            RejectedError: no serving model could answer, see `ServingModel.predict`.
        """
        answers = [self.serving.predict(images)]
        for other in self._others:
            served = other.predict(images)
            if served is not None:
                answers.append(served)
        return answers

    def remember(self, payload: bytes) -> bool:
        """See `ServingModel.remember`."""
        return self.serving.remember(payload)

    def poll(self) -> None:
        """Between two frames: every role obeys a halt or takes a candidate. Cheap when there is nothing new."""
        self.serving.poll()
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._next_poll_ns:
            self._next_poll_ns = now_ns + self._poll_interval_ns
            for other in self._others:
                other.poll()

    def other_roles(self) -> dict[str, dict[str, object]]:
        """For perceive's status: role -> frames, answers that no record may hold, health; since the process started."""
        return {
            other.role: {
                "frames": other.frames,
                "unrecorded": self._unrecorded[other.role],
                "health": asdict(other.health()),
            }
            for other in self._others
        }

    def recorded(self, answers: Sequence[Served]) -> tuple[ModelPrediction, ...]:
        """What a sample says of the answers of roles beside serving, the first picture of each.

        An answer that no record may hold is left out and counted in the status (`unrecorded`): it must not cost the
        sample.
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

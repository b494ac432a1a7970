"""What any process may say about this vehicle's models, read from both writers' files. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.models.slots import FetchState, SlotFolder
from foundation.errors import CorruptError
from schemas.reasons import ModelState
from schemas.records import MAX_MODEL_EVENTS, ModelEvent


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The slots at one instant. `events` are both journals' in order of time, the last 200: cumulative."""

    digest: str
    name: str
    release_id: str
    state: ModelState
    swaps: int
    rollbacks: int
    candidate_release_id: str
    blocked: Mapping[str, str]
    refused: Mapping[str, str]
    events: tuple[ModelEvent, ...]


def read_model_status(state_folder: Path) -> ModelStatus:
    """The status of the model slots, for telemetry and for `agent status`.

    Raises:
        CorruptError: the vehicle has no model at all, or perceive's file is damaged and not yet mended.
    """
    slots = SlotFolder(state_folder)
    active = slots.read_active()
    try:
        fetched = slots.read_fetch()
    except CorruptError:
        fetched = FetchState()
    try:
        candidate = slots.read_candidate()
    except CorruptError:
        candidate = None
    events = sorted((*active.events, *fetched.events), key=lambda event: event.time_ns)
    return ModelStatus(
        digest=active.active.digest,
        name=active.active.name,
        release_id=active.active.release_id,
        state=ModelState.SERVING if active.confirmed else ModelState.TRIAL,
        swaps=active.swaps,
        rollbacks=active.rollbacks,
        candidate_release_id="" if candidate is None else candidate.slot.release_id,
        blocked=active.blocked,
        refused=fetched.refused,
        events=tuple(events[-MAX_MODEL_EVENTS:]),
    )

"""Read the status of this vehicle's models from the files of both writers. Writes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.models.slot_documents import NO_MODEL, ActiveState, FetchState
from edge_agent.models.slots import SlotFolder
from foundation.documents import build
from foundation.errors import CorruptError
from schemas.reasons import ModelState
from schemas.records import MAX_MODEL_EVENTS, Health, ModelEvent, RoleReport
from schemas.roles import MAX_ROLES, SERVING


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
    """Return the status of the model slots, for telemetry and for `agent status`.

    Raises:
        CorruptError: the vehicle has no model at all, or perceive's file is damaged and not yet repaired.
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
        state=active.model_state(SERVING),
        swaps=active.swaps,
        rollbacks=active.rollbacks,
        candidate_release_id="" if candidate is None else candidate.slot.release_id,
        blocked=active.blocked,
        refused=fetched.refused,
        events=tuple(events[-MAX_MODEL_EVENTS:]),
    )


def read_other_roles(
    state_folder: Path, said: Mapping[str, object], configured: Collection[str]
) -> tuple[RoleReport, ...]:
    """Return the roles other than serving, for telemetry; a damaged file is reported as the last error of its role.

    Args:
        said: role -> frames and health, as perceive's status has them.
        configured: the roles that this vehicle runs, said first; any other is without a model, whatever its file says.
    """
    found = []
    written = SlotFolder(state_folder).other_roles()
    for role in sorted(written, key=lambda role: role not in configured)[: MAX_ROLES - 1]:
        slots = SlotFolder(state_folder, role)
        try:
            active, fetched = slots.read_active(), slots.read_fetch()
        except CorruptError as error:
            found.append(
                RoleReport(role, "", "", ModelState.REFUSED, health=Health(last_error=str(error)[:500]))
            )
            continue
        if role not in configured:
            active = replace(active, active=NO_MODEL)
        known = said.get(role)
        counts: Mapping[str, object] = known if isinstance(known, Mapping) else {}
        frames, health = counts.get("frames"), counts.get("health")
        events = tuple(sorted((*active.events, *fetched.events), key=lambda event: event.time_ns))
        found.append(
            RoleReport(
                role=role,
                model_digest=active.active.digest,
                model_name=active.active.name,
                model_state=_state(active, role, events),
                release_id=active.active.release_id,
                swaps=active.swaps,
                rollbacks=active.rollbacks,
                frames=frames if isinstance(frames, int) else 0,
                health=health_of(health),
                model_events=events[-MAX_MODEL_EVENTS:],
            )
        )
    return tuple(found)


def health_of(document: object) -> Health:
    """Return the health that perceive published; a damaged file or one of another version counts as unknown."""
    try:
        return build(Health, document, "health")
    except CorruptError:
        return Health()


def _state(active: ActiveState, role: str, events: Sequence[ModelEvent]) -> ModelState:
    if active.active.digest:
        return active.model_state(role)
    ends = [event.event for event in events if event.event in ("refused", "rolled_back", "withdrawn")]
    is_refused = bool(ends) and ends[-1] == "refused"
    return ModelState.REFUSED if is_refused else ModelState.ROLLED_BACK

"""The documents of a vehicle's model slots: what has a role, what waits for it, what was refused; and how two of them unite.

An agent of a release before roles that was put back writes the files of its own layout again: then there are two of a
name, and the later one holds, united with what the other one blocked, refused and counted (see `slots.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

from foundation.documents import DocumentType, Meta
from foundation.errors import CorruptError
from schemas.bundle import MAX_FILES, BundleFile
from schemas.reasons import ModelState
from schemas.records import MAX_MODEL_EVENTS, ModelEvent
from schemas.roles import SERVING

Tally = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class SlotRef:
    """A model in a slot. `release_id` is empty for the factory model."""

    digest: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$(?!\n)")]
    name: str
    release_id: str = ""


NO_MODEL = SlotRef("", "")
"""The slot of a role, other than serving, without a model."""


@dataclass(frozen=True, slots=True)
class Loading:
    """The candidate that perceive is loading, and how many times in succession a load of it was begun and not ended."""

    slot: SlotRef
    times: Tally = 1


@dataclass(frozen=True, slots=True)
class ActiveState:
    """Perceive's last decision. One atomic file: there is no state between two models."""

    active: SlotRef
    previous: SlotRef | None = None
    confirmed: bool = True
    """Whether the active model has passed its probation; until then a crash counts against it."""
    starts: Tally = 0
    """Starts of perceive with the active model while it was not confirmed, or after a crash of the process."""
    swaps: Tally = 0
    rollbacks: Tally = 0
    blocked: Mapping[str, str] = field(default_factory=dict)
    """release_id -> why it never has the role on this vehicle again."""
    events: tuple[ModelEvent, ...] = ()
    loading: Loading | None = None
    """Set only during the load: found at a start, it names what the process before ended in."""

    def model_state(self, role: str) -> ModelState:
        """On probation, or what a model of the role is."""
        if not self.confirmed:
            return ModelState.TRIAL
        return ModelState.SERVING if role == SERVING else ModelState.SHADOW


@dataclass(frozen=True, slots=True)
class Candidate:
    """A verified slot that passed its trial on this vehicle, waiting for a gap between two frames."""

    slot: SlotRef
    trial_latency_p50_ns: Tally = 0
    trial_frames: Tally = 0


@dataclass(frozen=True, slots=True)
class FetchState:
    """Deliver's knowledge: releases refused for good (release_id -> reason), and events."""

    refused: Mapping[str, str] = field(default_factory=dict)
    attempts: Mapping[str, Tally] = field(default_factory=dict)
    """release_id -> trials that began and never ended (the machine or deliver died)."""
    events: tuple[ModelEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class BundleList:
    """The files of a bundle in its slot."""

    files: Annotated[tuple[BundleFile, ...], Meta(max_length=MAX_FILES)]


FACTORY: Final = DocumentType.first("factory model", SlotRef)


ACTIVE: Final = DocumentType.first("active models", ActiveState)


CANDIDATE: Final = DocumentType.first("candidate", Candidate)


FETCH: Final = DocumentType.first("fetch state", FetchState)


FILES: Final = DocumentType.first("bundle", BundleList)


def _united_active(before: ActiveState, last: ActiveState) -> ActiveState:
    return replace(
        last,
        swaps=max(before.swaps, last.swaps),
        rollbacks=max(before.rollbacks, last.rollbacks),
        blocked={**before.blocked, **last.blocked},
        events=_united_events(before.events, last.events),
    )


def _united_fetch(before: FetchState, last: FetchState) -> FetchState:
    counts = {key: max(before.attempts.get(key, 0), count) for key, count in last.attempts.items()}
    return FetchState(
        refused={**before.refused, **last.refused},
        attempts={**before.attempts, **counts},
        events=_united_events(before.events, last.events),
    )


def _united_events(before: tuple[ModelEvent, ...], last: tuple[ModelEvent, ...]) -> tuple[ModelEvent, ...]:
    return tuple(dict.fromkeys((*before, *last)))[-MAX_MODEL_EVENTS:]


UNITED: Final[Mapping[str, tuple[DocumentType[Any], Callable[[Any, Any], Any]]]] = {
    "active.json": (ACTIVE, _united_active),
    "fetch.json": (FETCH, _united_fetch),
}


def with_event(events: tuple[ModelEvent, ...], event: ModelEvent) -> tuple[ModelEvent, ...]:
    """Return the journal with one more event; the oldest are dropped beyond what telemetry can carry."""
    return (*events, event)[-MAX_MODEL_EVENTS:]


def named(slot: SlotRef, path: Path) -> SlotRef:
    """Return the slot of a document. Raises CorruptError when it names no model."""
    if not slot.digest:
        raise CorruptError("names no model", path=path)
    return slot

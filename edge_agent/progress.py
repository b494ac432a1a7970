"""What a restarted perceive process must know, so that no accepted frame is captured again as a new sample.

`Progress` holds the state: place in each source, budgets, tracks, novelty memory and open windows, all as of the
last observation that left the window. It does no I/O; `edge_agent.progress_journal` writes it down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from edge_agent.selection.budget import BudgetLimits, ByteBudget
from edge_agent.selection.novelty import NoveltyMemory
from edge_agent.selection.track_limit import TrackLimit
from edge_agent.window_tail import OpenIncident, TailChange, WindowTail
from schemas.reasons import NotAcceptedReason

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class KeptFrame:
    """What one kept frame costs the limits. `embedding` is float32 of shape (embedding_size,)."""

    drive_id: str
    track_id: str | None
    payload_bytes: int
    counts_for_track: bool
    monotonic_ns: int
    model_digest: str
    embedding: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Refused:
    """How many frames up to a place were not taken, by reason, since enrolment; and their bytes."""

    counts: Mapping[str, int]
    bytes: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the reading of one source is: `frame_id` is the last one that left the window, None before the first."""

    frame_id: str | None = None
    lap: int = 0
    has_ended: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """The places that changed, and what else changed on the way to them since the step before.

    It holds once the spool has accepted the record `seq` of `epoch` (-1: nothing needs to be accepted).
    """

    epoch: str
    seq: int
    places: Mapping[str, Place]
    frames_seen: int
    tail: TailChange
    kept: KeptFrame | None = None
    refused: Refused | None = None
    """None: as in the step before."""


@dataclass(slots=True)
class Progress:
    """The state itself. `places` by source."""

    budget: ByteBudget
    tracks: TrackLimit
    memory: NoveltyMemory
    places: dict[str, Place] = field(default_factory=dict)
    frames_seen: int = 0
    tail: WindowTail = field(default_factory=WindowTail)
    refused: Refused | None = None
    """None while no place says so; then the ledger's counts stand."""

    @classmethod
    def fresh(cls, limits: BudgetLimits, max_per_track: int | None, memory_capacity: int) -> Progress:
        """Return the state of a vehicle that has seen nothing."""
        return cls(ByteBudget(limits), TrackLimit(max_per_track), NoveltyMemory(memory_capacity))

    def apply(self, step: Step, *, counts_kept: bool = True) -> None:
        """Move to the step's place; count its kept frame unless the spool refused it after all."""
        self.places.update(step.places)
        self.frames_seen = step.frames_seen
        self.tail.apply(step.tail)
        self.refused = step.refused or self.refused
        kept = step.kept
        if kept is None or not counts_kept:
            return
        self.budget.spend(kept.drive_id, kept.payload_bytes, kept.monotonic_ns)
        if kept.counts_for_track:
            self.tracks.count(kept.drive_id, kept.track_id)
        if kept.embedding.size:
            self.memory.remember(kept.embedding, kept.model_digest)

    def place(self, source_id: str) -> Place:
        """Return where the reading of the source is; its beginning for one that was never read."""
        return self.places.get(source_id, Place())

    def keep_sources(self, source_ids: Sequence[str]) -> None:
        """Forget the places of all other sources; the limits stay."""
        self.places = {name: place for name, place in self.places.items() if name in source_ids}

    def copy_limits(self, limits: BudgetLimits, max_per_track: int | None, memory_capacity: int) -> Progress:
        """Return a second state with the same counts, which the capture ring may run ahead with."""
        twin = Progress.fresh(limits, max_per_track, memory_capacity)
        twin.budget.restore(self.budget.to_json(), same_boot=True, monotonic_ns=0)
        twin.tracks.restore(self.tracks.to_rows())
        twin.memory.restore(self.memory.matrix(), self.memory.model_digest)
        return twin


def step_to_json(step: Step) -> dict[str, object]:
    """Plain values; the kept frame's embedding is left to the frame's body."""
    document: dict[str, object] = {
        "epoch": step.epoch,
        "seq": step.seq,
        "places": places_to_json(step.places),
        "frames_seen": step.frames_seen,
        "tail": asdict(step.tail),
    }
    if step.refused is not None:
        document["refused"] = refused_to_json(step.refused)
    if step.kept is not None:
        document["kept"] = {
            item.name: getattr(step.kept, item.name) for item in fields(step.kept) if item.name != "embedding"
        }
    return document


def step_from_json(document: Json, body: bytes, old_source_id: str) -> Step:
    """Return what `step_to_json` wrote, or its first format, which knew one source (`old_source_id`) only.

    Raises KeyError, TypeError, ValueError when neither wrote this.
    """
    kept = document.get("kept")
    if not (kept is None or isinstance(kept, dict)):
        raise TypeError("a step's kept frame is an object")
    return Step(
        epoch=str(document["epoch"]),
        seq=int(str(document["seq"])),
        places=places_from_json(document, old_source_id),
        frames_seen=int(str(document["frames_seen"])),
        tail=tail_from_json(document.get("tail")),
        kept=None if kept is None else KeptFrame(**kept, embedding=np.frombuffer(body, dtype="<f4")),
        refused=refused_from_json(document.get("refused")),
    )


def places_to_json(places: Mapping[str, Place]) -> dict[str, object]:
    """Plain values."""
    return {name: asdict(place) for name, place in places.items()}


def places_from_json(document: Json, old_source_id: str) -> dict[str, Place]:
    """Return the places of a step or snapshot of any format. Raises KeyError, TypeError."""
    if "places" not in document:
        frame_id = document["frame_id"]
        place = Place(
            None if frame_id is None else str(frame_id),
            int(str(document["lap"])),
            bool(document["has_ended"]),
        )
        return {old_source_id: place}
    places = document["places"]
    if not isinstance(places, dict):
        raise TypeError("places are an object")
    return {str(name): Place(**place) for name, place in places.items()}


def refused_to_json(refused: Refused | None) -> dict[str, object] | None:
    """Plain values."""
    return None if refused is None else {"counts": dict(refused.counts), "bytes": refused.bytes}


def refused_from_json(document: object) -> Refused | None:
    """Return what `refused_to_json` wrote. Raises KeyError, TypeError, ValueError."""
    if document is None:
        return None
    if not isinstance(document, dict):
        raise TypeError("the counts of refused frames are an object")
    counts = {str(NotAcceptedReason(reason)): int(count) for reason, count in document["counts"].items()}
    return Refused(counts, int(document["bytes"]))


def tail_from_json(document: object) -> TailChange:
    """Return the change that `dataclasses.asdict` made plain; an empty one for the first format, which counted frames.

    Raises KeyError, TypeError, ValueError.
    """
    if document is None:
        return TailChange()
    if not isinstance(document, dict):
        raise TypeError("a tail is an object")
    now_ns = document["now_ns"]
    return TailChange(
        None if now_ns is None else int(now_ns),
        int(document["oldest_ns"]),
        int(document["over_ns"]),
        {str(name): int(offset) for name, offset in document["offsets_ns"].items()},
        {
            str(drive): tuple(OpenIncident(**incident) for incident in incidents)
            for drive, incidents in document["incidents"].items()
        },
        [(str(drive), int(time_ns), float(chance)) for drive, time_ns, chance in document["past"]],
    )

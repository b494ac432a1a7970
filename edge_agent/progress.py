"""What a restarted perceive process must know, so that no accepted frame is captured again as a new sample.

`Progress` holds the state: place in the source, budgets, tracks, novelty memory and open windows, all as of
the last frame that left the capture ring. It does no I/O; `edge_agent.progress_journal` writes it down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture import StreamTail
from edge_agent.selection.budget import BudgetLimits, ByteBudget
from edge_agent.selection.novelty import NoveltyMemory
from edge_agent.selection.track_limit import TrackLimit
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
class Step:
    """A place in the source and what changed on the way to it since the step before.

    It holds once the spool has accepted the record `seq` of `epoch` (-1: nothing needs to be accepted).
    """

    epoch: str
    seq: int
    frame_id: str
    lap: int
    frames_seen: int
    tails: tuple[StreamTail, ...]
    kept: KeptFrame | None = None
    has_ended: bool = False
    refused: Refused | None = None
    """None: as in the step before."""


@dataclass(slots=True)
class Progress:
    """The state itself. `frame_id` is the last frame that left the ring, None before the first."""

    budget: ByteBudget
    tracks: TrackLimit
    memory: NoveltyMemory
    source_id: str = ""
    frame_id: str | None = None
    lap: int = 0
    has_ended: bool = False
    frames_seen: int = 0
    tails: dict[str, StreamTail] = field(default_factory=dict)
    refused: Refused | None = None
    """None while no place says so; then the ledger's counts stand."""

    @classmethod
    def fresh(cls, limits: BudgetLimits, max_per_track: int | None, memory_capacity: int) -> Progress:
        """Return the state of a vehicle that has seen nothing."""
        return cls(ByteBudget(limits), TrackLimit(max_per_track), NoveltyMemory(memory_capacity))

    def apply(self, step: Step, *, counts_kept: bool = True) -> None:
        """Move to the step's place; count its kept frame unless the spool refused it after all."""
        self.frame_id, self.lap, self.frames_seen = step.frame_id, step.lap, step.frames_seen
        self.has_ended = step.has_ended
        self.refused = step.refused or self.refused
        for tail in step.tails:
            self.tails[tail.sensor_id] = tail
        kept = step.kept
        if kept is None or not counts_kept:
            return
        self.budget.spend(kept.drive_id, kept.payload_bytes, kept.monotonic_ns)
        if kept.counts_for_track:
            self.tracks.count(kept.drive_id, kept.track_id)
        if kept.embedding.size:
            self.memory.remember(kept.embedding, kept.model_digest)

    def begin_source(self, source_id: str) -> bool:
        """Whether `source_id` is the source this place belongs to; another one starts at its beginning."""
        if source_id == self.source_id:
            return True
        self.source_id = source_id
        self.restart_source()
        return False

    def restart_source(self) -> None:
        """Forget the place, keep the limits."""
        self.frame_id, self.lap, self.has_ended = None, 0, False
        self.tails.clear()

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
        "frame_id": step.frame_id,
        "lap": step.lap,
        "frames_seen": step.frames_seen,
        "has_ended": step.has_ended,
        "tails": [tail_to_json(tail) for tail in step.tails],
    }
    if step.refused is not None:
        document["refused"] = refused_to_json(step.refused)
    if step.kept is not None:
        document["kept"] = {
            item.name: getattr(step.kept, item.name) for item in fields(step.kept) if item.name != "embedding"
        }
    return document


def step_from_json(document: Json, body: bytes) -> Step:
    """Return what `step_to_json` wrote. Raises KeyError, TypeError when it did not write this."""
    kept = document.get("kept")
    tails = document["tails"]
    if not isinstance(tails, list) or not (kept is None or isinstance(kept, dict)):
        raise TypeError("a step's tails are a list and its kept frame an object")
    return Step(
        epoch=str(document["epoch"]),
        seq=int(str(document["seq"])),
        frame_id=str(document["frame_id"]),
        lap=int(str(document["lap"])),
        frames_seen=int(str(document["frames_seen"])),
        has_ended=bool(document["has_ended"]),
        tails=tuple(tail_from_json(tail) for tail in tails),
        kept=None if kept is None else KeptFrame(**kept, embedding=np.frombuffer(body, dtype="<f4")),
        refused=refused_from_json(document.get("refused")),
    )


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


def tail_to_json(tail: StreamTail) -> dict[str, object]:
    """Plain values of one stream's tail."""
    return {item.name: getattr(tail, item.name) for item in fields(tail)}


def tail_from_json(document: Json) -> StreamTail:
    """Return what `tail_to_json` wrote. Raises KeyError, TypeError."""
    values = dict(document)
    past = values.pop("past_probabilities")
    if not isinstance(past, list):
        raise TypeError("past_probabilities is a list")
    probabilities = tuple(float(value) for value in past)
    return StreamTail(**values, past_probabilities=probabilities)  # type: ignore[arg-type]

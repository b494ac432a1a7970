"""What a restarted perceive process must know, so that no accepted frame is captured again as a new sample.

`Progress` holds the state: place in each source, budgets, tracks, novelty memory and open windows, all as of the
last observation that left the window. It does no I/O; `edge_agent.durable_progress` keeps it in the spool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import Struct

from edge_agent.selection.budget import BudgetLimits, ByteBudget
from edge_agent.selection.novelty import NoveltyMemory
from edge_agent.selection.track_limit import TrackLimit
from edge_agent.window_tail import TailChange, WindowTail


class KeptFrame(Struct, frozen=True, array_like=True):
    """What one kept frame costs the limits. `embedding` is float32, little endian; empty when none is remembered."""

    drive_id: str
    track_id: str | None
    payload_bytes: int
    counts_for_track: bool
    monotonic_ns: int
    model_digest: str = ""
    embedding: bytes = b""


class Place(Struct, frozen=True, array_like=True):
    """Where the reading of one source is: `frame_id` is the last one that left the window, None before the first."""

    frame_id: str | None = None
    lap: int = 0
    has_ended: bool = False


class Step(Struct, frozen=True, array_like=True):
    """The places that changed, and what else changed on the way to them since the step before.

    Written as a list, in this order: what a later version adds comes at the end, with a default.
    """

    frames_seen: int
    places: Mapping[str, Place]
    tail: TailChange
    kept: KeptFrame | None = None


@dataclass(frozen=True, slots=True)
class ProgressLimits:
    """What a fresh state is made with."""

    budget: BudgetLimits
    max_per_track: int | None
    memory_capacity: int

    def fresh(self) -> Progress:
        """Return the state of a vehicle that has seen nothing."""
        return Progress(
            ByteBudget(self.budget), TrackLimit(self.max_per_track), NoveltyMemory(self.memory_capacity)
        )


@dataclass(slots=True)
class Progress:
    """The state itself. `places` by source."""

    budget: ByteBudget
    tracks: TrackLimit
    memory: NoveltyMemory
    places: dict[str, Place] = field(default_factory=dict)
    frames_seen: int = 0
    tail: WindowTail = field(default_factory=WindowTail)

    def apply(self, step: Step, *, is_accepted: bool = True) -> bool:
        """Move to the step's place, unless it is behind; count its kept frame unless the spool refused it after all.

        False when it is behind: a step that was lost and found again, or stands in two files, may be known already.
        """
        if is_accepted and step.kept is not None:
            self._count(step.kept)
        if step.frames_seen < self.frames_seen:
            return False
        if step.frames_seen > self.frames_seen:
            self.tail.apply(step.tail)
        self.places.update(step.places)
        self.frames_seen = step.frames_seen
        return True

    def _count(self, kept: KeptFrame) -> None:
        self.budget.spend(kept.drive_id, kept.payload_bytes, kept.monotonic_ns)
        if kept.counts_for_track:
            self.tracks.count(kept.drive_id, kept.track_id)
        if kept.embedding:
            self.memory.remember(np.frombuffer(kept.embedding, dtype="<f4"), kept.model_digest)

    def place(self, source_id: str) -> Place:
        """Return where the reading of the source is; its beginning for one that was never read."""
        return self.places.get(source_id, Place())

    def keep_sources(self, source_ids: Sequence[str]) -> None:
        """Forget the places of all other sources; the limits stay."""
        self.places = {name: place for name, place in self.places.items() if name in source_ids}

    def copy_limits(self, limits: ProgressLimits) -> Progress:
        """Return a second state with the same counts, which the capture ring may run ahead with."""
        twin = limits.fresh()
        twin.budget.restore(self.budget.to_json(), same_boot=True, monotonic_ns=0)
        twin.tracks.restore(self.tracks.to_rows())
        twin.memory.restore(self.memory.matrix(), self.memory.model_digest)
        return twin

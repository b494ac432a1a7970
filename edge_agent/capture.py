"""Keeps each frame of every trigger's window exactly once, with the probability that it was kept.

A trigger at frame j keeps frames [j - pre_frames, j + post_frames] of its sensor and drive. Windows that
share a frame are one incident. A frame is decided once, at the moment it leaves the ring, which is when no
later trigger can reach it: so its role, its incident and its inclusion probability are final. Frames leave
in the order they came. This module refuses to know what a frame is: it sees sizes, names and probabilities.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from edge_agent.selection.decision import Decision, Selection
from edge_agent.selection.policy import chance_of_any
from schemas.reasons import NotAcceptedReason, ValueClass, WindowRole

T = TypeVar("T")
MAX_SENSORS = 64
CONTEXT_VALUE_CLASS = ValueClass.LOW
"""Why low: when the disk is full, the frames around a trigger go before any trigger."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Why and how a frame is kept; `inclusion_probability` in (0, 1]."""

    rule_id: str
    rule_score: float | None
    value_class: ValueClass
    window_role: WindowRole
    incident_id: str | None
    inclusion_probability: float
    by_rule: bool


@dataclass(frozen=True, slots=True)
class StreamTail:
    """What a stream's next frames need of those that left the ring: durable, see `edge_agent.progress`."""

    sensor_id: str
    drive_id: str
    last_index: int
    trigger_index: int | None
    incident_id: str | None
    rule_id: str
    past_probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The final word on one frame: `kept`, or `refused_for` (exactly one of them is set)."""

    item: T
    kept: Kept | None
    refused_for: NotAcceptedReason | None
    tail: StreamTail


@dataclass(slots=True)
class _Stream:
    """One sensor in one drive. Indices count its frames from 0."""

    sensor_id: str
    drive_id: str
    past: deque[float]
    next_index: int = 0
    trigger_index: int | None = None
    incident_id: str | None = None
    rule_id: str = ""
    left_index: int = -1
    left_trigger_index: int | None = None
    left_incident_id: str | None = None
    left_rule_id: str = ""
    is_closed: bool = False


@dataclass(slots=True)
class _Held(Generic[T]):
    """One frame in the ring."""

    item: T
    stream: _Stream
    index: int
    size_bytes: int
    probability: float
    refused_for: NotAcceptedReason | None
    role: WindowRole | None = None
    decision: Decision | None = None
    by_rule: bool = False
    rule_id: str = ""
    incident_id: str | None = None


@dataclass(slots=True)
class CaptureCounts:
    """What the ring had to do beyond the plain case."""

    shortened_windows: int = 0


@dataclass(slots=True)
class CaptureRing(Generic[T]):
    """The ring of frames that a later trigger may still reach: at most `ring_bytes` of payload.

    Args:
        reserve: asks the budget for (drive_id, bytes); False leaves the frame out and it counts as
            over_budget.
        name_incident: a stable name from the first trigger's item.
        on_kept: told of every frame as soon as it is sure to be kept, trigger (with its Decision) or
            context (None).
    """

    pre_frames: int
    post_frames: int
    ring_bytes: int
    reserve: Callable[[str, int], bool]
    name_incident: Callable[[T], str]
    on_kept: Callable[[T, Selection | None], None]
    counts: CaptureCounts = field(default_factory=CaptureCounts)
    _ring: deque[_Held[T]] = field(default_factory=deque)
    _streams: OrderedDict[str, _Stream] = field(default_factory=OrderedDict)
    _held_bytes: int = 0

    @property
    def held(self) -> int:
        """Frames that have not left yet."""
        return len(self._ring)

    def offer(
        self, item: T, sensor_id: str, drive_id: str, size_bytes: int, selection: Selection
    ) -> list[Outcome[T]]:
        """Take the next frame; return those that leave now, oldest first."""
        stream = self._stream(sensor_id, drive_id)
        held = _Held(
            item, stream, stream.next_index, size_bytes, selection.trigger_probability, selection.refused_for
        )
        stream.next_index += 1
        self._ring.append(held)
        self._held_bytes += size_bytes
        if selection.trigger is not None:
            self._open_window(held, selection.trigger, selection)
        elif selection.refused_for in _KEEPABLE and _reaches(
            stream.trigger_index, held.index, self.post_frames
        ):
            self._keep(held, WindowRole.POST, stream.incident_id, stream.rule_id, None)
        return self._leave()

    def flush(self) -> list[Outcome[T]]:
        """Let every frame go: no more frames will come."""
        for stream in self._streams.values():
            stream.is_closed = True
        return self._leave()

    def restore(self, tails: list[StreamTail]) -> None:
        """Continue streams where the outcomes' tails said they were. Only before the first frame."""
        for tail in tails:
            past = deque(tail.past_probabilities, maxlen=self.post_frames)
            self._streams[tail.sensor_id] = _Stream(
                tail.sensor_id,
                tail.drive_id,
                past,
                next_index=tail.last_index + 1,
                trigger_index=tail.trigger_index,
                incident_id=tail.incident_id,
                rule_id=tail.rule_id,
                left_index=tail.last_index,
                left_trigger_index=tail.trigger_index,
                left_incident_id=tail.incident_id,
                left_rule_id=tail.rule_id,
            )

    def _stream(self, sensor_id: str, drive_id: str) -> _Stream:
        stream = self._streams.get(sensor_id)
        if stream is not None and stream.drive_id != drive_id:
            stream.is_closed = True
            stream = None
        if stream is None:
            stream = _Stream(sensor_id, drive_id, deque(maxlen=self.post_frames))
            self._streams[sensor_id] = stream
        self._streams.move_to_end(sensor_id)
        while len(self._streams) > MAX_SENSORS:
            self._streams.popitem(last=False)[1].is_closed = True
        return stream

    def _open_window(self, held: _Held[T], decision: Decision, selection: Selection) -> None:
        stream = held.stream
        if not self._keep(held, WindowRole.TRIGGER, None, decision.rule_id, selection):
            return
        held.decision, held.by_rule = decision, selection.by_rule
        has_window = self.pre_frames + self.post_frames > 0
        if not has_window:
            held.role = WindowRole.SINGLE
        elif not _reaches(stream.trigger_index, held.index, self.pre_frames + self.post_frames):
            stream.incident_id = self.name_incident(held.item)
        stream.trigger_index = held.index
        stream.rule_id = decision.rule_id
        held.incident_id = stream.incident_id
        for earlier in reversed(self._ring):
            if earlier.stream is not stream or earlier.index >= held.index:
                continue
            if earlier.index < held.index - self.pre_frames:
                break
            if earlier.role is None and earlier.refused_for in _KEEPABLE:
                self._keep(earlier, WindowRole.PRE, stream.incident_id, decision.rule_id, None)

    def _keep(
        self,
        held: _Held[T],
        role: WindowRole,
        incident_id: str | None,
        rule_id: str,
        selection: Selection | None,
    ) -> bool:
        if not self.reserve(held.stream.drive_id, held.size_bytes):
            held.refused_for = NotAcceptedReason.OVER_BUDGET
            held.probability = 0.0 if selection is not None else held.probability
            return False
        held.role, held.incident_id, held.rule_id, held.refused_for = role, incident_id, rule_id, None
        self.on_kept(held.item, selection)
        return True

    def _leave(self) -> list[Outcome[T]]:
        left: list[Outcome[T]] = []
        while self._ring:
            head = self._ring[0]
            is_beyond_reach = (
                head.stream.is_closed or head.stream.next_index - 1 - head.index >= self.pre_frames
            )
            if not is_beyond_reach:
                if self._held_bytes <= self.ring_bytes:
                    break
                self.counts.shortened_windows += 1
            left.append(self._finish(head))
            self._ring.popleft()
            self._held_bytes -= head.size_bytes
        return left

    def _finish(self, head: _Held[T]) -> Outcome[T]:
        stream = head.stream
        kept = None
        if head.role is not None:
            later = [other.probability for other in islice(self._ring, 1, None) if other.stream is stream]
            chances = [*stream.past, head.probability, *later[: self.pre_frames]]
            kept = Kept(
                rule_id=head.rule_id,
                rule_score=head.decision.score if head.decision else None,
                value_class=head.decision.value_class if head.decision else CONTEXT_VALUE_CLASS,
                window_role=head.role,
                incident_id=head.incident_id,
                inclusion_probability=min(1.0, chance_of_any(chances)),
                by_rule=head.by_rule,
            )
        stream.past.append(head.probability)
        stream.left_index = head.index
        if head.decision is not None:
            stream.left_trigger_index, stream.left_incident_id = head.index, head.incident_id
            stream.left_rule_id = head.rule_id
        tail = StreamTail(
            stream.sensor_id,
            stream.drive_id,
            stream.left_index,
            stream.left_trigger_index,
            stream.left_incident_id,
            stream.left_rule_id,
            tuple(stream.past),
        )
        return Outcome(head.item, kept, head.refused_for, tail)


_KEEPABLE = frozenset({NotAcceptedReason.NOT_SELECTED, NotAcceptedReason.TRACK_LIMIT})
"""Refusals that a neighbour's trigger overrides: the frame is whole, nobody asked for it on its own
account.
"""


def _reaches(trigger_index: int | None, index: int, distance: int) -> bool:
    return trigger_index is not None and index - trigger_index <= distance

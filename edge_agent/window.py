"""Keep each observation of every trigger's window exactly once, with the probability that it was kept.

A trigger at t keeps what all streams of its drive observed in [t - pre, t + post), itself in any case. Windows that
overlap are one incident. An observation is decided once, when it leaves: no trigger in order of capture can reach it
then, so its role, its incident and its inclusion probability are final. A trigger that comes out of order, after what
it would have kept left, is counted. A late observation is still kept by every window that it was seen in.
Observations leave in the order they came. How long one is held is bounded by the capture time of whatever else
arrives, by the monotonic clock and by bytes, so that a stream that fell silent holds nobody. This module does not
know what an observation is: it sees names, times, sizes and probabilities.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from edge_agent.selection.decision import Decision, Selection
from edge_agent.selection.policy import chance_of_any
from edge_agent.window_tail import (
    OpenIncident,
    TailChange,
    WindowTail,
    forget_before,
    put_incident,
    put_offset,
)
from schemas.reasons import NotAcceptedReason, ValueClass, WindowRole
from schemas.records import Incident

T = TypeVar("T")
MAX_DRIVES = 16
LEAST_SPAN_NS = 1_000_000_000
"""An observation may be so much older than the newest one, or as the window is long, and still be in its place."""
CONTEXT_VALUE_CLASS = ValueClass.LOW
"""Why low: when the disk is full, the context of a trigger is evicted before any trigger."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Why and how an observation is kept; `inclusion_probability` in (0, 1]."""

    rule_id: str
    rule_score: float | None
    value_class: ValueClass
    incident: Incident | None
    inclusion_probability: float
    by_rule: bool


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The final decision on one observation: `kept`, or `refused_for` (exactly one of them is set)."""

    item: T
    kept: Kept | None
    refused_for: NotAcceptedReason | None
    change: TailChange


@dataclass(slots=True)
class _Drive:
    """`incidents` are those that an observation may still belong to, oldest first."""

    drive_id: str
    incidents: list[OpenIncident] = field(default_factory=list)
    held: int = 0


@dataclass(slots=True)
class _Held(Generic[T]):
    """One observation in memory. `time_ns` is its capture time on the time line of the window."""

    item: T
    drive: _Drive
    stream_id: str
    time_ns: int
    offset_ns: int
    arrived_ns: int
    size_bytes: int
    probability: float
    refused_for: NotAcceptedReason | None
    role: WindowRole | None = None
    decision: Decision | None = None
    by_rule: bool = False
    incident: OpenIncident | None = None
    rule_id: str = ""


@dataclass(slots=True)
class WindowCounts:
    """Counts of exceptional cases."""

    shortened_windows: int = 0
    """Observations that left before their time."""
    late_triggers: int = 0
    """Triggers out of order, part of whose window had left already."""


@dataclass(slots=True)
class CaptureWindow(Generic[T]):
    """The observations that a later trigger may still reach.

    Args:
        pre_ns, post_ns: the window around a trigger; both 0 keep the trigger alone, without an incident.
        ring_bytes: payload held at most.
        hold_ns: longest stay by the monotonic clock.
        reserve: asks the budget for (drive_id, bytes); False leaves the observation out as over_budget.
        name_incident: a stable name from the first trigger's item.
        on_kept: called with every observation as soon as it is certain to be kept, trigger (with its selection) or
            context (None).
    """

    pre_ns: int
    post_ns: int
    ring_bytes: int
    hold_ns: int
    reserve: Callable[[str, int], bool]
    name_incident: Callable[[T], str]
    on_kept: Callable[[T, Selection | None], None]
    counts: WindowCounts = field(default_factory=WindowCounts)
    _ring: deque[_Held[T]] = field(default_factory=deque)
    _drives: OrderedDict[str, _Drive] = field(default_factory=OrderedDict)
    _offsets_ns: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _now_ns: int | None = None
    _held_bytes: int = 0
    _left: WindowTail = field(default_factory=WindowTail)
    _span_ns: int = field(init=False)

    def __post_init__(self) -> None:
        self._span_ns = max(self.pre_ns + self.post_ns, LEAST_SPAN_NS)

    @property
    def held(self) -> int:
        """Observations that have not left yet."""
        return len(self._ring)

    def offer(
        self,
        item: T,
        stream_id: str,
        drive_id: str,
        time_ns: int,
        size_bytes: int,
        selection: Selection,
        *,
        arrived_ns: int,
    ) -> list[Outcome[T]]:
        """Take the next observation; return those that leave now, oldest first.

        `time_ns` is its capture time, `arrived_ns` the monotonic clock.
        """
        drive = self._drive(drive_id)
        offset_ns = self._offset_ns(stream_id, time_ns)
        placed_ns = time_ns + offset_ns
        self._now_ns = placed_ns if self._now_ns is None else max(self._now_ns, placed_ns)
        held = _Held(
            item, drive, stream_id, placed_ns, offset_ns, arrived_ns, size_bytes,
            selection.trigger_probability, selection.refused_for,
        )  # fmt: skip
        self._ring.append(held)
        drive.held += 1
        self._held_bytes += size_bytes
        forget_before(drive.incidents, self._now_ns - self._span_ns)
        if selection.trigger is not None:
            self._open_window(held, selection.trigger, selection)
        else:
            incident = next((i for i in drive.incidents if i.begin_ns <= placed_ns < i.end_ns), None)
            if incident is not None:
                self._keep_context(held, incident)
        return self._leave(arrived_ns)

    def expire(self, monotonic_ns: int) -> list[Outcome[T]]:
        """Return what leaves because it was held for `hold_ns`, although nothing new arrived."""
        return self._leave(monotonic_ns)

    def flush(self) -> list[Outcome[T]]:
        """Release every observation: no more will come."""
        left = []
        while self._ring:
            left.append(self._finish(self._ring.popleft()))
        self._held_bytes = 0
        return left

    def restore(self, tail: WindowTail) -> None:
        """Continue after the observations whose changes made `tail`. Only before the first observation."""
        self._left = WindowTail()
        self._left.apply(tail.whole())
        self._now_ns = tail.now_ns
        self._offsets_ns = OrderedDict(tail.offsets_ns)

    def _drive(self, drive_id: str) -> _Drive:
        drive = self._drives.get(drive_id)
        if drive is None:
            drive = self._drives[drive_id] = _Drive(drive_id, self._left.incidents_of(drive_id))
        self._drives.move_to_end(drive_id)
        if len(self._drives) > MAX_DRIVES:
            idle = next((one for one in self._drives.values() if not one.held and one is not drive), None)
            if idle is not None:
                del self._drives[idle.drive_id]
        return drive

    def _offset_ns(self, stream_id: str, time_ns: int) -> int:
        """Return the offset of the stream's clock to the time line of the window, which never goes back.

        0 for a clock that goes with the others. A clock that is behind (it was set back, or never was right) is
        taken as showing the present when it is first seen so, and from then on by what it counts.
        """
        offset_ns, now_ns = 0, self._now_ns
        if now_ns is not None and time_ns < now_ns - self._span_ns:
            offset_ns = self._offsets_ns.get(stream_id, 0)
            if time_ns + offset_ns < now_ns - self._span_ns:
                offset_ns = now_ns - time_ns
        put_offset(self._offsets_ns, stream_id, offset_ns)
        return offset_ns

    def _open_window(self, held: _Held[T], decision: Decision, selection: Selection) -> None:
        if not self._keep(held, WindowRole.TRIGGER, decision.rule_id, selection):
            return
        held.decision, held.by_rule = decision, selection.by_rule
        if self.pre_ns + self.post_ns == 0:
            held.role = WindowRole.SINGLE
            return
        begin_ns, end_ns = held.time_ns - self.pre_ns, held.time_ns + max(self.post_ns, 1)
        is_late = self._now_ns is not None and held.time_ns < self._now_ns
        if is_late and self._left.now_ns is not None and begin_ns <= self._left.now_ns:
            self.counts.late_triggers += 1
        known = held.drive.incidents
        incident = next((i for i in known if begin_ns < i.end_ns and i.begin_ns < end_ns), None)
        if incident is not None:
            incident = OpenIncident(
                incident.incident_id, incident.stream, decision.rule_id,
                min(begin_ns, incident.begin_ns), incident.trigger_ns, max(end_ns, incident.end_ns),
            )  # fmt: skip
        else:
            name = self.name_incident(held.item)
            incident = OpenIncident(name, held.stream_id, decision.rule_id, begin_ns, held.time_ns, end_ns)
        put_incident(known, incident)
        held.incident = incident
        for other in reversed(self._ring):
            if other.drive is held.drive and other.role is None and begin_ns <= other.time_ns < end_ns:
                self._keep_context(other, incident)

    def _keep_context(self, held: _Held[T], incident: OpenIncident) -> None:
        if held.refused_for not in _KEEPABLE:
            return
        role = WindowRole.POST if held.time_ns >= incident.trigger_ns else WindowRole.PRE
        if self._keep(held, role, incident.rule_id, None):
            held.incident = incident

    def _keep(self, held: _Held[T], role: WindowRole, rule_id: str, selection: Selection | None) -> bool:
        if not self.reserve(held.drive.drive_id, held.size_bytes):
            held.refused_for = NotAcceptedReason.OVER_BUDGET
            held.probability = 0.0 if selection is not None else held.probability
            return False
        held.role, held.rule_id, held.refused_for = role, rule_id, None
        self.on_kept(held.item, selection)
        return True

    def _leave(self, monotonic_ns: int) -> list[Outcome[T]]:
        left: list[Outcome[T]] = []
        while self._ring:
            head, now_ns = self._ring[0], self._now_ns
            is_beyond_reach = self.pre_ns == 0 or (now_ns is not None and now_ns > head.time_ns + self.pre_ns)
            if not is_beyond_reach:
                if self._held_bytes <= self.ring_bytes and monotonic_ns - head.arrived_ns < self.hold_ns:
                    break
                self.counts.shortened_windows += 1
            self._ring.popleft()
            left.append(self._finish(head))
            self._held_bytes -= head.size_bytes
        return left

    def _finish(self, head: _Held[T]) -> Outcome[T]:
        drive, kept = head.drive, None
        drive.held -= 1
        if head.role is not None:
            incident = head.incident
            kept = Kept(
                rule_id=head.rule_id,
                rule_score=head.decision.score if head.decision else None,
                value_class=head.decision.value_class if head.decision else CONTEXT_VALUE_CLASS,
                incident=None
                if incident is None
                else Incident(incident.incident_id, head.role, incident.stream),
                inclusion_probability=min(1.0, chance_of_any(self._chances(head))),
                by_rule=head.by_rule,
            )
        change = self._change(head)
        self._left.apply(change)
        return Outcome(head.item, kept, head.refused_for, change)

    def _change(self, head: _Held[T]) -> TailChange:
        drive_id, known_ns = head.drive.drive_id, self._left.now_ns
        now_ns = head.time_ns if known_ns is None else max(known_ns, head.time_ns)
        over_ns = now_ns - self._span_ns
        change = TailChange(now_ns, over_ns - self.post_ns, over_ns)
        if head.offset_ns or head.stream_id in self._left.offsets_ns:
            change.offsets_ns[head.stream_id] = head.offset_ns
        if head.probability and self.pre_ns + self.post_ns:
            change.past.append((drive_id, head.time_ns, head.probability))
        if head.decision is not None and head.incident is not None:
            incidents = self._left.incidents_of(drive_id)
            put_incident(incidents, head.incident)
            change.incidents[drive_id] = tuple(incidents)
        return change

    def _chances(self, head: _Held[T]) -> list[float]:
        """Trigger probabilities of all whose window reaches `head`, its own among them."""
        first_ns, last_ns = head.time_ns - max(self.post_ns, 1), head.time_ns + self.pre_ns
        past = [
            chance
            for time_ns, chance in self._left.past_of(head.drive.drive_id)
            if first_ns < time_ns <= last_ns
        ]
        later = [
            other.probability
            for other in self._ring
            if other.drive is head.drive and other.probability and first_ns < other.time_ns <= last_ns
        ]
        return [head.probability, *past, *later]


_KEEPABLE = frozenset({NotAcceptedReason.NOT_SELECTED, NotAcceptedReason.TRACK_LIMIT})
"""Refusals that a neighbour's trigger overrides: the observation is complete, it was only not selected itself."""

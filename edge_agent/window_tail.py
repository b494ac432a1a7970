"""The state that a capture window needs of the observations that left it, and its changes.

Pure state: `edge_agent.window` makes the changes, `edge_agent.progress` keeps them, and both apply them alike.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

MAX_DRIVE_TAILS = 64
MAX_STREAMS = 256


class OpenIncident(msgspec.Struct, frozen=True, array_like=True):
    """An incident that a later observation may still belong to: half-open [begin_ns, end_ns)."""

    incident_id: str
    stream: str
    rule_id: str
    begin_ns: int
    trigger_ns: int
    end_ns: int


class TailChange(msgspec.Struct, array_like=True):
    """What observations that left change of a `WindowTail`. `past` is (drive_id, time, trigger probability)."""

    now_ns: int | None = None
    oldest_ns: int = 0
    """Triggers up to then reach nothing any more, and incidents that ended by `over_ns` hold nothing more."""
    over_ns: int = 0
    offsets_ns: dict[str, int] = msgspec.field(default_factory=dict)
    incidents: dict[str, tuple[OpenIncident, ...]] = msgspec.field(default_factory=dict)
    past: list[tuple[str, int, float]] = msgspec.field(default_factory=list)

    def add(self, later: TailChange) -> None:
        """Merge a later change into this one."""
        if later.now_ns is None:
            return
        self.now_ns, self.oldest_ns, self.over_ns = later.now_ns, later.oldest_ns, later.over_ns
        self.offsets_ns |= later.offsets_ns
        self.incidents |= later.incidents
        self.past += later.past


@dataclass(slots=True)
class DriveTail:
    """Of one drive: the incidents whose trigger left, and the triggers that left as (time, probability)."""

    incidents: list[OpenIncident] = field(default_factory=list)
    past: deque[tuple[int, float]] = field(default_factory=deque)


@dataclass(slots=True)
class WindowTail:
    """What later observations need of those that left: durable, see `edge_agent.progress`."""

    now_ns: int | None = None
    oldest_ns: int = 0
    over_ns: int = 0
    offsets_ns: OrderedDict[str, int] = field(default_factory=OrderedDict)
    drives: OrderedDict[str, DriveTail] = field(default_factory=OrderedDict)

    def apply(self, change: TailChange) -> None:
        """Apply a change. The same changes, one by one or merged, lead to the same tail."""
        if change.now_ns is None:
            return
        self.now_ns, self.oldest_ns, self.over_ns = change.now_ns, change.oldest_ns, change.over_ns
        for stream_id, offset_ns in change.offsets_ns.items():
            put_offset(self.offsets_ns, stream_id, offset_ns)
        for drive_id, time_ns, probability in change.past:
            self._drive(drive_id).past.append((time_ns, probability))
        for drive_id, incidents in change.incidents.items():
            self._drive(drive_id).incidents[:] = incidents
        for drive_id, drive in list(self.drives.items()):
            forget_before(drive.incidents, self.over_ns)
            while drive.past and drive.past[0][0] <= self.oldest_ns:
                drive.past.popleft()
            if not (drive.past or drive.incidents):
                del self.drives[drive_id]

    def whole(self) -> TailChange:
        """Return the change from an empty tail to this one."""
        return TailChange(
            self.now_ns,
            self.oldest_ns,
            self.over_ns,
            dict(self.offsets_ns),
            {name: tuple(drive.incidents) for name, drive in self.drives.items() if drive.incidents},
            [(name, *one) for name, drive in self.drives.items() for one in drive.past],
        )

    def past_of(self, drive_id: str) -> Iterable[tuple[int, float]]:
        """Return the triggers of a drive that left, oldest first."""
        drive = self.drives.get(drive_id)
        return () if drive is None else drive.past

    def incidents_of(self, drive_id: str) -> list[OpenIncident]:
        """Return a copy of the incidents of a drive whose trigger left."""
        drive = self.drives.get(drive_id)
        return [] if drive is None else list(drive.incidents)

    def _drive(self, drive_id: str) -> DriveTail:
        drive = self.drives.setdefault(drive_id, DriveTail())
        self.drives.move_to_end(drive_id)
        if len(self.drives) > MAX_DRIVE_TAILS:
            self.drives.popitem(last=False)
        return drive


def forget_before(incidents: list[OpenIncident], before_ns: int) -> None:
    """Leave out the incidents that ended by then: nothing so late is taken any more."""
    incidents[:] = [incident for incident in incidents if incident.end_ns > before_ns]


def put_incident(incidents: list[OpenIncident], incident: OpenIncident) -> None:
    """Add the incident, or put it in the place of what it was before a trigger made it longer."""
    for index, known in enumerate(incidents):
        if known.incident_id == incident.incident_id:
            incidents[index] = incident
            return
    incidents.append(incident)


def put_offset(offsets: OrderedDict[str, int], stream_id: str, offset_ns: int) -> None:
    """Keep a stream's offset; none, as most have, takes no place."""
    if not offset_ns:
        offsets.pop(stream_id, None)
        return
    offsets[stream_id] = offset_ns
    offsets.move_to_end(stream_id)
    if len(offsets) > MAX_STREAMS:
        offsets.popitem(last=False)

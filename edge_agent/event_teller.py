"""Choose which model events a telemetry record carries, so that records stay small and the fleet still hears of each.

An event is told until a record with it was acknowledged, in the order of the journals. After a start all are told once
more, the newest first; from then on a few of them every `RETELL_S`, so that what the fleet lost it hears within hours. The
newest ends (refused, rolled_back) are in every record, for a reader that knows the newest record only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from foundation.short_text import shorten_middle
from schemas.records import ModelEvent

RETELL_S: Final = 600.0
"""Seconds between two records that repeat events that were told before."""
REPEATED_ENDS: Final = 2
"""Releases of a role whose end is in every record."""
REASON_CHARACTERS: Final = 300
_ENDS = ("rolled_back", "refused")
_OVERHEAD_BYTES = 16
"""At most this many bytes of an event are numbers and lengths."""


@dataclass(slots=True)
class _Role:
    """What was told of one role: the events that are on the broker, and those of the record under way."""

    told: frozenset[ModelEvent] = frozenset()
    under_way: tuple[ModelEvent, ...] = ()
    told_again: int = 0
    """How many events were told again, in turns."""
    again_under_way: int = 0


class _Room:
    """The bytes that are left for events in one record."""

    def __init__(self, left_bytes: int) -> None:
        self._left = left_bytes
        self.is_empty = True

    def take(self, rows: Sequence[ModelEvent], wanted: Iterable[int], places: set[int]) -> int:
        """Add places until one does not fit, and return how many; the first of the record always fits."""
        count = 0
        for place in wanted:
            size = 0 if place in places else _size(rows[place])
            if size > self._left and not self.is_empty:
                break
            self._left, self.is_empty = self._left - size, False
            places.add(place)
            count += 1
        return count


class EventTeller:
    """The events of each role for one record after another, of one process of deliver."""

    def __init__(self) -> None:
        self._roles: dict[str, _Role] = {}
        self._told_again_ns: int | None = None
        self._is_again = False

    def choose(
        self, events: Mapping[str, Sequence[ModelEvent]], room_bytes: int, monotonic_ns: int
    ) -> dict[str, tuple[ModelEvent, ...]]:
        """Return the events of each role for the next record, `room_bytes` in all, or one event that is larger."""
        room = _Room(room_bytes)
        since_ns = self._told_again_ns
        self._is_again = since_ns is not None and monotonic_ns - since_ns >= RETELL_S * 1e9
        if since_ns is None:
            self._told_again_ns = monotonic_ns
        for role, journal in events.items():
            known = self._roles.setdefault(role, _Role())
            rows = [_short(each) for each in journal]
            known.told &= frozenset(rows)
            places: set[int] = set()
            untold = [place for place, each in enumerate(rows) if each not in known.told]
            room.take(rows, untold if known.told else untold[::-1], places)
            for place in _newest_ends(rows):
                room.take(rows, [place], places)
            known.again_under_way = 0
            if self._is_again and rows:
                begin = known.told_again % len(rows)
                known.again_under_way = room.take(rows, [*range(begin, len(rows)), *range(begin)], places)
            known.under_way = tuple(rows[place] for place in sorted(places))
        return {role: self._roles[role].under_way for role in events}

    def acknowledged(self, monotonic_ns: int) -> None:
        """Note that the record of the last choice is on the broker."""
        for known in self._roles.values():
            known.told |= frozenset(known.under_way)
            known.told_again += known.again_under_way
            known.again_under_way = 0
        if self._is_again:
            self._told_again_ns = monotonic_ns


def _newest_ends(rows: Sequence[ModelEvent]) -> list[int]:
    found: dict[str, int] = {}
    for place in range(len(rows) - 1, -1, -1):
        if rows[place].event in _ENDS and len(found) < REPEATED_ENDS:
            found.setdefault(rows[place].release_id, place)
    return list(found.values())


def _short(event: ModelEvent) -> ModelEvent:
    if len(event.reason) <= REASON_CHARACTERS:
        return event
    return replace(event, reason=shorten_middle(event.reason, REASON_CHARACTERS))


def _size(event: ModelEvent) -> int:
    texts = (event.model_digest, event.model_name, event.event, event.reason, event.release_id)
    return _OVERHEAD_BYTES + sum(len(text.encode()) for text in texts)

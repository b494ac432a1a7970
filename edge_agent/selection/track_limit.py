"""At most n frames per track by rule: ten frames of one sign teach little more than one."""

from __future__ import annotations

from collections import OrderedDict

MAX_TRACKS_REMEMBERED = 4096
"""Why a bound: a drive may have any number of tracks. A track that 4,096 later ones displaced starts at zero again."""


class TrackLimit:
    """Counts what rules kept of each (drive, track).

    The random arm is drawn independently of this limit and does not count towards it: otherwise its recorded
    probability would be wrong in a full track. Frames without a track are not limited.
    """

    def __init__(self, max_per_track: int | None, remembered: int = MAX_TRACKS_REMEMBERED) -> None:
        self.max_per_track = max_per_track
        self._remembered = remembered
        self._kept: OrderedDict[tuple[str, str], int] = OrderedDict()

    def is_full(self, drive_id: str, track_id: str | None) -> bool:
        """Return whether rules have kept `max_per_track` frames of this track already."""
        if self.max_per_track is None or track_id is None:
            return False
        return self._kept.get((drive_id, track_id), 0) >= self.max_per_track

    def count(self, drive_id: str, track_id: str | None) -> None:
        """Record that a rule kept one frame of this track."""
        if track_id is None:
            return
        key = (drive_id, track_id)
        self._kept[key] = self._kept.pop(key, 0) + 1
        while len(self._kept) > self._remembered:
            self._kept.popitem(last=False)

    def give_back(self, drive_id: str, track_id: str | None) -> None:
        """Take one count back: the frame was not kept after all."""
        if track_id is None:
            return
        left = self._kept.get((drive_id, track_id), 0) - 1
        if left > 0:
            self._kept[drive_id, track_id] = left
        else:
            self._kept.pop((drive_id, track_id), None)

    def to_rows(self) -> list[tuple[str, str, int]]:
        """Return (drive_id, track_id, kept), least recently counted first."""
        return [(drive, track, kept) for (drive, track), kept in self._kept.items()]

    def restore(self, rows: list[tuple[str, str, int]]) -> None:
        """Replace the counts by what `to_rows` returned."""
        self._kept = OrderedDict(((drive, track), kept) for drive, track, kept in rows)

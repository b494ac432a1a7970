"""Keep a few recent frames, so that a candidate is tried on what this vehicle sees. They never leave the vehicle."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


class TrialFrames:
    """A ring of files `NNNN.frame`, every `every`-th frame offered. Losing some to a crash is harmless: no fsync."""

    def __init__(self, folder: Path, *, count: int, every: int, max_bytes: int = 2_000_000) -> None:
        self._folder = folder
        self._count = count
        self._every = every
        self._max_bytes = max_bytes
        self._offered = 0
        self._next = len(list(folder.glob("*.frame"))) % count if count else 0

    def offer(self, payload: bytes) -> bool:
        """Keep every `every`-th encoded frame. Returns whether it was kept; none is on a full disk."""
        self._offered += 1
        if not self._count or (self._offered - 1) % self._every or len(payload) > self._max_bytes:
            return False
        path = self._folder / f"{self._next:04d}.frame"
        temporary = path.with_suffix(".tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(payload)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):  # a file in place of the folder, a disk that became read-only
                temporary.unlink(missing_ok=True)
            return False
        self._next = (self._next + 1) % self._count
        return True

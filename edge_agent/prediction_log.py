"""Log one JSON line per predicted frame, to evaluate the vehicle against known labels.

It is a convenience, not evidence: lines are buffered, a kill loses the last ones, and a full disk stops the
log (counted) and never the vehicle.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO

from foundation.errors import MisconfiguredError
from foundation.files import is_disk_trouble

FLUSH_EVERY_LINES = 64
LONGEST_LINE_BYTES = 65_536


class PredictionLog:
    """Appends frame_id, drive_id, lap, model_digest, predicted_class, time_ns; nothing without a path."""

    def __init__(self, path: Path | None) -> None:
        """Open the file; on a full disk, later. Raises MisconfiguredError when that is not possible for another reason."""
        self.lost_lines = 0
        self._unflushed = 0
        self._path = path
        self._stream: IO[str] | None = None
        self._open()

    def _open(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(self._path)
            self._stream = self._path.open("a", encoding="utf-8", buffering=1 << 16)
        except OSError as error:
            if is_disk_trouble(error):
                return
            raise MisconfiguredError(
                f"serving.prediction_log is {str(self._path)!r}; it cannot be written: {error.strerror}"
            ) from error

    def write(
        self, *, frame_id: str, drive_id: str, lap: int, model_digest: str, predicted_class: str, time_ns: int
    ) -> None:
        """Add one line; a disk error is counted in `lost_lines`."""
        if self._stream is None:
            self.lost_lines += self._path is not None
            self._unflushed += 1
            if self._unflushed >= FLUSH_EVERY_LINES:
                self._unflushed = 0
                self._open()
            return
        line = json.dumps(
            {
                "drive_id": drive_id,
                "frame_id": frame_id,
                "lap": lap,
                "model_digest": model_digest,
                "predicted_class": predicted_class,
                "time_ns": time_ns,
            }
        )
        try:
            self._stream.write(line + "\n")
        except OSError:
            self.lost_lines += 1
        self._unflushed += 1
        if self._unflushed >= FLUSH_EVERY_LINES:
            self.flush()

    def flush(self) -> None:
        """Flush the lines to the operating system."""
        self._unflushed = 0
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError:
                self.lost_lines += 1

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        if self._stream is not None:
            try:
                self._stream.close()
            except OSError:
                self.lost_lines += 1
            self._stream = None


def _cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line that a kill left, so that the next line does not continue it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        begin = max(0, size_bytes - LONGEST_LINE_BYTES)
        file.seek(begin)
        end = file.read().rfind(b"\n") + 1
        if end or not begin:
            file.truncate(begin + end)

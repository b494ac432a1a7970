"""A structured event log with one JSON object per line; a failed write never raises into the component that logs.

Events that cannot be written (disk full) are counted in `lost_events`, and the next line that can be written carries the
count. A file that would grow beyond `max_bytes` is rotated to `<name>.1`. Secrets are masked.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, Final, TextIO

from foundation import syscalls
from foundation.clock import Clock, SystemClock
from foundation.errors import MisconfiguredError, without_credentials
from foundation.settings import MASK, Secret

LEVELS: Final = ("debug", "info", "warning", "error")
DEFAULT_MAX_BYTES: Final = 16 * 1024 * 1024


class EventLog:
    """The event log of one component.

    Args:
        target: the path of a file (opened for append, bounded by `max_bytes`), a text stream, or None to discard events.
        clock: where time_ns and monotonic_ns come from.
        component: the component name written with every event.
    """

    def __init__(
        self,
        target: Path | str | TextIO | None,
        clock: Clock | None = None,
        component: str = "fleetloop",
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._path = Path(target) if isinstance(target, str | Path) else None
        self._stream = None if isinstance(target, str | Path) else target
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._component = component
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._fd = -1
        self._is_torn = False
        self._reported_lost = 0
        self.lost_events = 0

    def emit(self, name: str, level: str = "info", **fields: Any) -> None:
        """Write one event; never fails for the disk. Values that JSON cannot represent are written as their repr.

        Raises:
            MisconfiguredError: `level` is not one of LEVELS.
        """
        if level not in LEVELS:
            raise MisconfiguredError(f"level is {level!r}; it must be one of {', '.join(LEVELS)}")
        event: dict[str, Any] = {
            "time_ns": self._clock.now_ns(),
            "monotonic_ns": self._clock.monotonic_ns(),
            "component": self._component,
            "event": name,
            "level": level,
        }
        for key, value in fields.items():
            event[f"field_{key}" if key in event else key] = _masked(value)
        with self._lock:
            if self.lost_events > self._reported_lost:
                event["lost_events"] = self.lost_events
            try:
                self._write(_line(event))
            except OSError:
                self.lost_events += 1
            else:
                self._reported_lost = self.lost_events

    def _write(self, line: str) -> None:
        if self._stream is not None:
            try:
                self._stream.write(line)
                self._stream.flush()
            except ValueError as error:  # a closed stream
                raise OSError(str(error)) from error
        elif self._path is not None:
            data = line.encode("utf-8", "backslashreplace")
            if self._fd < 0:
                self._open(self._path)
            prefix = b"\n" if self._is_torn else b""  # a line that a full disk or a kill cut spoils no other
            data = prefix + data
            size_bytes = os.fstat(self._fd).st_size
            if size_bytes and size_bytes + len(data) > self._max_bytes:
                self._rotate(self._path)
            # One write call per line, so that lines of several processes never interleave.
            written = syscalls.write(self._fd, data)
            if written:
                self._is_torn = len(prefix) < written < len(data)
            if written != len(data):
                raise OSError(f"{written} of {len(data)} bytes written")

    def _rotate(self, path: Path) -> None:
        syscalls.close(self._fd)
        self._fd = -1
        syscalls.rename(path, path.with_name(path.name + ".1"))
        self._open(path)

    def _open(self, path: Path) -> None:
        self._fd = syscalls.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        size_bytes = os.fstat(self._fd).st_size
        self._is_torn = size_bytes > 0 and os.pread(self._fd, 1, size_bytes - 1) != b"\n"

    def close(self) -> None:
        """Close the file; a later `emit` opens it again."""
        with self._lock:
            if self._fd >= 0:
                syscalls.close(self._fd)
                self._fd = -1


def _line(event: dict[str, Any]) -> str:
    try:
        text = json.dumps(event, ensure_ascii=False, allow_nan=False, default=_shown)
    except (ValueError, TypeError):  # NaN, a cycle, or a key that is not text
        text = json.dumps({str(key): _plain(value) for key, value in event.items()}, ensure_ascii=False)
    return text + "\n"


def _masked(value: Any) -> Any:
    """Return the value with every Secret masked; json would write the text of a str subclass."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int) or value is None else repr(value)


def _shown(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return value[:64].hex()
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    return repr(value)

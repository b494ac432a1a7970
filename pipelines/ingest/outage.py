"""Tell of an outage in one line per cause, however often a run is tried again."""

from __future__ import annotations

import re
from collections.abc import Callable

from foundation.errors import RetryLaterError

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


class Outage:
    """Tells of failures that are like one another once, and how many there were when they are over."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._cause = ""
        self._count = 0

    def failed(self, error: RetryLaterError) -> None:
        """Note a failure. Numbers in a message (a time waited, an attempt) make no other cause."""
        cause = f"{type(error).__name__} {_NUMBER.sub('', str(error))}"
        self._count += 1
        if cause != self._cause:
            self._cause = cause
            self._tell(f"waiting ({self._count} failed): {error}")

    def ended(self) -> None:
        """Note a success."""
        if self._count:
            self._tell(f"going on after {self._count} failed")
        self._cause, self._count = "", 0

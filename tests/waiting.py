"""The one place where a test waits for another process, thread or machine: it polls what was asked, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 60.0
"""Far more than the usual wait: a bound that ends a hanging test, never a measurement."""
POLL_S = 0.02


def until(
    holds: Callable[[], object], why: str, limit_s: float = PATIENCE_S, poll_s: float = POLL_S
) -> float:
    """Wait until it holds and return the seconds that it took.

    Raises:
        AssertionError: it did not hold within `limit_s`; the message says what was waited for.
    """
    begin_s = time.monotonic()
    while not holds():
        waited_s = time.monotonic() - begin_s
        assert waited_s < limit_s, f"not within {limit_s:g} s: {why}"
        time.sleep(poll_s)
    return time.monotonic() - begin_s


def is_gone(pid: int) -> bool:
    """Whether no process of that id runs any more (a zombie does not run)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True

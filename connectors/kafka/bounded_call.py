"""Calls into a client library that end within a deadline, even if the library hangs.

kafka-python's TLS handshake has no timeout, and a silent peer blocks a constructor for ever; so the call runs in a
thread. The thread of a call that hangs is left behind as a daemon thread; the caller gets an error and goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from foundation.errors import DeadlineError

T = TypeVar("T")


class _Outcome(Generic[T]):
    """The outcome of the thread: a value, an error, or neither yet."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_abandoned = False
        self.values: list[T] = []
        self.error: BaseException | None = None


def call_within(
    seconds: float, call: Callable[[], T], doing: str, *, give_back: Callable[[T], object] | None = None
) -> T:
    """Return the result of `call`, or raise its error.

    Args:
        seconds: how long to wait for it.
        call: runs in a thread of its own.
        doing: what the call does, for messages.
        give_back: called with a result that came too late (a connection to close).

    Raises:
        DeadlineError: it did not end within `seconds`.
    """
    outcome: _Outcome[T] = _Outcome()

    def run() -> None:
        try:
            value = call()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, whatever it is
            outcome.error = error
            return
        with outcome.lock:
            outcome.values.append(value)
            is_late = outcome.is_abandoned
        if is_late and give_back is not None:
            give_back(value)

    thread = threading.Thread(target=run, name=f"bounded: {doing}", daemon=True)
    thread.start()
    thread.join(seconds)
    with outcome.lock:
        if outcome.values:
            return outcome.values[0]
        outcome.is_abandoned = thread.is_alive()
    if outcome.error is not None:
        raise outcome.error
    raise DeadlineError(f"{doing}: no answer within {seconds:g} s")

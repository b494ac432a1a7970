"""Read one source in its own thread, so that a device or network share that does not answer delays no other source.

What was read waits in a queue, in order and bounded. When it is full, a recording waits to be read on; of a live source,
which does not wait, the oldest observation is dropped and counted. A thread that is blocked delays nothing, not even the
end of the process: it is a daemon, and nobody waits for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

from foundation.clock import Clock

T = TypeVar("T")
QUEUE_LENGTH = 4
"""Observations that wait at most. Why so few: each may have megabytes."""


class SourceThread(Generic[T]):
    """An iterator whose `next` never blocks while `is_ready`; it ends, or raises, as `play` did.

    Args:
        play: makes the iterator to read; called in the thread, which may block in it.
        may_drop: whether the source is live.
        on_drop: called, in the thread, with each item that is dropped.
        at_stop: called in the thread when it ends because of `stop`.
    """

    def __init__(
        self,
        play: Callable[[], Iterator[T]],
        clock: Clock,
        *,
        may_drop: Callable[[], bool] = lambda: False,
        on_drop: Callable[[T], None] = lambda _: None,
        at_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._play = play
        self._clock = clock
        self._may_drop = may_drop
        self._on_drop = on_drop
        self._at_stop = at_stop
        self._changed = threading.Condition()
        self._queue: deque[T] = deque()
        self._has_ended = self._is_stopped = False
        self._error: BaseException | None = None
        self._asked_ns: int | None = clock.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether `next` returns at once: an item, the end or an error."""
        with self._changed:
            return bool(self._queue) or self._has_ended

    @property
    def silent_ns(self) -> int:
        """For how long the source has not answered; 0 while something waits to be taken."""
        with self._changed:
            if self._queue or self._has_ended or self._asked_ns is None:
                return 0
            return self._clock.monotonic_ns() - self._asked_ns

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._changed:
            while not (self._queue or self._has_ended):
                self._changed.wait()
            if self._queue:
                item = self._queue.popleft()
                self._changed.notify_all()
                return item
        if self._error is not None:
            raise self._error
        raise StopIteration

    def stop(self) -> bool:
        """Ask the thread to end as soon as the source answers; return whether it has ended already."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            return self._has_ended

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._play():
                if not self._put(item):
                    break
        except BaseException as caught:  # noqa: BLE001 - raised where the source is pulled
            error = caught
        with self._changed:
            is_stopped, self._error, self._has_ended = self._is_stopped, error, True
            self._changed.notify_all()
        if is_stopped:
            self._at_stop()

    def _put(self, item: T) -> bool:
        """Queue one item; return False once stopped."""
        with self._changed:
            self._asked_ns = None
            while len(self._queue) >= QUEUE_LENGTH and not self._is_stopped:
                if self._may_drop():
                    self._on_drop(self._queue.popleft())
                else:
                    self._changed.wait()
            self._queue.append(item)
            self._asked_ns = self._clock.monotonic_ns()
            return not self._is_stopped

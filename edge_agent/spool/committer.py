"""A thread commits what the frame loop hands over, one batch after the other, so that no frame waits for the disk.

It changes who waits for fsync, not what a commit is: the same order, receipts after the fsync. The writer counts
disk errors. Any other error is a defect: the thread ends, and the next call of the frame loop
raises it, so that the process dies with its traceback and the supervisor starts it again. Nothing that had no
receipt was accepted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_agent.spool.commit_queue import CommitQueue


class Committer:
    """Calls `commit_one` in a thread of its own whenever `queue` has something to commit, until it is stopped."""

    def __init__(self, queue: CommitQueue, commit_one: Callable[[], object]) -> None:
        self._queue = queue
        self._commit_one = commit_one
        self._failure: BaseException | None = None
        # Why a daemon: a process that dies of a defect does not wait for it; one that ends in order calls `stop`.
        self._thread = threading.Thread(target=self._run, name="spool-committer", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RuntimeError when the thread has died: the process must not go on without it."""
        if self._failure is not None:
            raise RuntimeError("the thread that commits the spool has died") from self._failure

    def stop(self) -> None:
        """Ask the thread to end when what was handed over is committed; see `has_ended`."""
        self._queue.close()

    def has_ended(self, wait_s: float) -> bool:
        """Return whether the thread has ended, within `wait_s`."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._queue.wait_for_turn():
                self._commit_one()
        except BaseException as error:  # noqa: BLE001 - kept whole, and raised in the thread that matters
            self._failure = error
            self._queue.close()

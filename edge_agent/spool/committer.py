"""A thread that commits what the frame loop hands over, one batch after the other: no frame waits for a disk.

It changes who waits for fsync, not what a commit is: the same order, receipts after the fsync. An error of the
disk is the writer's to count. Any other error is a defect: the thread ends, and the next call of the frame loop
raises it, so that the process dies with its traceback and the supervisor starts it again. Nothing that had no
receipt was accepted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_agent.spool.line import Line


class Committer:
    """Calls `commit_one` for every turn of `line` in a thread of its own, until it is stopped."""

    def __init__(self, line: Line, commit_one: Callable[[], object]) -> None:
        self._line = line
        self._commit_one = commit_one
        self._failure: BaseException | None = None
        # Why a daemon: a process that dies of a defect does not wait for it; one that ends in order calls `stop`.
        self._thread = threading.Thread(target=self._run, name="spool-committer", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises RuntimeError when the thread has died: the process must not go on without it."""
        if self._failure is not None:
            raise RuntimeError("the thread that commits the spool has died") from self._failure

    def stop(self) -> None:
        """Return when what was handed over is committed and the thread has ended. See `check` for what it raises."""
        self._line.close()
        self._thread.join()
        self.check()

    def _run(self) -> None:
        try:
            while self._line.wait_for_turn():
                self._commit_one()
        except BaseException as error:  # noqa: BLE001 - kept whole, and raised in the thread that matters
            self._failure = error
            self._line.close()

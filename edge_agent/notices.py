"""Listen for notices on the broker, so that a release or a halt does not wait for the next interval.

A notice is a hint and nothing in it is trusted: all that it can do is to make the fetcher refresh its signed
repository a little earlier, at most once in `LOOK_GAP_S`. So it needs no signature, and a flood of forged ones
costs little. Nothing depends on notices: without any, the vehicle checks at its own interval.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from connectors.kafka.ports import RecordTail
from edge_agent.step import Failed, Idle, StepResult
from foundation.clock import Clock
from foundation.errors import FleetLoopError, RejectedError
from foundation.retry import Backoff
from schemas.codec import decode_notice
from schemas.wire import StoredRecord

POLL_S = 1.0
"""The longest wait of one step, after which a stop is noticed."""
LOOK_GAP_S = 2.0
RETRY_FIRST_S = 2.0
RETRY_MAX_S = 60.0


class NoticeJob:
    """One step per call, in its own lane, because connecting and listening block. Its counts are for the status."""

    def __init__(
        self,
        vehicle_id: str,
        make_tail: Callable[[], RecordTail],
        look_now: Callable[[], None],
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        self._vehicle_id = vehicle_id
        self._make_tail = make_tail
        self._look_now = look_now
        self._clock = clock
        self._backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S, 2.0, rng)
        self._tail: RecordTail | None = None
        self._is_look_due = False
        self._looked_ns: int | None = None
        self.heard = 0
        self.ignored = 0
        """Records that are not a notice, or one for another vehicle."""
        self.last_error = ""

    @property
    def is_listening(self) -> bool:
        """Whether a notice that is published now would be heard."""
        return self._tail is not None and self._tail.is_connected

    def step(self) -> StepResult:
        """Listen for at most `POLL_S`. A missing broker is normal: it is tried again after a while."""
        try:
            if self._tail is None:
                self._tail = self._make_tail()
            was_listening = self._tail.is_connected
            records = self._tail.poll(POLL_S)
        except FleetLoopError as error:
            self.close()
            self.last_error = f"{type(error).__name__}: {error}"
            return Failed(self.last_error, self._backoff.next_s())
        self._backoff.reset()
        self.last_error = ""
        for record in records:
            self._take(record)
        if not was_listening:
            self._is_look_due = True  # what was said before now was not heard
        self._look_when_due()
        return Idle(0.0)

    def status(self) -> dict[str, object]:
        """Return the values for the agent's status."""
        return {
            "listening": self.is_listening,
            "heard": self.heard,
            "ignored": self.ignored,
            "last_error": self.last_error,
        }

    def close(self) -> None:
        """Close the connection."""
        tail, self._tail = self._tail, None
        if tail is not None:
            tail.close()

    def _take(self, record: StoredRecord) -> None:
        try:
            notice = decode_notice(record.value or b"")
        except RejectedError:
            self.ignored += 1
            return
        if notice.target not in ("", self._vehicle_id):
            self.ignored += 1
            return
        self.heard += 1
        self._is_look_due = True

    def _look_when_due(self) -> None:
        now_ns = self._clock.monotonic_ns()
        is_early = self._looked_ns is not None and now_ns - self._looked_ns < LOOK_GAP_S * 1e9
        if self._is_look_due and not is_early:
            self._is_look_due, self._looked_ns = False, now_ns
            self._look_now()

"""Send every spooled record until the broker has acknowledged it, most valuable class first.

One step does, in this order:
    1. process what the sink reported since the last step: acknowledgements first, failures back into the queue;
    2. drop a sink that makes no progress, or that a refused record may have broken (a new one is made later);
    3. make a sink when there is none and the backoff is over: starting without a broker is normal;
    4. lease as many bytes as may be in flight and send them;
    5. make acknowledgements durable from time to time.
A failure, a refused certificate and silence never count as an acknowledgement. Delivery is at least once; ingest makes
it exactly once by the identity of records. Everything runs in the caller's thread; the sink's callbacks only add to a
queue.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from connectors.kafka.ports import Acknowledgement, RecordSink
from edge_agent.flight_window import FlightWindow
from edge_agent.spool.reader import SpooledRecord, SpoolReader
from edge_agent.step import Failed, Idle, Ok, StepResult
from foundation.clock import Clock
from foundation.errors import (
    BackPressureError,
    FleetLoopError,
    MisconfiguredError,
    RejectedError,
    UntrustedError,
)
from foundation.events import EventLog
from foundation.retry import Backoff
from foundation.settings import setting
from schemas.identity import Identity
from schemas.reasons import EvictReason, RejectReason

CONNECTED, WAITING, REFUSED = "connected", "waiting", "refused"
JUDGE_NS = 500_000_000
SHORTEST_WAIT_S = 0.002
"""The shortest time between two checks of what is in flight."""
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class UploaderSettings:
    """How much may be in flight, and how long without progress is too long."""

    max_in_flight_bytes: int = setting(
        8 * _MB, min=1_000, max=1_000 * _MB, help="most bytes sent, not acknowledged; fewer on a slow network"
    )
    answer_s: float = setting(
        4.0, min=0.1, max=600.0, help="answers that take longer make what may be in flight smaller"
    )
    lease_bytes: int = setting(
        2 * _MB, min=1_000, max=1_000 * _MB, help="bytes leased at once; each lease is synced"
    )
    stall_s: float = setting(
        60.0, min=0.1, max=86_400.0, help="without progress for so long, a new sink is made"
    )
    close_s: float = setting(5.0, min=0.0, max=600.0, help="how long closing a sink may take")
    backoff_first_s: float = setting(
        0.5, min=0.001, max=600.0, help="ceiling of the first pause after a failure"
    )
    backoff_max_s: float = setting(30.0, min=0.001, max=3_600.0, help="ceiling of any pause after a failure")
    sync_s: float = setting(1.0, min=0.01, max=600.0, help="how often acknowledgements are made durable")


@dataclass(frozen=True, slots=True)
class UploaderStatus:
    """Delivery in the agent's status.

    `connected`: acknowledged something since the last trouble. `state` is also `refused` (not let in:
    certificate, password or rights; a person must act) or `waiting`.
    """

    connected: bool
    state: str
    last_error: str
    in_flight: int
    in_flight_bytes: int
    bytes_uploaded: int
    resent: int
    sinks_made: int
    stalls: int
    refused: int


class Uploader:
    """Moves records from a spool to a sink of `sink_factory`, one bounded step at a time. Not thread-safe."""

    def __init__(
        self,
        reader: SpoolReader,
        sink_factory: Callable[[], RecordSink],
        settings: UploaderSettings,
        clock: Clock,
        events: EventLog,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._reader = reader
        self._sink_factory = sink_factory
        self._settings = settings
        self._clock = clock
        self._events = events
        self._backoff = Backoff(settings.backoff_first_s, settings.backoff_max_s, 2.0, rng)
        self._sink: RecordSink | None = None
        self._generation = 0  # to recognise late reports of an earlier sink
        self._sinks_made = 0
        self._done: deque[tuple[int, Identity, Acknowledgement | FleetLoopError]] = deque()
        self._in_flight: dict[Identity, tuple[int, int]] = {}  # bytes, monotonic time of the send
        self._in_flight_bytes = 0
        self._window = FlightWindow(settings.max_in_flight_bytes, settings.answer_s)
        self._answer_s = math.inf
        self._waiting: deque[SpooledRecord] = deque()
        self._not_before_ns = 0
        self._synced_ns = clock.monotonic_ns()
        self._has_unsynced = False
        self._connected = False
        self._last_error = ""
        self._stalls = 0
        self._refused = 0
        self._state = WAITING
        self._is_shut_out = False
        self._judged_ns = clock.monotonic_ns()

    def step(self) -> StepResult:
        """Do one bounded amount of work. Raises nothing that the broker, the network or the disk can cause."""
        acknowledged, failure = self._take_in()
        failure = self._watch() or failure
        now_ns = self._clock.monotonic_ns()
        sent = 0
        if now_ns >= self._not_before_ns:
            failure = self._connect() or failure
            if self._sink is not None:
                sent, refusal = self._send()
                failure = refusal or failure
        self._sync(now_ns)
        self._judge(acknowledged, failure, now_ns)
        if acknowledged:
            self._connected = True
            if not failure:
                self._backoff.reset()
                self._last_error = ""
        if failure:
            self._connected = False
            self._last_error = failure
            wait_s = max(0.0, (self._not_before_ns - self._clock.monotonic_ns()) / 1e9)
            return Failed(failure, wait_s)
        return Ok(sent, acknowledged) if sent or acknowledged else self._idle()

    def _take_in(self) -> tuple[int, str]:
        acknowledged: list[Identity] = []
        again: list[Identity] = []
        failure, poisoned = "", False
        while self._done:
            generation, identity, result = self._done.popleft()
            if generation == self._generation:
                size_bytes, sent_ns = self._in_flight.pop(identity, (0, 0))
                self._answer_s = (self._clock.monotonic_ns() - sent_ns) / 1e9
                after_s = self._answer_s if isinstance(result, Acknowledgement) else math.inf
                self._window.answered(size_bytes, after_s, self._in_flight_bytes)
                self._in_flight_bytes -= size_bytes
            if isinstance(result, Acknowledgement):
                acknowledged.append(identity)  # also a late one of an earlier sink: the broker has the record
            elif generation == self._generation:
                if isinstance(result, RejectedError):
                    poisoned = True
                    if result.reason == RejectReason.OVERSIZE:
                        self._give_up(identity, result)
                        continue
                again.append(identity)
                failure = _words(result)
                self._is_shut_out = isinstance(result, MisconfiguredError | UntrustedError)
        if acknowledged:
            self._reader.acknowledge(acknowledged)
            self._has_unsynced = True
        if again:
            self._reader.release(again)
        if failure:
            self._pause(failure)
        if poisoned:
            self._drop_sink()
        return len(acknowledged), failure

    def _give_up(self, identity: Identity, error: RejectedError) -> None:
        """Give up a record that the broker can never accept: the ledger records it, and the others continue."""
        self._refused += 1
        self._reader.give_up([identity], EvictReason.POLICY)
        self._has_unsynced = True
        self._events.emit(
            "record_refused", level="error", identity=str(identity), reason=error.reason, error=str(error)
        )

    def _watch(self) -> str:
        """Return why the sink must be replaced, "" if not: a client can be stuck for good, and only a new one helps."""
        if self._sink is None or not self._in_flight:
            return ""
        oldest_ns = next(iter(self._in_flight.values()))[1]
        since_ns = max(self._sink.last_progress_ns, oldest_ns)
        quiet_s = (self._clock.monotonic_ns() - since_ns) / 1e9
        if quiet_s < self._settings.stall_s:
            return ""
        reason = f"no progress for {quiet_s:.1f} s (bound {self._settings.stall_s} s)"
        if self._sink.last_error:
            reason += f": {self._sink.last_error}"
        self._stalls += 1
        self._window.silence()
        self._events.emit("sink_stalled", level="warning", reason=reason, in_flight=len(self._in_flight))
        self._pause(reason)
        self._drop_sink()
        return reason

    def _connect(self) -> str:
        if self._sink is not None:
            return ""
        try:
            self._sink = self._sink_factory()
        except FleetLoopError as error:
            self._is_shut_out = isinstance(error, MisconfiguredError | UntrustedError)
            reason = _words(error)
            self._pause(reason)
            return reason
        self._generation += 1
        self._sinks_made += 1
        self._events.emit("sink_made", number=self._sinks_made)
        return ""

    def _send(self) -> tuple[int, str]:
        sent = 0
        while True:
            room = self._window.bytes - self._in_flight_bytes
            if not self._waiting:
                if room < self._least_lease_bytes():
                    return sent, ""
                self._waiting.extend(self._reader.lease(min(room, self._settings.lease_bytes)))
            if not self._waiting:
                return sent, self._reader.last_error
            sink = self._sink
            if sink is None:
                return sent, ""
            while self._waiting:
                record = self._waiting[0]
                size_bytes = record.wire.size_bytes
                if self._in_flight and self._in_flight_bytes + size_bytes > self._window.bytes:
                    return sent, ""
                self._note_in_flight(record.identity, size_bytes)
                try:
                    sink.send(record.wire, self._note(self._generation, record.identity))
                except BackPressureError:
                    self._forget(record.identity, size_bytes)
                    return sent, ""
                except FleetLoopError as error:
                    self._forget(record.identity, size_bytes)
                    self._waiting.popleft()
                    if isinstance(error, RejectedError) and error.reason == RejectReason.OVERSIZE:
                        self._give_up(record.identity, error)
                        continue
                    reason = _words(error)
                    self._reader.release([record.identity])
                    self._pause(reason)
                    self._drop_sink()
                    return sent, reason
                self._waiting.popleft()
                sent += 1

    def _least_lease_bytes(self) -> int:
        """Return the free room below which nothing is leased: every lease costs an fsync, and enough is in flight meanwhile."""
        return max(1, min(self._settings.lease_bytes, self._window.bytes // 4)) if self._in_flight else 1

    def _idle(self) -> Idle:
        """Wait until a part of what is in flight may have been answered, so that a fast network is kept busy."""
        if not self._in_flight:
            return Idle()
        _, oldest_ns = next(iter(self._in_flight.values()))
        waited_s = (self._clock.monotonic_ns() - oldest_ns) / 1e9  # of a broker that fell silent, maybe
        return Idle(min(Idle().wait_s, max(SHORTEST_WAIT_S, self._answer_s / 8, waited_s / 8)))

    def _judge(self, acknowledged: int, failure: str, now_ns: int) -> None:
        """Judge whether the broker grants access; the client is asked twice per second while nothing is acknowledged."""
        state, reason = self._state, failure
        if acknowledged and not failure:
            state = CONNECTED
        elif self._is_shut_out:
            state = REFUSED
        elif self._sink is not None and self._in_flight and now_ns - self._judged_ns >= JUDGE_NS:
            self._judged_ns = now_ns
            if told := self._sink.last_error:
                state, reason = (REFUSED if self._sink.is_refused else WAITING), told
        self._is_shut_out = False
        if state != self._state:
            self._state = state
            level = "error" if state == REFUSED else "info"
            self._events.emit("delivery_state", level=level, state=state, reason=reason)

    def _note(
        self, generation: int, identity: Identity
    ) -> Callable[[Acknowledgement | FleetLoopError], None]:
        return lambda result: self._done.append((generation, identity, result))

    def _note_in_flight(self, identity: Identity, size_bytes: int) -> None:
        self._in_flight[identity] = (size_bytes, self._clock.monotonic_ns())
        self._in_flight_bytes += size_bytes

    def _forget(self, identity: Identity, size_bytes: int) -> None:
        del self._in_flight[identity]
        self._in_flight_bytes -= size_bytes

    def _drop_sink(self) -> None:
        """Close the sink within its deadline; the next one sends again what was not acknowledged."""
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                sink.close(self._settings.close_s)
            except FleetLoopError as error:
                self._events.emit("sink_close_failed", level="warning", error=str(error))
        for _, identity, result in self._done:
            if isinstance(result, Acknowledgement):
                self._in_flight.pop(identity, None)
        self._reader.release([*self._in_flight, *(record.identity for record in self._waiting)])
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._waiting.clear()
        self._generation += 1

    def _pause(self, reason: str) -> None:
        wait_s = self._backoff.next_s()
        self._not_before_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)
        if reason != self._last_error:
            self._events.emit("upload_failed", level="warning", reason=reason, wait_s=round(wait_s, 3))

    def _sync(self, now_ns: int) -> None:
        if self._has_unsynced and now_ns - self._synced_ns >= self._settings.sync_s * 1e9:
            self._has_unsynced = not self._reader.sync()
            self._synced_ns = now_ns

    def status(self) -> UploaderStatus:
        """Return the state of delivery. `bytes_uploaded` and `resent` count since the spool was made."""
        error = self._last_error or (self._sink.last_error if self._sink is not None else "")
        return UploaderStatus(
            connected=self._connected and not error,
            state=WAITING if error and self._state == CONNECTED else self._state,
            last_error=error,
            in_flight=len(self._in_flight),
            in_flight_bytes=self._in_flight_bytes,
            bytes_uploaded=self._reader.bytes_uploaded,
            resent=self._reader.resent,
            sinks_made=self._sinks_made,
            stalls=self._stalls,
            refused=self._refused,
        )

    @property
    def is_drained(self) -> bool:
        """Whether nothing is in flight and nothing is left to send."""
        return not self._in_flight and not self._waiting and not self._done and self._reader.pending == 0

    def close(self) -> None:
        """Stop the sink, process its last acknowledgements and make them durable."""
        self._take_in()
        self._drop_sink()
        self._take_in()
        self._reader.sync()


def _words(error: FleetLoopError) -> str:
    return f"{type(error).__name__}: {error}"

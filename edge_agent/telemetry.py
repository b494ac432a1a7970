"""Send telemetry, signed and small: counts are cumulative, so that losing one record loses nothing.

Counts (ledger, swaps) are since enrolment, never a difference to the previous record. Events of models are told until
they are acknowledged, and repeated rarely (`event_teller.py`). Refuses to queue: while one record waits for its
acknowledgement, no second one is made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from connectors.kafka.ports import Acknowledgement, RecordSink
from edge_agent import AGENT_VERSION
from edge_agent.event_teller import EventTeller
from edge_agent.models.status import health_of, read_model_status, read_other_roles
from edge_agent.spool.snapshot import read_ledger
from edge_agent.state_folder import StateFolder, read_status
from edge_agent.step import Failed, Idle, Ok, StepResult
from edge_agent.time_quality import is_believable
from foundation.clock import Clock, boot_id
from foundation.documents import DocumentType
from foundation.errors import CorruptError, FleetLoopError
from foundation.files import read_document, write_document
from foundation.short_text import shorten_middle
from schemas.codec import encode_telemetry
from schemas.identity import Identity, is_epoch, new_epoch
from schemas.limits import MAX_LONG
from schemas.records import Health, ModelEvent, Telemetry
from schemas.roles import SERVING
from schemas.signing import VehicleKey, sign_record
from schemas.wire import KIND_TELEMETRY, TOPICS

VALUE_BYTES = 1500
"""Size of a record's value that events fill up to; with key and signed headers it stays below 2 kB."""
ERROR_CHARACTERS = 200
"""Of the last error of a model; the whole text stays in the status of the vehicle."""
SENT_WAIT_S = 60.0
"""After this time without acknowledgement a record is given up, with its sink: the next one contains it and more."""


@dataclass(frozen=True, slots=True)
class DeliverEpoch:
    """The epoch of one run of deliver, and the one before it (empty for the first).

    `start_number` rises with every start: the fleet accepts nothing below the highest that it has received. `is_sure`
    is False where neither the file of the previous start nor the clock shows how high the number was.
    """

    epoch: str
    previous_epoch: str
    start_number: int
    is_sure: bool = True


@dataclass(frozen=True, slots=True)
class _Start:
    """What deliver-epoch.json holds of the last start; the first release wrote no number."""

    epoch: str
    start_number: int = 0


START: Final = DocumentType.first("epoch of deliver", _Start, max_bytes=64 * 1024)


def draw_epoch(path: Path, clock: Clock) -> DeliverEpoch:
    """Draw the epoch of this run; `remember_epoch` keeps it for the next.

    The number is one above that of the start before, and never below the seconds of a believable wall clock, so that a
    vehicle that lost this file goes on above its former numbers. A clock in 1970, or far ahead, counts for nothing.
    """
    previous, number = "", 0
    with suppress(OSError, CorruptError):
        before = read_document(path, START)
        if is_epoch(before.epoch):
            previous, number = before.epoch, before.start_number
    seconds = clock.now_ns() // 1_000_000_000 if is_believable(clock.now_ns()) else 0
    is_sure = bool(number or seconds)
    return DeliverEpoch(new_epoch(), previous, min(max(number + 1, seconds), MAX_LONG), is_sure)


def remember_epoch(path: Path, drawn: DeliverEpoch) -> None:
    """Keep the epoch, durably, for the next start. Raises OSError."""
    write_document(path, START, _Start(drawn.epoch, drawn.start_number))


def collect(
    state: StateFolder,
    vehicle_id: str,
    epoch: DeliverEpoch,
    seq: int,
    clock: Clock,
    other_roles: Collection[str],
) -> Telemetry:
    """Return the current telemetry, read from the state folder while other processes write there.

    Args:
        other_roles: the roles other than serving that this vehicle runs.

    Raises:
        CorruptError: the ledger or the model slots cannot be read.
        RetryLaterError: they changed faster than they could be read.
    """
    ledger = read_ledger(state.spool)
    models = read_model_status(state.root)
    perceive = read_status(state.status_path("perceive"))
    return Telemetry(
        vehicle_id=vehicle_id,
        epoch=epoch.epoch,
        previous_epoch=epoch.previous_epoch,
        seq=seq,
        telemetry_time_ns=clock.now_ns(),
        monotonic_ns=clock.monotonic_ns(),
        boot_id=boot_id(),
        agent_version=AGENT_VERSION,
        model_digest=models.digest,
        model_name=models.name,
        model_state=models.state,
        swaps=models.swaps,
        rollbacks=models.rollbacks,
        frames_seen=_number(perceive, "frames_seen"),
        ledger=ledger.counts,
        health=health_of(perceive.get("health")),
        model_events=models.events,
        bytes_captured=ledger.bytes_captured,
        bytes_uploaded=ledger.bytes_uploaded,
        start_number=epoch.start_number,
        other_roles=read_other_roles(state.root, _object(perceive, "other_roles"), other_roles),
    )


class TelemetryJob:
    """Sends one record per step, over its own sink. Its counts are for the status."""

    def __init__(
        self,
        state: StateFolder,
        vehicle_id: str,
        key: VehicleKey,
        sink_factory: Callable[[], RecordSink],
        clock: Clock,
        *,
        other_roles: Collection[str],
    ) -> None:
        self._state = state
        self._other_roles = other_roles
        self._vehicle_id = vehicle_id
        self._key = key
        self._sink_factory = sink_factory
        self._clock = clock
        self._epoch = draw_epoch(state.deliver_epochs_path, clock)
        self._is_remembered = False
        self._teller = EventTeller()
        self._sink: RecordSink | None = None
        self._waiting: threading.Event | None = None
        self._answer: FleetLoopError | None = None
        self._sent_ns = 0
        self._seq = 0
        self.sent = 0
        self.acknowledged = 0
        self.last_error = ""
        self._remember()

    def step(self) -> StepResult:
        """Send a record, unless the previous one still waits for its acknowledgement."""
        if not self._is_free():
            return Idle()
        if not self._epoch.is_sure and is_believable(self._clock.now_ns()):
            self._epoch, self._seq, self._is_remembered = self._drawn_again(), 0, False
        if not self._is_remembered:
            self._remember()
        try:
            record = collect(
                self._state, self._vehicle_id, self._epoch, self._seq, self._clock, self._other_roles
            )
            identity = Identity(self._vehicle_id, self._epoch.epoch, self._seq)
            wire = sign_record(TOPICS.telemetry, KIND_TELEMETRY, identity, self._encoded(record), self._key)
            if self._sink is None:
                self._sink = self._sink_factory()
            waiting = threading.Event()
            self._sent_ns = self._clock.monotonic_ns()
            self._waiting = waiting
            self._sink.send(wire, lambda answer: self._on_done(waiting, answer))
        except FleetLoopError as error:
            self._waiting = None
            return self._fail(f"{type(error).__name__}: {error}")
        self._seq += 1
        self.sent += 1
        return Ok(1, 0)

    def _encoded(self, whole: Telemetry) -> bytes:
        """Return the bytes of a record with as many of its events as there is room for."""
        events = {role.role: role.model_events for role in whole.roles()}
        bare = _with_events(whole, dict.fromkeys(events, ()))
        room_bytes = VALUE_BYTES - len(encode_telemetry(bare))
        chosen = self._teller.choose(events, max(0, room_bytes), self._clock.monotonic_ns())
        return encode_telemetry(_with_events(bare, chosen))

    def _drawn_again(self) -> DeliverEpoch:
        """Draw a reliable start number once the clock is believable: records under the doubtful one may be ignored."""
        drawn = draw_epoch(self._state.deliver_epochs_path, self._clock)
        return replace(drawn, previous_epoch=self._epoch.epoch)

    def _remember(self) -> None:
        """Store the start number; a disk error stops nothing: it is reported, and retried with the next record."""
        try:
            remember_epoch(self._state.deliver_epochs_path, self._epoch)
        except OSError as error:
            self.last_error = f"the number of this start is not on disk: {error}"
        else:
            self._is_remembered = True

    def finish(self, deadline_s: float) -> None:
        """Send a last record, wait for it within the deadline, and close. Without time, none is sent."""
        end_ns = self._clock.monotonic_ns() + round(deadline_s * 1e9)
        self._wait_for_answer(end_ns)
        if deadline_s > 0 and isinstance(self.step(), Ok):
            self._wait_for_answer(end_ns)
        self._drop_sink()

    def _wait_for_answer(self, end_ns: int) -> None:
        if self._waiting is not None:
            self._clock.wait(self._waiting, max(0.0, (end_ns - self._clock.monotonic_ns()) / 1e9))

    def _on_done(self, waiting: threading.Event, answer: Acknowledgement | FleetLoopError) -> None:
        if isinstance(answer, Acknowledgement):
            self.acknowledged += 1
        else:
            self._answer = answer
        waiting.set()

    def _is_free(self) -> bool:
        if self._waiting is None:
            return True
        if self._waiting.is_set():
            self._waiting = None
            if self._answer is not None:
                self._fail(f"{type(self._answer).__name__}: {self._answer}")
                self._answer = None
            else:
                self.last_error = ""
                self._teller.acknowledged(self._clock.monotonic_ns())
            return True
        if self._clock.monotonic_ns() - self._sent_ns < SENT_WAIT_S * 1e9:
            return False
        self._fail(f"no acknowledgement for {SENT_WAIT_S} s")
        return True

    def _fail(self, reason: str) -> Failed:
        self.last_error = reason
        self._drop_sink()
        return Failed(reason, 0.0)

    def _drop_sink(self) -> None:
        sink, self._sink, self._waiting = self._sink, None, None
        if sink is not None:
            sink.close(1.0)
            self._answer = None


def _with_events(record: Telemetry, events: Mapping[str, tuple[ModelEvent, ...]]) -> Telemetry:
    """Return the record with these events by role, and last errors that are not longer than `ERROR_CHARACTERS`."""
    others = tuple(
        replace(each, model_events=events[each.role], health=_short(each.health))
        for each in record.other_roles
    )
    return replace(record, model_events=events[SERVING], health=_short(record.health), other_roles=others)


def _short(health: Health) -> Health:
    return replace(health, last_error=shorten_middle(health.last_error, ERROR_CHARACTERS))


def _object(document: dict[str, object], key: str) -> dict[str, object]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _number(document: dict[str, object], key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0

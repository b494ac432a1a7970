"""Notify the fleet through the broker of a new release or plan: best effort, after it is published and signed.

Nothing that fails here is an error: every vehicle also checks by itself at its own interval.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass

from connectors.kafka.ports import Acknowledgement, RecordSink
from foundation.clock import Clock, SystemClock
from foundation.errors import FleetLoopError
from schemas.notices import notice_record
from schemas.records import Notice
from workspace.layout import Workspace

CLOSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Notified:
    """Whether the broker accepted the notice; if not, why. No problem and not sent: notices are switched off."""

    is_sent: bool
    problem: str = ""


def send_notice(sink: RecordSink, notice: Notice, clock: Clock, wait_s: float) -> str:
    """Send one notice and wait up to `wait_s` for its acknowledgement. Returns the problem, or ""."""
    done = threading.Event()
    answers: list[Acknowledgement | FleetLoopError] = []

    def on_done(answer: Acknowledgement | FleetLoopError) -> None:
        answers.append(answer)
        done.set()

    try:
        sink.send(notice_record(notice), on_done)
    except FleetLoopError as error:
        return str(error)
    if not clock.wait(done, wait_s):
        return sink.last_error or f"no acknowledgement within {wait_s:g} s"
    return "" if isinstance(answers[0], Acknowledgement) else str(answers[0])


def tell_fleet(place: Workspace, kind: str, detail: str, *, bootstrap: str = "") -> Notified:
    """Send "check now" to every vehicle. Never raises what a broker can cause.

    Args:
        kind: release, or rollout.
        detail: text for a person who reads the topic.
        bootstrap: HOST:PORT of the broker, instead of the workspace's.
    """
    from connectors.kafka.sink import KafkaSink

    wait_s = place.settings.notice_wait_s
    if wait_s <= 0:
        return Notified(False)
    clock = SystemClock()
    notice = Notice(secrets.token_hex(8), clock.now_ns(), kind=kind, detail=detail[:200])
    sink: RecordSink | None = None
    try:
        sink = KafkaSink(place.kafka(bootstrap, client_id="fleetloop-notices"), clock)
        problem = send_notice(sink, notice, clock, wait_s)
    except FleetLoopError as error:
        problem = str(error)
    finally:
        if sink is not None:
            sink.close(CLOSE_S)
    return Notified(not problem, problem)

"""On a slow network little is in flight, so that answers come before requests time out; on a fast one much."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from connectors.kafka.ports import OnDone
from edge_agent.flight_window import LEAST_BYTES, FlightWindow
from edge_agent.uploader import Uploader, UploaderSettings
from foundation.clock import ManualClock
from foundation.errors import RetryLaterError
from schemas.wire import WireRecord
from tests.edge_agent.spool.spool_rig import Spool, faults
from tests.fakes.kafka import FakeBroker, FakeSink

REQUEST_TIMEOUT_S = 15.0
STEP_S = 0.25


class SlowLink(FakeSink):
    """Carries so many bytes a second, and loses all that waited when one record's answer takes too long."""

    def __init__(self, broker: FakeBroker, clock: ManualClock, bytes_per_s: float) -> None:
        super().__init__(broker, clock=clock)
        self.is_held = True
        self.bytes_per_s = bytes_per_s
        self.timeouts = 0
        self._on_the_way: deque[tuple[WireRecord, OnDone, int]] = deque()
        self._credit_bytes = 0.0

    def send(self, record: WireRecord, on_done: OnDone) -> None:
        self._on_the_way.append((record, on_done, self._clock.monotonic_ns()))

    def carry(self, seconds: float) -> None:
        self._credit_bytes += self.bytes_per_s * seconds
        while self._on_the_way and self._credit_bytes >= self._on_the_way[0][0].size_bytes:
            record, on_done, _ = self._on_the_way.popleft()
            self._credit_bytes -= record.size_bytes
            super().send(record, on_done)
            self.pump()
        if not self._on_the_way:
            self._credit_bytes = 0.0
        elif (self._clock.monotonic_ns() - self._on_the_way[0][2]) / 1e9 > REQUEST_TIMEOUT_S:
            self.timeouts += 1
            lost, self._on_the_way = self._on_the_way, deque()
            for _, on_done, _ in lost:
                on_done(RetryLaterError("request timed out"))


@pytest.mark.parametrize("bytes_per_s", [5_000, 20_000, 200_000])
def test_a_network_slower_than_the_bound_carries_records_all_the_time(
    tmp_path: Path, bytes_per_s: int
) -> None:
    with faults(is_syncing=False):
        spool = Spool(tmp_path / "spool")
        link = SlowLink(FakeBroker(clock=spool.clock), spool.clock, bytes_per_s)
        settings = UploaderSettings(max_in_flight_bytes=8_000_000, lease_bytes=250_000)
        uploader = Uploader(spool.reader, lambda: link, settings, spool.clock, spool.events)
        spool.put(300, size_bytes=9_000)
        size_bytes = 9_500
        for _ in range(int(60 / STEP_S)):
            uploader.step()
            spool.clock.advance(STEP_S)
            link.carry(STEP_S)
        uploader.step()
        carried = spool.ledger().counts.delivered
        assert carried >= min(300, 0.5 * 60 * bytes_per_s / size_bytes)
        assert link.timeouts <= 3, "a few, until the window is as small as the network is slow"
        spool.close()


def test_a_window_that_is_not_used_does_not_grow_and_silence_makes_it_least() -> None:
    window = FlightWindow(8_000_000, 4.0)
    begin_bytes = window.bytes
    window.answered(10_000, 0.1, in_flight_bytes=10_000)
    assert window.bytes == begin_bytes
    for _ in range(2_000):
        window.answered(10_000, 0.1, in_flight_bytes=window.bytes)
    assert window.bytes == 8_000_000
    window.answered(1_000_000, 5.0, in_flight_bytes=window.bytes)
    assert window.bytes == 7_500_000
    window.silence()
    assert window.bytes == LEAST_BYTES
    for _ in range(2_000):
        window.answered(1_000_000, 5.0, in_flight_bytes=window.bytes)
    assert window.bytes == LEAST_BYTES


def test_a_bound_below_the_least_is_kept() -> None:
    window = FlightWindow(1_000, 4.0)
    window.answered(1_000, 0.1, in_flight_bytes=1_000)
    window.silence()
    assert window.bytes == 1_000

"""Time moves only as told in tests; trying again is bounded, jittered and only for the errors named."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.clock import Clock, ManualClock, SystemClock, boot_id
from foundation.errors import (
    BackPressureError,
    DeadlineError,
    FleetLoopError,
    MisconfiguredError,
    OffsetsLostError,
    RejectedError,
    RetryLaterError,
)
from foundation.retry import Backoff, Deadline


def test_a_wall_clock_that_jumps_moves_no_monotonic_time() -> None:
    clock = ManualClock(now_ns=100, monotonic_ns=7)
    clock.jump_wall(-10.0)
    assert (clock.now_ns(), clock.monotonic_ns()) == (100 - 10_000_000_000, 7)
    clock.advance(1.5)
    assert clock.monotonic_ns() == 7 + 1_500_000_000


def test_waiting_on_a_manual_clock_passes_time_unless_the_event_is_set() -> None:
    clock, event = ManualClock(monotonic_ns=0), threading.Event()
    assert not clock.wait(event, 3.0)
    assert clock.monotonic_ns() == 3_000_000_000
    event.set()
    assert clock.wait(event, 3.0)
    assert clock.monotonic_ns() == 3_000_000_000


def test_the_system_clock_is_a_clock_and_the_boot_has_one_name() -> None:
    clock: Clock = SystemClock()
    first = clock.monotonic_ns()
    clock.sleep(-1)
    assert clock.monotonic_ns() >= first
    assert boot_id() == boot_id()
    assert len(boot_id()) == 32


@given(st.integers(), st.floats(0.001, 10), st.floats(1, 5), st.integers(1, 30))
def test_delays_are_jittered_below_a_rising_and_bounded_ceiling(
    seed: int, first_s: float, multiplier: float, count: int
) -> None:
    backoff = Backoff(first_s, 20.0, multiplier, random.Random(seed))
    for attempt in range(count):
        assert 0 <= backoff.next_s() <= min(20.0, first_s * multiplier**attempt) * (1 + 1e-9)
    backoff.reset()
    assert backoff.next_s() <= first_s


def test_delays_are_spread_and_not_all_alike() -> None:
    delays = {round(Backoff(1.0, 1.0, 1.0, random.Random(seed)).next_s(), 3) for seed in range(50)}
    assert len(delays) > 40


@pytest.mark.parametrize("bad", [{"first_s": 0}, {"max_s": 0.01}, {"multiplier": 0.5}])
def test_a_backoff_out_of_bounds_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(MisconfiguredError, match=next(iter(bad))):
        Backoff(**bad)


def test_a_deadline_counts_down_in_monotonic_time_and_names_its_bound() -> None:
    clock = ManualClock()
    deadline = Deadline(clock, 5)
    clock.jump_wall(1e9)
    deadline.check()
    clock.advance(4)
    assert deadline.remaining_s() == pytest.approx(1)
    clock.advance(4)
    assert deadline.remaining_s() == 0
    with pytest.raises(DeadlineError, match=r"the download took longer than 5 s"):
        deadline.check("the download")


def test_each_error_says_what_its_caller_should_do() -> None:
    pressure = BackPressureError(11, 10)
    lost = OffsetsLostError("t", 3, 5, 9)
    assert isinstance(pressure, RetryLaterError)
    assert "11" in str(pressure)
    assert "10" in str(pressure)
    assert isinstance(lost, RejectedError)
    assert "[5, 9)" in str(lost)
    assert lost.reason == "offsets_lost"
    families = [kind for kind in FleetLoopError.__subclasses__() if kind.__module__ == "foundation.errors"]
    codes = [kind.exit_code for kind in families]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes

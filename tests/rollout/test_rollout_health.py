"""How many failing vehicles halt a rollout: any of a small one, and no single vehicle a large one."""

from __future__ import annotations

import pytest

from rollout.health import is_tolerable
from schemas.documents import COMPLETE, HALTED, HealthGate, Release
from schemas.reasons import RolloutOutcome
from tests.rollout.rollout_lab import Lab, fleet

GATE = HealthGate(min_reports=1, report_within_s=3600.0, settle_within_s=7200.0)
LARGE = 1000
WORST = {"ends": {"r2": ("refused", "I say so")}}


def large(lab: Lab, gate: HealthGate = GATE) -> Release:
    release = lab.release()
    lab.service.start("r2", "rest", fleet(LARGE), health=gate)
    return release


def well(lab: Lab, release: Release, vehicles: list[str]) -> None:
    for vehicle in vehicles:
        lab.says(vehicle, release)


def test_one_vehicle_that_lies_halts_no_large_rollout_whenever_it_speaks(lab: Lab) -> None:
    release = large(lab)
    lab.says("car-7", None, **WORST)
    first = lab.service.advance(lab.reports)
    assert first.did == "waited", "it is the first to speak"
    well(lab, release, [name for name in fleet(LARGE) if name != "car-7"])
    done = lab.service.advance(lab.reports)
    assert done.plan.state == COMPLETE
    state = lab.service.state_of(done.plan)
    assert state is not None
    assert [(each.vehicle_id, each.outcome, each.reason) for each in state.left_out] == [
        ("car-7", RolloutOutcome.REFUSED, "I say so")
    ]


def test_one_vehicle_that_reports_and_never_swaps_delays_a_large_rollout_until_its_deadline_only(
    lab: Lab,
) -> None:
    release = large(lab)
    others = [name for name in fleet(LARGE) if name != "car-7"]
    for _ in range(4):
        lab.says("car-7", None)
        well(lab, release, others)
        assert lab.service.advance(lab.reports).did == "waited"
        lab.clock.advance(1800.0)
    lab.clock.advance(1.0)
    lab.says("car-7", None)
    well(lab, release, others)
    done = lab.service.advance(lab.reports)
    assert (done.did, done.plan.state) == ("completed", COMPLETE)
    assert done.wave is not None
    (late,) = done.wave.breaches
    assert (late.vehicle_id, late.outcome) == ("car-7", RolloutOutcome.LATE)
    assert "still serves v1" in late.reason
    assert "7200" in late.reason


def test_a_canary_that_reports_and_never_swaps_fails_its_wave_by_a_deadline(lab: Lab) -> None:
    lab.release()
    lab.service.start("r2", "1,9", fleet(10), health=GATE)
    (canary,) = lab.members(1)
    for _ in range(5):
        lab.says(canary, None)
        last = lab.service.advance(lab.reports)
        lab.clock.advance(1801.0)
    assert (last.did, last.plan.state) == ("halted", HALTED)
    assert "late" in last.reason


@pytest.mark.parametrize("count", [1, 2, 10, 50, 200])
def test_a_small_rollout_halts_at_the_first_vehicle_that_fails(lab: Lab, count: int) -> None:
    release = lab.release()
    lab.service.start("r2", "rest", fleet(count), health=GATE)
    well(lab, release, fleet(count)[1:])
    lab.says("car-0", None, **WORST)
    assert lab.service.advance(lab.reports).plan.state == HALTED


def test_a_release_that_fails_everywhere_halts_a_large_rollout_at_its_first_vehicles(lab: Lab) -> None:
    large(lab)
    for failing in ("car-1", "car-2"):
        lab.says(failing, None, **WORST)
    done = lab.service.advance(lab.reports)
    assert done.plan.state == HALTED
    assert "1 more of 1000 vehicles" in done.reason


def test_a_release_that_fails_on_a_share_that_is_not_tolerated_halts_a_large_rollout(lab: Lab) -> None:
    release = large(lab)
    well(lab, release, fleet(LARGE)[30:])
    for failing in fleet(LARGE)[:30]:
        lab.says(failing, None, **WORST)
    assert lab.service.advance(lab.reports).plan.state == HALTED


def test_without_tolerance_one_vehicle_halts_however_large_the_rollout_is(lab: Lab) -> None:
    release = large(lab, HealthGate(max_failing_ratio=0.0))
    well(lab, release, fleet(LARGE)[1:])
    lab.says("car-0", None, **WORST)
    assert lab.service.advance(lab.reports).plan.state == HALTED


def test_who_was_left_out_before_a_wave_opened_is_kept_once(lab: Lab) -> None:
    release = lab.release()
    lab.service.start("r2", "600,400", fleet(LARGE), health=GATE)
    first = list(lab.members(1))
    lab.says(first[0], None, **WORST)
    well(lab, release, first[1:])
    assert lab.service.advance(lab.reports).did == "opened"
    lab.clock.advance(1.0)
    well(lab, release, list(lab.members(2)))
    done = lab.service.advance(lab.reports)
    assert done.did == "completed"
    state = lab.service.state_of(done.plan)
    assert state is not None
    assert [each.vehicle_id for each in state.left_out] == [first[0]]


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    """The upper bound for 0 of 3 at 95 % is 1 - 0.05**(1/3); for 1 of n it solves (1-p)**n + n p (1-p)**(n-1) = 0.05."""
    assert [is_tolerable(1, count, 0.02) for count in (235, 236)] == [False, True]
    assert [is_tolerable(count, 1000, 0.02) for count in (12, 13)] == [True, False]
    assert is_tolerable(0, 1, 0.0)
    assert not is_tolerable(1, 100_000, 0.0)
    assert is_tolerable(5, 5, 1.0) is False
    count, ratio = 236, 0.02
    exact = (1 - ratio) ** count + count * ratio * (1 - ratio) ** (count - 1)
    assert exact <= 0.05 < (1 - ratio) ** 235 + 235 * ratio * (1 - ratio) ** 234

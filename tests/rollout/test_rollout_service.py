"""No wave opens before the one before it is known to be healthy; one breach halts; silence is not health."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edge_agent.models.desired import desired
from edge_agent.models.vehicle import Vehicle
from foundation.errors import CorruptError, MisconfiguredError, RejectedError, RetryLaterError
from rollout.health import VehicleReport
from rollout.service import watch
from schemas.documents import COMPLETE, HALTED, RUNNING, HealthGate, Release
from schemas.reasons import ModelState, RolloutOutcome
from tests.rollout.rollout_lab import Lab, fleet

GATE = HealthGate(min_reports=2, max_error_ratio=0.1, max_nan_count=0, report_within_s=600.0)


def started(lab: Lab, sizes: str = "1,2", count: int = 3) -> None:
    lab.release()
    lab.service.start("r2", sizes, fleet(count), health=GATE)


def test_healthy_waves_open_one_after_another_and_complete(lab: Lab) -> None:
    release = lab.release()
    lab.service.start("r2", "1,2", fleet(3), health=GATE)
    assert lab.service.advance(lab.reports).did == "waited"
    lab.says(lab.members(1)[0], release)
    opened = lab.service.advance(lab.reports)
    assert (opened.did, len(opened.plan.waves)) == ("opened", 2)
    assert lab.service.advance(lab.reports).did == "waited"
    for vehicle in lab.members(2):
        lab.says(vehicle, release)
    done = lab.service.advance(lab.reports)
    assert (done.did, done.plan.state) == ("completed", COMPLETE)
    assert lab.service.advance(lab.reports).did == "nothing"


def test_one_evaluation_opens_one_wave(lab: Lab) -> None:
    release = lab.release()
    lab.service.start("r2", "1,2,3", fleet(6), health=GATE)
    for vehicle in fleet(6):
        lab.says(vehicle, release)
    for opened in (2, 3):
        plan = lab.service.advance(lab.reports).plan
        assert [wave.number for wave in plan.waves] == list(range(1, opened + 1))
        assert sum(plan.wave_of(name) is not None for name in fleet(6)) == (3 if opened == 2 else 6)
        lab.clock.advance(1)
        for vehicle in fleet(6):
            lab.says(vehicle, release)


def test_a_completed_rollout_over_the_whole_fleet_is_for_later_vehicles_too(lab: Lab) -> None:
    release = lab.release()
    lab.service.start("r2", "rest", fleet(3), health=GATE)
    assert lab.service.hold_out("late-one")
    assert lab.service.current().wave_of("late-one") is None
    for vehicle in fleet(3):
        lab.says(vehicle, release)
    plan = lab.service.advance(lab.reports).plan
    assert plan.state == COMPLETE
    assert plan.wave_of("late-one") == 1


def test_a_completed_rollout_over_a_part_stays_with_that_part(lab: Lab) -> None:
    release = lab.release()
    lab.service.start("r2", "1", fleet(3), health=GATE)
    (first,) = lab.members(1)
    lab.says(first, release)
    plan = lab.service.advance(lab.reports).plan
    assert plan.state == COMPLETE
    assert [name for name in fleet(3) if plan.wave_of(name)] == [first]


def test_a_vehicle_that_enrols_while_a_rollout_runs_is_held_out_of_it(lab: Lab) -> None:
    """However its position falls: the wave was cut without it and stays exact."""
    started(lab, "2,1")
    for number in range(12):
        lab.service.hold_out(f"late-{number}")
    plan = lab.service.current()
    assert not any(plan.wave_of(f"late-{number}") for number in range(12))
    release = lab.service.release_of(plan)
    for vehicle in lab.members(1):
        lab.says(vehicle, release)
    plan = lab.service.advance(lab.reports).plan
    assert len(plan.waves) == 2
    assert not any(plan.wave_of(f"late-{number}") for number in range(12))


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"ends": {"r2": ("rolled_back", "not_finite")}}, RolloutOutcome.ROLLED_BACK),
        ({"ends": {"r2": ("refused", "too_slow")}}, RolloutOutcome.REFUSED),
        ({"not_finite": 1}, RolloutOutcome.UNHEALTHY),
        ({"errors": 11}, RolloutOutcome.UNHEALTHY),
    ],
)
def test_a_canary_that_breaches_halts_the_rollout(
    lab: Lab, fields: dict[str, object], outcome: RolloutOutcome
) -> None:
    release = lab.release()
    lab.service.start("r2", "2,8", fleet(10), health=GATE)
    good, bad = lab.members(1)
    lab.says(good, release)
    lab.says(bad, release, **fields)
    done = lab.service.advance(lab.reports)
    assert (done.did, done.plan.state, len(done.plan.waves)) == ("halted", HALTED, 1)
    assert done.wave is not None
    assert [(each.vehicle_id, each.outcome) for each in done.wave.breaches] == [(bad, outcome)]
    state = lab.service.state_of(done.plan)
    assert state is not None
    assert bad in state.halt_reason


@pytest.mark.parametrize(
    "fields",
    [
        {"model_state": ModelState.TRIAL},
        {"reports_on_model": 1},
        {"errors": 10, "reports_on_model": 1},
    ],
)
def test_a_vehicle_that_is_not_yet_known_to_be_healthy_is_waited_for(
    lab: Lab, fields: dict[str, object]
) -> None:
    started(lab)
    lab.says(lab.members(1)[0], lab.service.release_of(lab.service.current()), **fields)
    assert lab.service.advance(lab.reports).did == "waited"


def test_a_vehicle_that_serves_another_model_does_not_let_the_wave_pass(lab: Lab) -> None:
    started(lab)
    lab.says(lab.members(1)[0], None)
    assert lab.service.advance(lab.reports).did == "waited"


def test_silence_counts_against_the_wave(lab: Lab) -> None:
    started(lab)
    lab.clock.advance(599)
    assert lab.service.advance(lab.reports).did == "waited"
    lab.clock.advance(2)
    done = lab.service.advance(lab.reports)
    assert (done.did, done.plan.state) == ("halted", HALTED)
    assert done.wave is not None
    assert done.wave.breaches[0].outcome is RolloutOutcome.SILENT


def test_a_report_from_before_the_wave_is_no_report(lab: Lab) -> None:
    release = lab.release()
    for vehicle in fleet(3):
        lab.says(vehicle, release)
    lab.clock.advance(1)
    lab.service.start("r2", "1,2", fleet(3), health=GATE)
    assert lab.service.advance(lab.reports).did == "waited"
    lab.clock.advance(601)
    assert lab.service.advance(lab.reports).did == "halted"


def test_a_vehicle_that_was_healthy_and_fell_silent_halts_the_next_wave(lab: Lab) -> None:
    started(lab)
    release = lab.service.release_of(lab.service.current())
    lab.says(lab.members(1)[0], release)
    lab.service.advance(lab.reports)
    lab.clock.advance(601)
    for vehicle in lab.members(2):
        lab.says(vehicle, release)
    assert lab.service.advance(lab.reports).did == "halted"


def test_a_breach_in_an_earlier_wave_halts_a_later_one(lab: Lab) -> None:
    started(lab)
    release = lab.service.release_of(lab.service.current())
    (canary,) = lab.members(1)
    lab.says(canary, release)
    lab.service.advance(lab.reports)
    lab.says(canary, None, ends={"r2": ("rolled_back", "not_finite")})
    for vehicle in lab.members(2):
        lab.says(vehicle, release)
    assert lab.service.advance(lab.reports).did == "halted"


def test_only_one_rollout_runs_at_a_time(lab: Lab) -> None:
    started(lab)
    lab.release("r3", 3)
    with pytest.raises(RejectedError, match=r"r2\.1 is running"):
        lab.service.start("r3", "1", fleet(3))
    lab.service.halt("by hand")
    plan = lab.service.start("r3", "1", fleet(3))
    assert (plan.state, plan.previous_release_id) == (RUNNING, None)


def test_halting_stands_even_when_another_process_is_about_to_open_a_wave(lab: Lab) -> None:
    started(lab)
    running = lab.service.current()
    lab.service.halt("by hand")
    assert lab.again()._publish(running, running).state == HALTED
    assert lab.service.current().state == HALTED


def test_a_release_that_does_not_exist_is_refused_by_name(lab: Lab) -> None:
    lab.release()
    with pytest.raises(MisconfiguredError, match="there is no release 'r9'; known: r2"):
        lab.service.start("r9", "1", fleet(3))
    with pytest.raises(MisconfiguredError, match="there is no rollout"):
        lab.service.advance({})


class KilledError(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("step", ["targets", "role", "snapshot", "timestamp"])
def test_a_crash_at_any_step_of_an_advance_opens_no_wave_twice_or_early(lab: Lab, step: str) -> None:
    def kill(at: str) -> None:
        if at == step:
            raise KilledError

    started(lab)
    release = lab.service.release_of(lab.service.current())
    lab.says(lab.members(1)[0], release)
    with pytest.raises(KilledError):
        lab.again(on_step=kill).advance(lab.reports)
    is_open = len(lab.service.current().waves) == 2
    assert is_open == (step == "timestamp")
    lab.clock.advance(10)
    lab.says(lab.members(1)[0], release)
    done = lab.again().advance(lab.reports)
    assert done.did == ("waited" if is_open else "opened")
    assert [wave.exact_count for wave in done.plan.waves] == [1, 2]
    state = lab.service.state_of(done.plan)
    assert state is not None
    assert len(state.opened_ns) == 2


@pytest.mark.parametrize("step", ["targets", "role", "snapshot", "timestamp"])
def test_a_crash_at_any_step_of_a_start_leaves_one_rollout_or_none(lab: Lab, step: str) -> None:
    def kill(at: str) -> None:
        if at == step:
            raise KilledError

    lab.release()
    with pytest.raises(KilledError):
        lab.again(on_step=kill).start("r2", "1,2", fleet(3), health=GATE)
    if step == "timestamp":
        assert lab.service.advance(lab.reports).did == "waited"
    else:
        assert lab.service.plans() == []
        assert lab.service.start("r2", "1,2", fleet(3), health=GATE).plan_id == "r2.1"


def test_two_services_at_once_one_waits_or_is_refused_and_nothing_is_torn(lab: Lab) -> None:
    started(lab)
    with lab.repository.lock(), pytest.raises(RetryLaterError, match="held by process"):
        lab.again().halt("me too")
    assert lab.service.current().state == RUNNING


def test_watching_decides_nothing_while_the_fleet_cannot_be_heard(lab: Lab) -> None:
    started(lab)

    def deaf() -> dict[str, object]:
        raise RetryLaterError("no broker")

    done = watch(lab.service, deaf, lab.clock, timeout_s=5000, every_s=500)  # type: ignore[arg-type]
    assert (done.did, done.plan.state) == ("nothing", RUNNING)
    assert "no broker" in done.reason


def test_watching_ends_when_the_rollout_does(lab: Lab) -> None:
    release = lab.release()
    lab.service.start("r2", "1,2", fleet(3), health=GATE)

    def listen() -> dict[str, object]:
        plan = lab.service.current()
        for vehicle in fleet(3):
            lab.says(vehicle, release if plan.wave_of(vehicle) else None)
        return lab.reports  # type: ignore[return-value]

    done = watch(lab.service, listen, lab.clock, timeout_s=60, every_s=1)  # type: ignore[arg-type]
    assert done.plan.state == COMPLETE


def test_two_roles_of_the_same_vehicles_roll_at_once_and_neither_judges_the_other(lab: Lab) -> None:
    serving, shadow = lab.release("r2"), lab.release("s1", 3, "shadow")
    lab.service.start("r2", "1,rest", fleet(3))
    lab.service.start("s1", "3", fleet(3))
    assert [plan.role for plan in lab.service.plans()] == ["serving", "shadow"]
    names = fleet(3)
    breached = {name: replace(_said(lab, name, shadow), not_finite=1) for name in names}
    healthy = {name: _said(lab, name, serving) for name in names}
    assert lab.service.advance(breached, "shadow").did == "halted"
    assert lab.service.advance(healthy).did == "opened"
    assert lab.service.current().state == "running"
    assert lab.service.current("shadow").state == "halted"
    vehicle = Vehicle("car-0", "0" * 16, 0)
    assert desired(lab.service.plans(), vehicle).withdrawn == frozenset()
    assert desired(lab.service.plans(), vehicle, "shadow").withdrawn == {"s1"}


def test_a_rollout_whose_state_cannot_be_read_is_told_and_halted_while_another_goes_on(lab: Lab) -> None:
    lab.release("r2")
    shadow = lab.release("s1", 3, "shadow")
    lab.service.start("r2", "1,rest", fleet(3))
    lab.service.start("s1", "1,2", fleet(3))
    path = lab.folder / "rollouts" / "state.json"
    document = json.loads(path.read_text())
    document["plans"]["r2.1"] |= {"must_understand": ["pace"], "pace": "slow"}
    path.write_text(json.dumps(document))
    service = lab.again()
    names = {name: _said(lab, name, shadow) for name in fleet(3)}
    assert service.advance(names, "shadow").did == "opened"
    with pytest.raises(CorruptError, match=r"state\.json: plans\.r2\.1\.pace is 'slow'"):
        service.advance(lab.reports)
    lab.release("r3", 4)
    with pytest.raises(CorruptError, match=r"r2\.1"):
        service.start("r3", "rest", fleet(3))
    assert service.halt("it cannot be read").state == "halted"
    assert service.start("r3", "rest", fleet(3)).state == "running"
    assert json.loads(path.read_text())["plans"]["r2.1"]["pace"] == "slow", "and it stays in the file"


def test_a_rollout_that_touches_the_same_role_of_the_same_vehicle_is_refused_by_name(lab: Lab) -> None:
    lab.release("r2")
    lab.release("r3", 3)
    tags = {"car-0": ("east",), "car-1": ("west",), "car-2": ("east", "west")}
    lab.service.start("r2", "rest", fleet(3), tags_of=tags, tags=("east",))
    with pytest.raises(RejectedError, match=r"rollout r2\.1 is running in the role serving.*car-2") as caught:
        lab.service.start("r3", "rest", fleet(3), tags_of=tags, tags=("west",))
    assert caught.value.reason == "rollout_running"
    apart = lab.service.start("r3", "rest", fleet(3), tags_of=tags, tags=("west",), exclude=("car-2",))
    assert [plan.state for plan in lab.service.plans()] == ["running", "running"]
    assert lab.service.current("serving", apart.plan_id).release_id == "r3"
    plans = lab.service.plans()
    wanted = {name: desired(plans, Vehicle(name, "0" * 16, 0, tags[name])).release_id for name in fleet(3)}
    assert wanted == {"car-0": "r2", "car-1": "r3", "car-2": "r2"}


def test_vehicles_that_a_running_rollout_will_take_in_when_it_completes_are_in_no_other(lab: Lab) -> None:
    """They are held out while it runs; its completion would give them its model under the other's waves."""
    release = lab.release("r2")
    lab.release("r3", 3)
    lab.service.start("r2", "rest", fleet(2), health=GATE)
    late = ["late-a", "late-b"]
    for name in late:
        lab.service.hold_out(name)
    with pytest.raises(RejectedError, match=r"r2\.1 is running.* covers 2 of these vehicles.*late-a"):
        lab.service.start("r3", "1,1", [*fleet(2), *late], exclude=fleet(2))
    for name in fleet(2):
        lab.says(name, release)
    assert lab.service.advance(lab.reports).did == "completed"
    plan = lab.service.start("r3", "1,1", [*fleet(2), *late], exclude=fleet(2))
    assert sum(plan.wave_of(name) is not None for name in late) == 1


def test_vehicles_that_a_running_rollout_never_takes_in_may_be_in_another(lab: Lab) -> None:
    release = lab.release("r2")
    lab.release("r3", 3)
    lab.service.start("r2", "1", fleet(2), health=GATE)
    late = ["late-a", "late-b"]
    for name in late:
        lab.service.hold_out(name)
    (first,) = lab.members(1)
    apart = lab.service.start("r3", "1,1", [*fleet(2), *late], exclude=fleet(2))
    lab.says(first, release)
    done = lab.service.advance(lab.reports, plan_id="r2.1")
    assert (done.did, [done.plan.wave_of(name) for name in late]) == ("completed", [None, None])
    assert lab.service.current().plan_id == apart.plan_id


def test_of_several_running_rollouts_of_a_role_one_must_be_named(lab: Lab) -> None:
    lab.release("r2")
    lab.release("r3", 3)
    lab.service.start("r2", "rest", fleet(2), exclude=["car-1"])
    lab.service.start("r3", "rest", fleet(2), exclude=["car-0"])
    several = r"2 rollouts of the role serving run: r2\.1, r3\.1"
    with pytest.raises(MisconfiguredError, match=several):
        lab.service.halt("rain")
    with pytest.raises(MisconfiguredError, match=several):
        lab.service.advance(lab.reports)
    with pytest.raises(MisconfiguredError, match=several):
        watch(lab.service, lambda: lab.reports, lab.clock, timeout_s=0, every_s=1)
    assert [plan.state for plan in lab.service.plans()] == [RUNNING, RUNNING]
    assert lab.service.halt("rain", plan_id="r3.1").state == HALTED
    assert lab.service.halt("rain").plan_id == "r2.1"


def test_watching_keeps_to_its_rollout_when_another_of_the_role_starts(lab: Lab) -> None:
    lab.release("r2")
    lab.release("r3", 3)
    lab.service.start("r2", "rest", fleet(2), exclude=["car-1"])

    def listen() -> dict[str, VehicleReport]:
        if len(lab.service.plans()) == 1:
            lab.service.start("r3", "rest", fleet(2), exclude=["car-0"])
        return {}

    done = watch(lab.service, listen, lab.clock, timeout_s=3, every_s=1)
    assert (done.did, done.plan.plan_id) == ("waited", "r2.1")


def test_the_release_before_is_that_of_the_same_role(lab: Lab) -> None:
    for number, role in enumerate(("serving", "shadow", "shadow")):
        release = lab.release(f"r{number}", number + 2, role)
        plan = lab.service.start(f"r{number}", "1", fleet(1))
        done = lab.service.advance({"car-0": _said(lab, "car-0", release)}, role)
        assert done.did == "completed"
    assert plan.previous_release_id == "r1"
    assert (plan.model_digest, plan.model_bytes) == (release.model_digest, release.model_bytes)


def _said(lab: Lab, vehicle: str, release: Release) -> VehicleReport:
    lab.says(vehicle, release)
    return lab.reports[vehicle]

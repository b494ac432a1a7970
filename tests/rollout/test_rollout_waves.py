"""Waves hold exactly as many vehicles as was asked for, found by a hash and by nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import MisconfiguredError
from rollout.plan import cut_waves, eligible, parse_sizes
from schemas.documents import RUNNING, RolloutPlan
from tests.rollout.rollout_lab import fleet


@st.composite
def cuts(draw: st.DrawFn) -> tuple[str, list[str], list[int], list[str]]:
    names = fleet(draw(st.integers(1, 300)))
    sizes: list[int] = []
    left = len(names)
    while left and len(sizes) < 6 and draw(st.booleans() if sizes else st.just(True)):
        sizes.append(draw(st.integers(1, left)))
        left -= sizes[-1]
    included = draw(st.lists(st.sampled_from(names), unique=True, max_size=sizes[0]))
    return f"r{draw(st.integers(0, 999))}", names, sizes, included


@given(cuts())
def test_a_vehicle_finds_its_own_wave_and_each_wave_is_exact(
    cut: tuple[str, list[str], list[int], list[str]],
) -> None:
    release_id, names, sizes, included = cut
    waves = cut_waves(release_id, names, sizes, included)
    plan = RolloutPlan(
        "p", release_id, RUNNING, tuple(each.wave for each in waves), include=tuple(sorted(included))
    )
    plan = RolloutPlan.from_json(plan.to_json())
    found: dict[int, set[str]] = {}
    for name in names:
        number = plan.wave_of(name)
        if number is not None:
            found.setdefault(number, set()).add(name)
    assert [len(found[number]) for number in sorted(found)] == sizes
    assert [found[number] for number in sorted(found)] == [set(each.members) for each in waves]
    assert set(included) <= set(waves[0].members)
    for opened in range(1, len(waves) + 1):
        now = RolloutPlan("p", release_id, RUNNING, plan.waves[:opened], include=plan.include)
        assert sum(now.wave_of(name) is not None for name in names) == sum(sizes[:opened])


def test_another_release_puts_other_vehicles_first() -> None:
    firsts = {cut_waves(f"r{number}", fleet(100), [1])[0].members for number in range(20)}
    assert len(firsts) > 10


@pytest.mark.parametrize(
    ("sizes", "included", "message"),
    [
        ([0], [], "at least 1"),
        ([], [], "at least 1"),
        ([3, 4], [], "need 7 vehicles; 5 are eligible"),
        ([1, 2], ["car-1", "car-2"], "2 vehicles are included; the first wave holds 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: list[int], included: list[str], message: str) -> None:
    with pytest.raises(MisconfiguredError, match=message):
        cut_waves("r", fleet(5), sizes, included)


def test_sizes_are_read_from_text() -> None:
    assert parse_sizes("1, 2,rest", 10) == [1, 2, 7]
    assert parse_sizes("rest", 4) == [4]
    for wrong in ("", "a", "1,-2", "rest,1", "10,rest", "1.5", "²"):
        with pytest.raises(MisconfiguredError):
            parse_sizes(wrong, 10)


def test_tags_and_lists_choose_who_is_eligible() -> None:
    tags = {"car-0": ["eu", "diesel"], "car-1": ["eu"], "car-2": []}
    names = fleet(3)
    assert eligible(names, tags, tags=["eu"], include=[], exclude=[]) == ["car-0", "car-1"]
    assert eligible(names, tags, tags=["eu"], include=["car-2"], exclude=["car-1"]) == ["car-0", "car-2"]
    with pytest.raises(MisconfiguredError, match="not enrolled"):
        eligible(names, tags, tags=[], include=["car-9"], exclude=[])
    with pytest.raises(MisconfiguredError, match="also excluded"):
        eligible(names, tags, tags=[], include=["car-1"], exclude=["car-1"])

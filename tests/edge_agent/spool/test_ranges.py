"""Ranges behave as a set of whole numbers does."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.spool.ranges import RangeSet
from foundation.errors import CorruptError

spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 9)).map(lambda p: (p[0], p[0] + p[1])), max_size=12
)


def numbers(pairs: list[tuple[int, int]]) -> set[int]:
    return {n for begin, end in pairs for n in range(begin, end)}


@given(spans, spans)
def test_ranges_hold_what_a_set_of_the_same_numbers_holds(
    one: list[tuple[int, int]], two: list[tuple[int, int]]
) -> None:
    a, b = RangeSet(one), RangeSet(two)
    left, right = numbers(one), numbers(two)
    assert list(a) == sorted(left)
    assert len(a) == len(left)
    assert all((n in a) == (n in left) for n in range(72))
    assert set(a.intersection(b)) == left & right
    assert set(a.difference(b)) == left - right
    joined = a.copy()
    joined.update(b)
    assert set(joined) == left | right
    assert set(a) == left, "copy is independent"
    assert a == RangeSet.of(left) == RangeSet.from_json(a.to_json())
    assert joined == RangeSet.of(left | right)


@given(spans)
def test_ranges_never_touch_and_stay_sorted(pairs: list[tuple[int, int]]) -> None:
    kept = list(RangeSet(pairs).pairs())
    assert all(first[1] < second[0] for first, second in itertools.pairwise(kept))


def test_a_million_numbers_in_a_row_cost_one_range() -> None:
    a = RangeSet()
    for n in range(1_000_000):
        a.add(n)
    assert a.range_count == 1
    assert len(a) == 1_000_000


@pytest.mark.parametrize("bad", ["x", [[1]], [[2, 2]], [[-1, 3]], [[1, 2.5]], [[True, 3]], {"a": 1}])
def test_damaged_ranges_are_named(bad: object) -> None:
    with pytest.raises(CorruptError, match="range"):
        RangeSet.from_json(bad)

"""Streams take turns by capture time; none starves, whatever its clock says, and none is waited for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.align import MAX_LEAD, Aligner


def test_streams_are_merged_by_capture_time():
    left = {"front": [1, 4, 5], "rear": [2, 3], "can": [0, 6]}
    aligner, order = Aligner(), []
    while heads := {name: times[0] for name, times in left.items() if times}:
        order.append(left[aligner.choose(heads)].pop(0))
    assert order == [0, 1, 2, 3, 4, 5, 6]


def test_a_stream_that_has_nothing_is_not_waited_for():
    assert Aligner().choose({"front": 9}) == "front"
    assert Aligner().choose({}) is None


times = st.integers(-(2**62), 2**62)


@given(
    st.lists(st.dictionaries(st.sampled_from("abcdef"), times, min_size=1), min_size=1, max_size=400), times
)
def test_no_stream_with_something_to_give_is_passed_over_for_long(rounds, ahead):
    """The stream `z` has something all the time, at any time of any clock."""
    aligner, passed, longest = Aligner(), 0, 0
    for heads in rounds:
        passed = 0 if aligner.choose({**heads, "z": ahead}) == "z" else passed + 1
        longest = max(longest, passed)
    assert longest <= MAX_LEAD + 6, "every other stream may be starving too, each for one turn"

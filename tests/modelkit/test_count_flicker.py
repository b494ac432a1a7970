"""A count of objects that differs from those just before it flickers; a steady one, or another drive, does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import RejectedError
from modelkit.scores import CountMemory
from modelkit.tasks import TASKS
from modelkit.tasks.uncertainty import label_scores, mean_label_scores
from schemas.predictions import Box, ClassificationOutput, DetectionOutput

DETECTION = TASKS["detection"]


def played(counts: list[int], drive: str = "d", memory: CountMemory | None = None) -> list[float | None]:
    memory = memory or CountMemory()
    return [memory.flicker("front", drive, count) for count in counts]


def test_an_object_that_vanishes_for_one_frame_is_noticed_in_that_frame_alone() -> None:
    assert played([2, 2, 2, 0, 2, 2]) == [None, None, 0.0, 1.0, 0.0, 0.0]
    assert played([4, 4, 5, 4]) == [None, None, pytest.approx(0.2), 0.0]
    assert played([0, 0, 3]) == [None, None, 1.0]


def test_a_lasting_change_is_the_usual_count_after_a_few_frames() -> None:
    found = played([1, 1, 1, 1, 1, 3, 3, 3, 3])
    assert [value == 0.0 for value in found[5:]] == [False, False, False, True]


@given(st.lists(st.integers(0, 1000), max_size=30))
def test_flicker_is_a_share(counts: list[int]) -> None:
    assert all(0.0 <= value <= 1.0 for value in played(counts) if value is not None)


def test_streams_and_drives_are_apart_and_few_streams_are_remembered() -> None:
    memory = CountMemory(max_streams=2)
    played([5, 5], memory=memory)
    assert memory.flicker("rear", "d", 0) is None
    assert memory.flicker("front", "d", 5) == 0.0
    assert memory.flicker("front", "another", 5) is None
    for stream in ("a", "b"):
        memory.flicker(stream, "d", 1)
    assert played([5], drive="another", memory=memory) == [None], "forgotten"


@pytest.mark.parametrize("arguments", [(1, 4), (1001, 4), (5, 0), (5, 10_001)])
def test_sizes_out_of_range_are_refused_with_the_bounds(arguments: tuple[int, int]) -> None:
    with pytest.raises(RejectedError, match="allowed are 2 to 1000 and 1 to 10000"):
        CountMemory(*arguments)


def boxes(*scores: float) -> DetectionOutput:
    return DetectionOutput(tuple(Box("car", score, 0.0, 0.0, 1.0, 1.0) for score in scores))


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_the_means_over_boxes_never_pass_the_most_doubtful_box(scores: list[float]) -> None:
    worst, mean = label_scores(scores), mean_label_scores(scores)
    assert mean["mean_box_entropy"] <= worst["entropy"] + 1e-9
    assert mean["mean_box_margin"] <= worst["margin"] + 1e-9


def test_per_box_scores_are_those_of_yes_and_no() -> None:
    found = DETECTION.scores(boxes(0.5, 1.0), None)  # type: ignore[arg-type]
    assert found["mean_box_entropy"] == pytest.approx(0.5)
    assert found["mean_box_margin"] == pytest.approx(0.5)
    assert (found["entropy"], found["margin"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert DETECTION.scores(boxes(), None)["mean_box_entropy"] == 0.0  # type: ignore[arg-type]


def test_only_what_has_objects_is_counted() -> None:
    assert DETECTION.count(boxes(0.5, 0.9)) == 2
    assert TASKS["classification"].count(ClassificationOutput("red", (1.0,))) is None

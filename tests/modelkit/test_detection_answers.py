"""What a detector answers comes from outside: shapes and numbers that no head expects are refused, by reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from foundation.errors import RejectedError
from modelkit.contract import ModelContract
from modelkit.predictor import Predictor
from modelkit.specs import HeadSpec, InputSpec
from schemas.predictions import Box

CLASSES = ("car", "person")
INPUT = InputSpec(height=32, width=32)


def contract(**outputs: str) -> ModelContract:
    return ModelContract(
        name="parts",
        task="detection",
        classes=CLASSES,
        trained_classes=CLASSES,
        input=INPUT,
        outputs=outputs,
        head=HeadSpec(kind="parts", boxes="xyxy-px"),
        embedding_size=0,
    )


class Says:
    """A loaded model that answers what it was told to."""

    def __init__(self, contract: ModelContract, raw: dict[str, Any]) -> None:
        self.contract, self._raw = contract, raw

    is_fallen_back = False

    def placement(self) -> tuple[()]:
        return ()

    def work(self) -> dict[str, float]:
        return {}

    def run(self, _inputs: object) -> dict[str, Any]:
        return self._raw


def predict(**raw: Any) -> Any:
    promised = contract(**{name: name for name in raw})
    said = {name: np.asarray(values, dtype=np.float32) for name, values in raw.items()}
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    return Predictor(Says(promised, said), promised).predict([picture])[0]  # type: ignore[arg-type]


TWO = [[[0, 0, 8, 8], [16, 16, 32, 32]]]


def test_boxes_up_to_the_count_are_answered() -> None:
    found = predict(boxes=TWO, scores=[[[0.9, 0.1], [0.2, 0.8]]], count=[1])
    assert found.output.boxes == (Box("car", pytest.approx(0.9), 0, 0, 8, 8),)


@pytest.mark.parametrize("count", [np.inf, -np.inf, np.nan, -1, 3])
def test_a_count_that_is_no_number_of_boxes_is_refused(count: float) -> None:
    with pytest.raises(RejectedError, match="counts") as refused:
        predict(boxes=TWO, scores=[[[0.9, 0.1], [0.2, 0.8]]], count=[count])
    assert refused.value.reason == "wrong_io"


@pytest.mark.parametrize(
    ("boxes", "scores"),
    [
        ([[[0, 0, 8, 8, 1], [1, 1, 9, 9, 1]]], [[[0.9, 0.1], [0.2, 0.8]]]),
        (TWO, [[[0.9, 0.1]]]),
        (TWO, [[0.9]]),
    ],
)
def test_boxes_and_scores_that_do_not_fit_each_other_are_refused(boxes: Any, scores: Any) -> None:
    with pytest.raises(RejectedError) as refused:
        predict(boxes=boxes, scores=scores)
    assert refused.value.reason == "wrong_io"


wild = arrays(
    np.float32,
    array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


@given(boxes=wild, scores=wild, count=wild)
def test_whatever_a_model_answers_is_an_answer_or_a_refusal(boxes: Any, scores: Any, count: Any) -> None:
    with np.errstate(all="ignore"):
        try:
            found = predict(boxes=boxes, scores=scores, count=count)
        except RejectedError as refused:
            assert refused.reason == "wrong_io"
        else:
            assert found.output is None or all(b.class_name in CLASSES for b in found.output.boxes)

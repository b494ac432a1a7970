"""Whatever a model returns, decoding gives an answer, no answer, or a refusal: no other error."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foundation.errors import RejectedError
from modelkit.contract import ModelContract
from modelkit.geometry import Placed
from modelkit.specs import HeadSpec, InputSpec
from modelkit.tasks import TASKS
from modelkit.tasks.classification import COMPETING, INDEPENDENT
from modelkit.tasks.detection_heads import COLUMNS, HEADS, OWN_BOXES
from schemas.reasons import RefuseReason
from tests.fakes.models import tiny_contract

CLASSES = ("car", "person")
ROWS, PICTURES = 5, 2
PLACED = [Placed(64, 48, 0, 0, 32, 24)] * PICTURES
RIGHT_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "yolo-anchor-free": {"output": (PICTURES, 6, ROWS)},
    "yolo-anchor-free-rows": {"output": (PICTURES, ROWS, 6)},
    "yolov5": {"output": (PICTURES, ROWS, 7)},
    "yolox-decoded": {"output": (PICTURES, ROWS, 7)},
    "yolox-grid": {"output": (PICTURES, ROWS, 7)},
    "rows": {"output": (ROWS, 8)},
    "parts": {
        "boxes": (PICTURES, ROWS, 4),
        "scores": (PICTURES, ROWS, 2),
        "classes": (PICTURES, ROWS),
        "count": (PICTURES,),
    },
    "detr-softmax": {"logits": (PICTURES, ROWS, 3), "boxes": (PICTURES, ROWS, 4)},
    "selected": {"boxes": (PICTURES, ROWS, 4), "scores": (PICTURES, 2, ROWS), "selected": (3, 3)},
    "ssd-priors": {"loc": (PICTURES, 9, 4), "conf": (PICTURES, 9, 3), "iou": (PICTURES, 9, 1)},
    "yunet": {
        f"{role}_{stride}": (PICTURES, (32 // stride) ** 2, width)
        for role, width in (("cls", 2), ("obj", 1), ("bbox", 4))
        for stride in (16, 32)
    },
    "centerface": dict.fromkeys(("heatmap", "scale", "offset"), (PICTURES, 2, 2, 2)),
    "centre-heatmap": dict.fromkeys(("heatmap", "size", "offset"), (PICTURES, 2, 2, 2)),
    "mask-logits": {"mask": (PICTURES, 2, 3, 4)},
    "mask-probabilities": {"mask": (PICTURES, 2, 3, 4)},
    "mask-logits-nhwc": {"mask": (PICTURES, 3, 4, 2)},
    "mask-classes": {"mask": (PICTURES, 3, 4)},
    "mask-layers": {"person": (PICTURES, 2, 3, 4)},
    "normalised": {"embedding": (PICTURES, 3)},
    "values": {"values": (PICTURES, 2)},
    "values-each": {"car": (PICTURES, 1), "person": (PICTURES, 1)},
    **{kind: {"logits": (PICTURES, 2)} for kind in (*COMPETING, *INDEPENDENT)},
}
ODD_NUMBERS = [0.0, 1.0, 2.0, 5.0, -1.0, 0.5, 1e9, -1e308, 1e308, np.nan, np.inf, -np.inf]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=8)


def contract_of(kind: str, boxes: str = "xyxy-px", first_class: int = 0) -> ModelContract:
    if kind in HEADS:
        return ModelContract(
            name="hostile",
            classes=CLASSES,
            trained_classes=(),
            task="detection",
            head=HeadSpec(
                kind,
                "xyxy-px" if kind in OWN_BOXES else boxes,
                (16,) if "heat" in kind or kind == "centerface" else (16, 32),
                COLUMNS if kind == "rows" else (),
                first_class,
                priors=(((4.0, 4.0), (8.0, 12.0)), ((16.0, 16.0),)) if kind == "ssd-priors" else (),
            ),
            input=InputSpec(height=32, width=32),
            outputs={role: role for role in RIGHT_SHAPES[kind]},
            embedding_size=0,
        )
    (task,) = (each for each in TASKS.values() if kind in each.heads)
    outputs = {role: role for role in RIGHT_SHAPES[kind]}
    if task.name == "classification":
        return dataclasses.replace(tiny_contract(CLASSES), head=HeadSpec(kind))
    return ModelContract(
        name="hostile",
        classes=CLASSES if kind != "normalised" else (),
        trained_classes=(),
        task=task.name,
        head=HeadSpec(kind),
        input=InputSpec(height=32, width=32),
        outputs=outputs,
        embedding_size=3 if kind == "normalised" else 0,
    )


@st.composite
def outputs(draw: st.DrawFn, kind: str) -> dict[str, np.ndarray[Any, Any]]:
    """Every role of the head: of the right shape, of one with an axis changed, or of any shape."""
    found = {}
    for role, right in RIGHT_SHAPES[kind].items():
        if kind in HEADS and role in HEADS[kind].optional and draw(st.booleans()):
            continue
        axis = draw(st.integers(0, len(right) - 1))
        changed = (*right[:axis], draw(st.integers(0, 8)), *right[axis + 1 :])
        shape = draw(st.one_of(st.just(right), st.just(changed), SHAPES))
        numbers = st.one_of(st.sampled_from(ODD_NUMBERS), st.floats(-10.0, 40.0))
        values = draw(hnp.arrays(np.float64, shape, elements=numbers))
        dtype = draw(st.sampled_from([np.float64, np.float32, np.int64]))
        with np.errstate(all="ignore"):
            found[role] = values.astype(dtype)
    return found


@pytest.mark.parametrize("kind", RIGHT_SHAPES)
@given(st.data())
def test_no_output_of_a_model_makes_decoding_fail_otherwise_than_by_a_refusal(
    kind: str, data: st.DataObject
) -> None:
    boxes = data.draw(st.sampled_from(["xyxy-px", "cxcywh-norm", "xywh-original", "yxyx-norm"]))
    contract = contract_of(kind, boxes, data.draw(st.integers(0, 1)))
    raw, task = data.draw(outputs(kind)), TASKS[contract.task]
    try:
        found = task.decode(raw, contract, PLACED)
        task.warnings(raw, contract, PLACED, {})
    except RejectedError as error:
        assert error.reason == RefuseReason.WRONG_IO
    else:
        assert len(found) == PICTURES
        for output in filter(None, found):
            assert all(0.0 <= score <= 1.0 for score in task.scores(output, contract).values())


def test_every_head_is_among_the_tested_ones() -> None:
    assert set(RIGHT_SHAPES) == {kind for task in TASKS.values() for kind in task.heads}


def parts(**changes: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    boxes = np.tile([2.0, 2.0, 20.0, 20.0], (PICTURES, ROWS, 1))
    scores = np.full((PICTURES, ROWS, 2), 0.9)
    return {"boxes": boxes, "scores": scores, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": np.array([np.inf, 1.0])}, "counts inf boxes; it must be in"),
        ({"count": np.array([np.nan, 1.0])}, "counts nan"),
        ({"count": np.array([-1, 1])}, "counts -1"),
        ({"count": np.array([6, 1])}, "counts 6"),
        ({"scores": np.ones((PICTURES, ROWS - 1, 2))}, "scores of shape"),
        ({"scores": np.ones((PICTURES, ROWS, 1))}, "scores of shape"),
        ({"boxes": np.ones((PICTURES, ROWS, 5))}, "boxes of shape"),
        ({"scores": np.ones((PICTURES, 4)), "classes": np.ones((PICTURES, 5))}, "4 scores and 5 classes"),
        ({"scores": np.array([["x"] * ROWS] * PICTURES)}, "scores is no array of numbers"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused_with_value_and_bound(
    changes: dict[str, np.ndarray[Any, Any]], words: str
) -> None:
    contract = contract_of("parts")
    with pytest.raises(RejectedError, match=words) as caught:
        TASKS["detection"].decode(parts(**changes), contract, PLACED)
    assert caught.value.reason == RefuseReason.WRONG_IO


def test_a_count_keeps_so_many_boxes_of_each_picture() -> None:
    boxes = np.arange(ROWS)[:, None] * 5.0 + np.array([0.0, 0.0, 4.0, 4.0])
    raw = parts(boxes=np.stack([boxes] * PICTURES), count=np.array([0, 3]))
    found = TASKS["detection"].decode(raw, contract_of("parts"), PLACED)
    assert [len(output.boxes) for output in found] == [0, 3]


@pytest.mark.parametrize("index", [-1, ROWS, np.nan])
def test_an_index_that_names_no_box_is_refused_not_counted_from_the_end(index: float) -> None:
    raw = {
        "boxes": parts()["boxes"],
        "scores": np.ones((PICTURES, 2, ROWS)),
        "selected": np.array([[0, 0, index]]),
    }
    with pytest.raises(RejectedError, match="index of selected"):
        TASKS["detection"].decode(raw, contract_of("selected"), PLACED)

"""Heads that answer per cell: a box that was written into the numbers, as the publication says, comes out as that box."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import RejectedError
from modelkit.contract import ModelContract
from modelkit.geometry import Placed
from modelkit.specs import HeadSpec, InputSpec
from modelkit.tasks import TASKS
from schemas.reasons import RefuseReason

CLASSES = ("car", "person")
WIDTH, HEIGHT = 96, 64
PLACED = Placed(WIDTH, HEIGHT, 0, 0, WIDTH, HEIGHT)
PRIORS = (((10.0, 10.0), (16.0, 24.0)), ((32.0, 48.0),))
HEADS = {
    "yunet": HeadSpec("yunet", strides=(8, 16, 32), suppression="none"),
    "centerface": HeadSpec("centerface", suppression="none"),
    "centre-heatmap": HeadSpec("centre-heatmap", suppression="none"),
    "ssd-priors": HeadSpec(
        "ssd-priors", strides=(8, 16), priors=PRIORS, first_class=1, suppression="none",
        variances=(0.1, 0.1, 0.1, 0.2),
    ),
}  # fmt: skip
DETECTION = TASKS["detection"]


def contract_of(kind: str, height: int = HEIGHT, **changes: Any) -> ModelContract:
    head = dataclasses.replace(HEADS[kind], **changes)
    needed, _ = DETECTION.roles(head, CLASSES)
    return ModelContract(
        name="dense",
        classes=CLASSES,
        trained_classes=CLASSES,
        task="detection",
        head=head,
        input=InputSpec(height=height, width=WIDTH),
        outputs={role: role for role in needed},
        embedding_size=0,
    )


def empty(kind: str) -> dict[str, np.ndarray[Any, Any]]:
    """What the graph says when it sees nothing."""
    if kind == "yunet":
        cells = {stride: (HEIGHT // stride) * (WIDTH // stride) for stride in (8, 16, 32)}
        return {
            f"{role}_{stride}": np.zeros((1, count, width))
            for role, width in (("cls", 2), ("obj", 1), ("bbox", 4))
            for stride, count in cells.items()
        }
    if kind == "ssd-priors":
        count = 8 * 12 * 2 + 4 * 6
        return {"loc": np.zeros((1, count, 4)), "conf": np.tile([1.0, 0.0, 0.0], (1, count, 1))}
    second = "scale" if kind == "centerface" else "size"
    return {name: np.zeros((1, 2, HEIGHT // 4, WIDTH // 4)) for name in ("heatmap", second, "offset")}


def write(kind: str, raw: dict[str, Any], box: tuple[float, ...], number: int, score: float) -> None:
    """Write a box (centre x, centre y, width, height in pixels) as the head's publication encodes it."""
    x, y, width, height = box
    if kind == "yunet":
        stride = 16
        row, column = int(y // stride), int(x // stride)
        cell = row * (WIDTH // stride) + column
        raw["cls_16"][0, cell, number] = score
        raw["obj_16"][0, cell, 0] = score
        raw["bbox_16"][0, cell] = (
            x / stride - column, y / stride - row, np.log(width / stride), np.log(height / stride),
        )  # fmt: skip
    elif kind == "ssd-priors":
        row, column = int(y // 16), int(x // 16)
        at = 8 * 12 * 2 + row * 6 + column  # the one prior of stride 16, after the two of stride 8
        prior = np.array([(column + 0.5) * 16, (row + 0.5) * 16, 32.0, 48.0])
        raw["conf"][0, at] = (1.0 - score, *np.where(np.arange(2) == number, score, 0.0))
        raw["loc"][0, at] = (
            (x - prior[0]) / (0.1 * prior[2]),
            (y - prior[1]) / (0.1 * prior[3]),
            np.log(width / prior[2]) / 0.1,
            np.log(height / prior[3]) / 0.2,
        )
    else:
        row, column = int(y // 4), int(x // 4)
        raw["heatmap"][0, number, row, column] = score
        if kind == "centerface":
            raw["scale"][0, :, row, column] = np.log(height / 4), np.log(width / 4)
            raw["offset"][0, :, row, column] = y / 4 - row - 0.5, x / 4 - column - 0.5
        else:
            raw["size"][0, :, row, column] = width / 4, height / 4
            raw["offset"][0, :, row, column] = x / 4 - column, y / 4 - row


@pytest.mark.parametrize("kind", HEADS)
@given(
    st.floats(1.0, WIDTH - 1.0), st.floats(1.0, HEIGHT - 1.0), st.floats(3.0, 60.0), st.floats(3.0, 60.0),
    st.integers(0, 1), st.floats(0.3, 1.0),
)  # fmt: skip
def test_a_box_that_was_written_comes_out_clipped_to_the_picture(
    kind: str, x: float, y: float, width: float, height: float, number: int, score: float
) -> None:
    raw = empty(kind)
    write(kind, raw, (x, y, width, height), number, score)
    (found,) = DETECTION.decode(raw, contract_of(kind), [PLACED])
    (box,) = found.boxes
    wanted = (
        max(x - width / 2, 0), max(y - height / 2, 0), min(x + width / 2, WIDTH), min(y + height / 2, HEIGHT),
    )  # fmt: skip
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx(wanted, abs=1e-6)
    assert box.class_name == CLASSES[number]
    assert box.score == pytest.approx(score)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_that_says_nothing_gives_no_box_and_a_nan_gives_no_answer(kind: str) -> None:
    raw = empty(kind)
    assert DETECTION.decode(raw, contract_of(kind), [PLACED])[0].boxes == ()
    score = {"yunet": "cls_8", "ssd-priors": "conf"}.get(kind, "heatmap")
    raw[score].flat[-1] = np.nan
    assert DETECTION.decode(raw, contract_of(kind), [PLACED]) == [None]


@pytest.mark.parametrize("kind", HEADS)
def test_boxes_that_are_no_numbers_are_no_answer(kind: str) -> None:
    raw = empty(kind)
    write(kind, raw, (40.0, 30.0, 20.0, 10.0), 0, 0.9)
    place = {"yunet": "bbox_16", "ssd-priors": "loc", "centerface": "scale", "centre-heatmap": "size"}[kind]
    raw[place][:] = np.inf
    assert DETECTION.decode(raw, contract_of(kind), [PLACED]) == [None]


WRONG = [
    ("yunet", "cls_16", (1, 24, 3), r"cls_16 of shape \(24, 3\).*2 classes need \(24, 2\)"),
    ("yunet", "bbox_32", (1, 5, 4), r"bbox_32 of shape \(5, 4\).*need \(6, 4\)"),
    (
        "ssd-priors",
        "loc",
        (1, 100, 4),
        r"100 rows, the priors of strides \(8, 16\) over 96 x 64 pixels are 216",
    ),
    ("ssd-priors", "conf", (1, 216, 2), "conf has 2 columns, the contract's classes end at 3"),
    ("centerface", "heatmap", (1, 2, 16, 23), r"heatmap of shape \(2, 16, 23\).*says \(2, 16, 24\)"),
    ("centerface", "scale", (1, 1, 16, 24), r"scale of shape \(1, 16, 24\).*needs \(2, 16, 24\)"),
    ("centre-heatmap", "size", (1, 2, 8, 12), r"size of shape \(2, 8, 12\)"),
]


@pytest.mark.parametrize(("kind", "name", "shape", "words"), WRONG)
def test_outputs_that_contradict_the_input_are_refused_with_value_and_bound(
    kind: str, name: str, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(RejectedError, match=words) as caught:
        DETECTION.decode({**empty(kind), name: np.zeros(shape)}, contract_of(kind), [PLACED])
    assert caught.value.reason == RefuseReason.WRONG_IO


def test_priors_on_maps_that_were_rounded_up_are_found_by_their_number() -> None:
    contract = contract_of("ssd-priors", height=60)
    floor, ceil = (7 * 12 * 2 + 3 * 6), (8 * 12 * 2 + 4 * 6)
    for count in (floor, ceil):
        raw = {"loc": np.zeros((1, count, 4)), "conf": np.tile([0.0, 1.0, 0.0], (1, count, 1))}
        (found,) = DETECTION.decode(raw, contract, [Placed(WIDTH, 60, 0, 0, WIDTH, 60)])
        assert len(found.boxes) == count


def test_an_overlap_quality_weighs_the_score_and_is_clipped() -> None:
    raw = empty("ssd-priors")
    for x, quality in ((24.0, 0.64), (56.0, 7.0)):
        write("ssd-priors", raw, (x, 30.0, 10.0, 10.0), 0, 0.81)
        raw.setdefault("iou", np.zeros((1, 216, 1)))[0, 8 * 12 * 2 + 6 + int(x // 16)] = quality
    (found,) = DETECTION.decode(raw, contract_of("ssd-priors"), [PLACED])
    assert [box.score for box in found.boxes] == pytest.approx([0.9, 0.72])


def test_a_heat_map_has_one_box_per_peak_of_a_class() -> None:
    raw = empty("centre-heatmap")
    raw["heatmap"][0, 0, 5, 5:8] = 0.6, 0.9, 0.6
    raw["heatmap"][0, 1, 5, 7] = 0.5
    raw["size"][:] = 3.0
    (found,) = DETECTION.decode(raw, contract_of("centre-heatmap"), [PLACED])
    assert [(box.class_name, box.score) for box in found.boxes] == [("car", 0.9), ("person", 0.5)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"priors": ()}, "priors of 0 strides, the contract has 2 strides"),
        ({"priors": (((0.0, 4.0),), ((4.0, 4.0),))}, "a prior of 0 pixels, allowed are above 0 to 8192"),
        ({"variances": (0.1, 0.1, 0.0, 0.2)}, r"variances \(0.1, 0.1, 0.0, 0.2\) are not in \(0, 1\]"),
        ({"activation": "tanh"}, "activation 'tanh', allowed are"),
        ({"boxes": "cxcywh-norm"}, "the head ssd-priors gives xyxy-px"),
    ],
)
def test_a_head_that_contradicts_itself_is_no_contract(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RejectedError, match=words) as caught:
        contract_of("ssd-priors", **changes)
    assert caught.value.reason == RefuseReason.BAD_CONTRACT


def test_what_a_head_starts_from_must_be_understood_and_a_default_is_not_written() -> None:
    import json

    written = json.loads(contract_of("ssd-priors").to_json())["head"]
    assert sorted(written["must_understand"]) == ["priors", "variances"]
    assert ModelContract.from_json(contract_of("ssd-priors").to_json()) == contract_of("ssd-priors")
    plain = json.loads(contract_of("yunet").to_json())["head"]
    assert not {"must_understand", "priors", "variances", "activation"} & set(plain)

"""Segmentation: every cell of the picture gets the class that the model gave its place, and doubt where it doubts."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from foundation.errors import FleetLoopError, MisconfiguredError, RejectedError
from modelkit.contract import ModelContract
from modelkit.geometry import place
from modelkit.predictor import Prediction, to_wire
from modelkit.specs import HeadSpec, InputSpec, Preprocessing
from modelkit.tasks import LEARNED, TASKS
from modelkit.tasks.masks import Mask, pack, unpack
from schemas.predictions import UNSEEN, from_plain, to_json_plain, to_plain
from schemas.reasons import RefuseReason

TASK = TASKS["segmentation"]
CLASSES = ("road", "lane", "sky")
SPEC = InputSpec(height=8, width=16)


def contract_of(kind: str = "mask-logits", fit: str = "stretch", **more: Any) -> ModelContract:
    head = HeadSpec(kind)
    return ModelContract(
        name="masks",
        classes=CLASSES,
        trained_classes=(),
        task="segmentation",
        head=head,
        input=SPEC,
        preprocessing=Preprocessing(fit=fit, crop_from=16 if fit == "crop-centre" else 0),  # type: ignore[arg-type]
        outputs={role: role for role in TASK.roles(head, CLASSES)[0]},
        embedding_size=0,
        **more,
    )


def decode(raw: dict[str, Any], contract: ModelContract, size: tuple[int, int] = (16, 8)) -> Any:
    return TASK.decode(raw, contract, [place(*size, contract.input, contract.preprocessing)])[0]


def one_hot(numbers: np.ndarray[Any, Any], gain: float = 20.0) -> np.ndarray[Any, Any]:
    return (numbers[None, None] == np.arange(3)[:, None, None]) * gain


cells = hnp.arrays(np.uint8, (4, 8), elements=st.integers(0, 2))


@given(cells)
def test_every_head_gives_the_mask_that_was_written_into_its_outputs(numbers: np.ndarray[Any, Any]) -> None:
    maps = one_hot(numbers)
    said = {
        "mask-logits": {"mask": maps},
        "mask-probabilities": {"mask": maps / 20.0},
        "mask-logits-nhwc": {"mask": maps.transpose(0, 2, 3, 1)},
        "mask-classes": {"mask": numbers[None, None]},
        "mask-layers": {
            name: np.stack([numbers != number, numbers == number])[None] * 20.0
            for number, name in enumerate(CLASSES)
            if number
        },
    }
    assert set(said) == set(TASK.heads)
    for kind, raw in said.items():
        found = decode(raw, contract_of(kind))
        assert np.array_equal(found.mask.cells, numbers)
        doubt = TASK.scores(found, contract_of(kind))
        assert set(doubt) == (set() if kind == "mask-classes" else {"entropy", "margin", "least_confidence"})
        assert all(value == pytest.approx(0.0, abs=1e-6) for value in doubt.values())


def test_doubt_is_the_mean_over_cells() -> None:
    maps = one_hot(np.zeros((4, 8), np.uint8))
    maps[..., :4] = 0.0  # half of the picture is a toss-up between three classes
    found = decode({"mask": maps}, contract_of())
    assert TASK.scores(found, contract_of()) == pytest.approx(
        {"entropy": 0.5, "margin": 0.5, "least_confidence": 0.5}, abs=1e-6
    )


def test_later_layers_lie_over_earlier_ones_and_the_more_doubtful_layer_counts() -> None:
    yes, no, unsure = np.array([-20.0, 20.0]), np.array([20.0, -20.0]), np.array([0.0, 0.0])
    lane = np.stack([yes, yes, no, unsure], axis=1).reshape(1, 2, 1, 4)
    sky = np.stack([yes, no, no, no], axis=1).reshape(1, 2, 1, 4)
    found = decode({"lane": lane, "sky": sky}, contract_of("mask-layers"))
    assert found.mask.cells.tolist() == [[2, 1, 0, 0]]
    assert found.doubt["entropy"] == pytest.approx(0.25, abs=1e-6)


@given(
    st.integers(4, 60),
    st.integers(4, 60),
    st.sampled_from(["letterbox-centre", "letterbox-topleft", "crop-centre"]),
)
def test_a_cell_lies_where_its_pixels_of_the_picture_went(width: int, height: int, fit: str) -> None:
    """The map says which column of the input it is; a cell of the mask must say the column its place came from."""
    contract = contract_of("mask-classes", fit)
    where = place(width, height, contract.input, contract.preprocessing)
    columns = np.tile(np.arange(16) % 3, (8, 1))
    found = decode({"mask": columns[None]}, contract, (width, height)).mask.cells
    assert found.shape == (where.inner_height, where.inner_width)
    for column in range(found.shape[1]):
        at = where.left + column
        wanted = at % 3 if 0 <= at < 16 else UNSEEN
        rows = [row for row in range(found.shape[0]) if 0 <= where.top + row < 8]
        assert set(found[rows, column].tolist()) <= {wanted}
    outside = [row for row in range(found.shape[0]) if not 0 <= where.top + row < 8]
    assert (found[outside] == UNSEEN).all()


def test_a_nan_is_no_answer() -> None:
    maps = one_hot(np.zeros((4, 8), np.uint8))
    maps[0, 1, 2, 3] = np.nan
    assert decode({"mask": maps}, contract_of()) is None


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("mask-logits", np.zeros((1, 4, 4, 8)), r"shape \(1, 4, 4, 8\), the contract needs 3 channels"),
        ("mask-logits", np.zeros((1, 4, 8)), "four axes"),
        ("mask-probabilities", np.full((1, 3, 4, 8), 0.5), "1.5 as a cell's sum"),
        (
            "mask-classes",
            np.full((1, 4, 8), 3),
            r"a cell of the mask is 3; it must be a whole number in \[0, 2\]",
        ),
        ("mask-classes", np.full((1, 4, 8), np.nan), "a cell of the mask is nan"),
        ("mask-classes", np.full((1, 4, 8), 0.5), "a cell of the mask is 0.5"),
    ],
)
def test_a_map_that_fits_no_contract_is_refused_with_value_and_bound(
    kind: str, values: Any, words: str
) -> None:
    with pytest.raises(RejectedError, match=words) as caught:
        decode({"mask": values}, contract_of(kind))
    assert caught.value.reason == RefuseReason.WRONG_IO


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("road",)}, "1 classes, segmentation allows 2 to 255"),
        ({"classes": tuple(map(str, range(256)))}, "256 classes, segmentation allows 2 to 255"),
        ({"outputs": {"output": "mask"}}, r"outputs \['output'\], the head mask-logits has \['mask'\]"),
        ({"head": HeadSpec("yolov5")}, "head 'yolov5', segmentation has"),
    ],
)
def test_a_contract_of_masks_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RejectedError, match=words):
        dataclasses.replace(contract_of(), **changes)


def test_a_declared_shape_with_other_classes_is_refused() -> None:
    with pytest.raises(RejectedError, match="has 5 channels, the contract needs 3") as caught:
        TASK.check_shapes(contract_of(), {"mask": (-1, 5, 4, 8)})
    assert caught.value.reason == RefuseReason.WRONG_CLASSES


@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.sampled_from([0, 1, 2, UNSEEN]),
    )
)
def test_a_mask_is_transferred_unchanged_as_avro_and_as_json(numbers: np.ndarray[Any, Any]) -> None:
    mask = Mask(CLASSES, numbers)
    assert np.array_equal(unpack(pack(mask)).cells, numbers)
    output = TASK.as_label  # the label of an answer is its mask
    said = to_wire(
        Prediction("segmentation", TASK.from_wire(_record(mask)), (), True),
        {}, role_name="serving", model_name="m", model_digest="0" * 64,
    )  # fmt: skip
    for plain in (to_plain(said), to_json_plain(said)):
        again = TASK.from_wire(from_plain(plain))
        assert np.array_equal(output(again).cells, numbers)


def _record(mask: Mask) -> Any:
    from schemas.predictions import ModelPrediction

    return ModelPrediction("serving", "segmentation", "m", "0" * 64, segmentation=pack(mask))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": zlib.compress(bytes(5))}, "5 cells.*exactly 4"),
        ({"mask": zlib.compress(bytes(10**7))}, "exactly 4"),
        ({"mask": b"no zlib"}, "bytes of zlib"),
        ({"mask": zlib.compress(bytes((0, 1, 2, 3)))}, "'3'; it must be below 3"),
        ({"height": 0}, r"height is '0'.*\[1, 2048\]"),
        ({"width": 4096}, r"\[1, 2048\]"),
        ({"classes": ()}, "1 to 255"),
    ],
)
def test_a_mask_from_outside_is_held_to_its_bounds_before_it_is_used(
    change: dict[str, Any], words: str
) -> None:
    from schemas.predictions import check_mask

    good = pack(Mask(CLASSES, np.array([[0, 1], [2, UNSEEN]], np.uint8)))
    check_mask("it", good)
    with pytest.raises(RejectedError, match=words):
        check_mask("it", dataclasses.replace(good, **change))
    with pytest.raises(ValueError, match=words):
        TASK.label_of(dataclasses.asdict(dataclasses.replace(good, **change)))


@given(cells, cells)
def test_agreement_is_1_for_equal_masks_only_and_symmetric(
    a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]
) -> None:
    one, two = (TASK.from_wire(_record(Mask(CLASSES, each))) for each in (a, b))
    assert TASK.agreement(one, one) == 1.0
    assert TASK.agreement(one, two) == pytest.approx(TASK.agreement(two, one))
    assert (TASK.agreement(one, two) == 1.0) == np.array_equal(a, b)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=4), st.data())
def test_mean_iou_is_that_of_all_pixels_together_and_leaves_unlabelled_ones_out(
    pairs: list[tuple[Any, Any]], data: st.DataObject
) -> None:
    for truth, _ in pairs:
        truth[data.draw(st.integers(0, 3))] = UNSEEN
    judged = TASK.judge(
        [Mask(CLASSES, truth) for truth, _ in pairs],
        [TASK.from_wire(_record(Mask(CLASSES, said))) for _, said in pairs],
        CLASSES,
    )
    weights = np.array([[data.draw(st.integers(0, 3)) for _ in pairs]], dtype=np.float64)
    truth = np.concatenate(
        [np.repeat(t, int(w), axis=0) for (t, _), w in zip(pairs, weights[0], strict=True)]
    )
    said = np.concatenate([np.repeat(s, int(w), axis=0) for (_, s), w in zip(pairs, weights[0], strict=True)])
    seen = truth != UNSEEN
    by_class = []
    for number in range(3):
        is_true, is_said = (truth == number) & seen, (said == number) & seen
        if is_true.any():
            by_class.append((is_true & is_said).sum() / (is_true | is_said).sum())
            assert judged.values(CLASSES[number], weights)[0] == pytest.approx(by_class[-1])
    assert judged.values(None, weights)[0] == pytest.approx(np.mean(by_class) if by_class else 0.0)


def test_a_picture_without_an_answer_is_missed_and_another_resolution_is_compared_at_the_labels() -> None:
    label = Mask(CLASSES, np.repeat(np.repeat(np.array([[0, 1], [1, 0]], np.uint8), 4, 0), 4, 1))
    small = TASK.from_wire(_record(Mask(CLASSES, np.array([[0, 1], [1, 0]], np.uint8))))
    every = np.ones((1, 2))
    judged = TASK.judge([label, label], [small, None], CLASSES)
    assert judged.values(None, every)[0] == pytest.approx(0.5)
    assert judged.details() == {"iou": {"road": 0.5, "lane": 0.5, "sky": None}}
    assert judged.evidence("sky").tolist() == [0, 0]
    assert judged.evidence(None).tolist() == [1, 1]
    assert TASK.quality([label], [small], CLASSES) == 1.0


def test_a_card_shows_every_class_but_the_background_in_its_place() -> None:
    sheet = Image.new("RGB", (20, 12))
    TASK.mark(ImageDraw.Draw(sheet), Mask(CLASSES, np.array([[0, 1], [2, UNSEEN]], np.uint8)), 4.0, (2, 3))
    pixels = np.asarray(sheet)
    assert (pixels[4, 3] == 0).all() and (pixels[8, 7] == 0).all() and (pixels[0, 0] == 0).all()
    assert pixels[4, 7].any() and pixels[8, 3].any() and (pixels[4, 7] != pixels[8, 3]).any()


def test_words_for_lists_name_the_largest_shares_first() -> None:
    mask = Mask(CLASSES, np.array([[0, 0, 0, 1]], np.uint8))
    assert TASK.label_words(mask) == "75% road, 25% lane"
    assert TASK.classes_of(mask) == ("lane", "road")
    assert TASK.label_problem(mask, ("road", "lane")) == "class 'sky' is not in ['road', 'lane']"
    assert TASK.label_problem(Mask(CLASSES, np.full((2, 2), UNSEEN, np.uint8)), CLASSES) == (
        "no cell of the mask has a class"
    )


@pytest.mark.parametrize("name", sorted(set(TASKS) - set(LEARNED)))
def test_a_task_that_is_not_trained_here_refuses_training_by_name(name: str) -> None:
    task = TASKS[name]
    for call in (
        lambda: task.loss({}, [], contract_of(), 0.0),
        lambda: task.target(None, contract_of(), None),
        lambda: task.groups([], ()),
    ):
        with pytest.raises(MisconfiguredError, match=f"the task {name} has no"):
            call()
    assert set(LEARNED) == {"classification", "detection"}
    assert issubclass(MisconfiguredError, FleetLoopError)

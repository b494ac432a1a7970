"""Embeddings have length 1 whatever the model gave; named numbers come out under their names."""

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
from modelkit.predictor import Prediction, to_wire
from modelkit.specs import HeadSpec
from modelkit.tasks import TASKS
from schemas.reasons import RefuseReason

PLACED = [Placed(32, 32, 0, 0, 32, 32)]
NAMES = ("yaw", "pitch", "roll")


def embedder(size: int = 3) -> ModelContract:
    return ModelContract(
        name="vectors", classes=(), trained_classes=(), task="embedding", head=HeadSpec("normalised"),
        outputs={"embedding": "embedding"}, embedding_size=size,
    )  # fmt: skip


def pose(kind: str = "values-each") -> ModelContract:
    roles = NAMES if kind == "values-each" else ("values",)
    return ModelContract(
        name="pose", classes=NAMES, trained_classes=(), task="regression", head=HeadSpec(kind),
        outputs={role: role for role in roles}, embedding_size=0,
    )  # fmt: skip


@given(hnp.arrays(np.float64, 3, elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_an_embedding_has_length_1_or_there_is_no_answer(vector: Any) -> None:
    (found,) = TASKS["embedding"].decode({"embedding": vector[None]}, embedder(), PLACED)
    if not np.isfinite(vector).all() or not vector.any():
        assert found is None
    else:
        assert np.linalg.norm(found) == pytest.approx(1.0)
        assert np.dot(found, vector / np.abs(vector).max()) > 0.0
        assert TASKS["embedding"].agreement(found, found) == pytest.approx(1.0)


def test_the_embedding_that_is_sent_is_the_normalised_one() -> None:
    said = to_wire(
        Prediction("embedding", (0.6, 0.8), (3.0, 4.0), True), {},
        role_name="embedder", model_name="m", model_digest="0" * 64,
    )  # fmt: skip
    assert said.embedding == (0.6, 0.8)
    assert TASKS["embedding"].from_wire(said) == (0.6, 0.8)
    assert TASKS["embedding"].agreement((0.6, 0.8), (0.8, -0.6)) == 0.0
    assert TASKS["embedding"].agreement((1.0,), (0.6, 0.8)) == 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("a",)}, "1 classes, an embedding has none"),
        ({"head": HeadSpec("softmax")}, "head 'softmax', embedding has"),
        ({"outputs": {"embedding": "e", "logits": "l"}}, "embedding has"),
    ],
)
def test_an_embedding_with_classes_or_other_outputs_is_no_contract(changes: Any, words: str) -> None:
    with pytest.raises(RejectedError, match=words):
        dataclasses.replace(embedder(), **changes)


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_both_heads_give_the_numbers_by_name(values: list[float]) -> None:
    task = TASKS["regression"]
    each = {name: np.array([[value]]) for name, value in zip(NAMES, values, strict=True)}
    (one,) = task.decode(each, pose(), PLACED)
    (two,) = task.decode({"values": np.array(values).reshape(1, 3, 1, 1)}, pose("values"), PLACED)
    assert one == two
    assert dict(zip(one.names, one.values, strict=True)) == dict(zip(NAMES, values, strict=True))
    assert task.agreement(one, two) == 1.0
    assert task.scores(one, pose()) == {}


def test_values_agree_by_the_share_within_the_tolerance() -> None:
    task = TASKS["regression"]
    (a,) = task.decode({"values": np.array([[100.0, 0.0, 10.0]])}, pose("values"), PLACED)
    (b,) = task.decode({"values": np.array([[104.0, 0.04, 20.0]])}, pose("values"), PLACED)
    assert task.agreement(a, b) == pytest.approx(2 / 3)


def test_a_value_that_is_no_number_is_no_answer_and_another_count_is_refused() -> None:
    task = TASKS["regression"]
    assert task.decode({"values": np.array([[1.0, np.nan, 2.0]])}, pose("values"), PLACED) == [None]
    with pytest.raises(RejectedError, match=r"values of shape \(1, 4\), the contract says \(1, 3\)"):
        task.decode({"values": np.zeros((1, 4))}, pose("values"), PLACED)
    with pytest.raises(RejectedError, match="the contract has 3 names") as caught:
        task.check_shapes(pose("values"), {"values": (-1, 4)})
    assert caught.value.reason == RefuseReason.WRONG_CLASSES

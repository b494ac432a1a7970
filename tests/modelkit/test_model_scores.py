"""The scores that vehicle and curation share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foundation.errors import RejectedError
from modelkit.predictor import Prediction
from modelkit.scores import EmbeddingMemory, novelty, score
from modelkit.tasks.uncertainty import distribution_scores, entropy, label_scores, least_confidence, margin

logits = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 12)), elements=st.floats(-60, 60))
vectors = hnp.arrays(np.float32, 4, elements=st.floats(-100, 100, width=32))
ALL = (entropy, margin, least_confidence)


def softmax(values: np.ndarray) -> np.ndarray:
    exponents = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


@given(logits)
def test_every_uncertainty_is_between_0_and_1_a_row(values: np.ndarray) -> None:
    p = softmax(values)
    for measure in ALL:
        found = measure(p)
        assert found.shape == p.shape[:-1]
        assert ((found >= 0) & (found <= 1)).all()
        assert np.allclose(found, [float(measure(row)) for row in p])


@given(st.integers(2, 50))
def test_certainty_scores_0_and_the_uniform_distribution_scores_1(classes: int) -> None:
    for measure in ALL:
        assert float(measure(np.eye(classes)[0])) == 0.0
        assert float(measure(np.full(classes, 1 / classes))) == pytest.approx(1.0)


@given(logits, st.randoms(use_true_random=False))
def test_the_order_of_classes_does_not_matter(values: np.ndarray, random: object) -> None:
    p = softmax(values)
    order = np.random.default_rng(0).permutation(p.shape[-1])
    for measure in ALL:
        assert np.allclose(measure(p), measure(p[:, order]))


@given(logits, st.floats(1.1, 5.0))
def test_sharpening_never_makes_a_prediction_less_certain(values: np.ndarray, factor: float) -> None:
    for measure in ALL:
        assert (measure(softmax(values * factor)) <= measure(softmax(values)) + 1e-9).all()


@pytest.mark.parametrize("bad", [[0.5, 0.6], [-0.1, 1.1], [np.nan, 1.0], [1.0], [np.inf, 0.0]])
def test_what_is_no_distribution_is_refused(bad: list[float]) -> None:
    for measure in ALL:
        with pytest.raises(RejectedError):
            measure(bad)


@given(vectors, st.lists(vectors, max_size=6))
def test_novelty_is_the_smallest_halved_cosine_distance(vector: np.ndarray, others: list[np.ndarray]) -> None:
    memory = EmbeddingMemory(10, 4)
    kept = [other for other in others if memory.add(other)]
    found = novelty(vector, memory)
    length = np.linalg.norm(vector.astype(np.float64))
    if length == 0:
        assert found is None
    elif not kept:
        assert found == 1.0
    else:
        cosines = [
            float(vector.astype(np.float64) / length @ (k / np.linalg.norm(k.astype(np.float64))))
            for k in kept
        ]
        assert found == pytest.approx(min(max((1 - max(cosines)) / 2, 0), 1), abs=1e-4)


def test_what_was_seen_is_not_novel_whatever_its_length() -> None:
    memory = EmbeddingMemory(3, 4)
    memory.add([1, 2, 3, 4])
    assert novelty([2, 4, 6, 8], memory) == pytest.approx(0, abs=1e-6)
    assert novelty([-1, -2, -3, -4], memory) == pytest.approx(1, abs=1e-6)


def test_a_full_memory_forgets_the_oldest() -> None:
    memory = EmbeddingMemory(2, 4)
    for row in np.eye(4)[:3]:
        memory.add(row)
    assert len(memory) == 2
    assert novelty(np.eye(4)[0], memory) == pytest.approx(0.5)
    assert novelty(np.eye(4)[1], memory) == pytest.approx(0)


def test_an_embedding_without_direction_has_no_novelty_and_is_not_kept() -> None:
    memory = EmbeddingMemory(2, 4)
    for bad in ([0, 0, 0, 0], [np.nan, 1, 1, 1], [np.inf, 1, 1, 1]):
        assert novelty(bad, memory) is None
        assert not memory.add(bad)
    assert len(memory) == 0


def test_an_embedding_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(RejectedError, match=r"\(3,\), this memory holds \(4,\)"):
        novelty([1, 2, 3], EmbeddingMemory(2, 4))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_labels_that_do_not_compete_are_as_doubtful_as_the_most_doubtful(values: list[float]) -> None:
    found = label_scores(values)
    assert found["margin"] == pytest.approx(max(1 - abs(2 * value - 1) for value in values))
    assert all(0 <= score <= 1 for score in found.values())
    assert label_scores([]) == {"entropy": 0.0, "margin": 0.0, "least_confidence": 0.0}


def test_scores_of_a_prediction_and_of_no_answer() -> None:
    memory = EmbeddingMemory(2, 2)
    doubt = distribution_scores((0.75, 0.25))
    answered = Prediction("classification", None, (1.0, 0.0), True, doubt)
    found = score(answered, memory)
    assert found["margin"] == pytest.approx(0.5)
    assert found["least_confidence"] == pytest.approx(0.5)
    assert found["novelty"] == 1.0
    assert len(memory) == 0
    assert score(Prediction("classification", None, (), False), memory) == {}
    assert "novelty" not in score(answered, None)

"""The gate passes on evidence only, and a refusal names every reason."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.predictions import Box, ClassificationOutput, DetectionOutput
from tests.fakes.models import tiny_contract
from training.evaluation import Answers, Evaluation, SliceResult, evaluate
from training.gate import Budgets, GateResult, decide, target_slices
from training.intervals import PairedCounts, mcnemar_p, paired_difference, wilson, z_of
from training.params import EvaluateParams, GateParams

CONFIDENCE = 0.95
FINE = Budgets(model_bytes=1000, latency_ratio=1.0, parity_agreement_ratio=1.0)
PARAMS = GateParams()


def part(name: str, both: int, lost: int, won: int, neither: int) -> SliceResult:
    pairs = PairedCounts(both, lost, won, neither)
    two, one = z_of(CONFIDENCE, two_sided=True), z_of(CONFIDENCE, two_sided=False)
    return SliceResult(
        name, pairs.n, pairs.n, wilson(both + lost, pairs.n, two), wilson(both + won, pairs.n, two),
        paired_difference(pairs, two), paired_difference(pairs, one), pairs, mcnemar_p(pairs),
    )  # fmt: skip


def evidence(*slices: SliceResult, no_answer: int = 0) -> Evaluation:
    return Evaluation("accuracy", slices, ("a", "b"), 0, no_answer, {}, {}, CONFIDENCE, 155)


def names_of(result: GateResult, outcome: str) -> list[str]:
    return [check.name for check in result.checks if check.outcome == outcome]


cells = st.tuples(*[st.integers(0, 80)] * 4).filter(lambda c: sum(c) > 0)


@given(st.lists(cells, min_size=1, max_size=6), st.floats(0.0, 0.2), st.integers(2, 120))
@settings(max_examples=300, deadline=None)
def test_it_never_passes_with_a_regression_beyond_the_margin_on_a_sufficient_slice(
    tables: list[tuple[int, int, int, int]], margin: float, n_min: int
) -> None:
    slices = [part(f"class:{i}", *table) for i, table in enumerate(tables)]
    result = decide(evidence(*slices), (), FINE, GateParams(margin=margin, n_min=n_min))
    regressions = [s for s in slices if s.n >= n_min and s.difference.estimate < -margin]
    if regressions:
        assert not result.passed
        assert all(s.name in result.reason for s in regressions)
    if result.passed:
        assert all(s.difference_bound.low >= -margin for s in slices if s.n >= n_min)
    assert result.passed == (not names_of(result, "failed"))


def test_a_clear_gain_passes() -> None:
    result = decide(
        evidence(part("overall", 80, 1, 19, 0), part("class:b", 0, 0, 40, 2)), ("class:b",), FINE, PARAMS
    )
    assert result.passed, result.reason
    assert result.insufficient == ("not worse on class:b",)


def test_a_small_slice_is_insufficient_evidence_and_named() -> None:
    result = decide(
        evidence(part("overall", 200, 0, 5, 0), part("condition:dark", 4, 1, 0, 0)), (), FINE, PARAMS
    )
    assert result.passed
    assert result.insufficient == ("not worse on condition:dark",)


def test_proven_harm_refuses_even_on_a_small_slice() -> None:
    result = decide(evidence(part("overall", 200, 0, 20, 0), part("class:b", 0, 12, 0, 0)), (), FINE, PARAMS)
    assert not result.passed
    assert "worse beyond the margin" in result.reason and "class:b" in result.reason


def test_no_regression_seen_is_not_enough_without_the_evidence() -> None:
    # 30 lost and 30 won of 120: the difference is 0, but it may well be -11 points.
    result = decide(evidence(part("overall", 60, 30, 30, 0)), (), FINE, PARAMS)
    assert not result.passed
    assert "not shown to be within the margin" in result.reason


def test_a_target_that_did_not_get_better_refuses() -> None:
    result = decide(
        evidence(part("overall", 150, 0, 0, 5), part("class:b", 50, 1, 2, 30)), ("class:b",), FINE, PARAMS
    )
    assert not result.passed
    assert "better on class:b: difference +1.2 points, p=0.5 (needs 0.05), n=83" in result.reason


def test_at_least_one_target_must_be_proven() -> None:
    result = decide(evidence(part("overall", 150, 0, 0, 5)), ("class:b",), FINE, PARAMS)
    assert names_of(result, "failed") == ["better on at least one target"]


def test_each_budget_refuses_by_name() -> None:
    good = evidence(part("overall", 150, 0, 30, 5))
    cases = {
        "model size": (dataclasses.replace(FINE, model_bytes=2_000_001), good),
        "latency": (dataclasses.replace(FINE, latency_ratio=1.6), good),
        "parity": (dataclasses.replace(FINE, parity_agreement_ratio=0.97), good),
        "answers every row": (FINE, dataclasses.replace(good, no_answer_candidate=1)),
    }
    for name, (budgets, found) in cases.items():
        assert names_of(decide(found, (), budgets, PARAMS), "failed") == [name]
    assert decide(good, (), FINE, PARAMS).passed


def test_targets_are_what_the_base_was_not_trained_on_unless_named() -> None:
    base = dataclasses.replace(
        tiny_contract(), trained_classes=("red", "green"), untrained_conditions=("dark",)
    )
    assert target_slices(base, PARAMS) == ("class:yellow", "condition:dark")
    assert target_slices(base, GateParams(target_slices=("class:red",))) == ("class:red",)


def answers(rng: np.random.Generator, n: int) -> Answers:
    truth, said = rng.integers(0, 2, n), rng.integers(-1, 2, n)
    return given_answers(truth, said, truth, tuple(rng.choice(["dark", "normal"], n)), np.arange(n) // 3)


def given_answers(
    truth: np.ndarray,
    base: np.ndarray,
    candidate: np.ndarray,
    conditions: tuple[str, ...],
    clusters: np.ndarray,
) -> Answers:
    """Class numbers of "a" and "b"; -1 is no answer."""
    names = ("a", "b")
    said = (
        tuple(None if i < 0 else ClassificationOutput(names[i], ()) for i in each)
        for each in (base, candidate)
    )
    labels = tuple(names[i] for i in truth)
    return Answers("classification", labels, *said, names, conditions, clusters)


def test_slices_add_up_and_no_answer_is_wrong() -> None:
    found = evaluate(answers(np.random.default_rng(0), 300), EvaluateParams(bootstrap_samples=200))
    by_name = {s.name: s for s in found.slices}
    assert list(by_name) == ["overall", "class:a", "class:b", "condition:dark", "condition:normal"]
    for kind in ("class", "condition"):
        assert sum(s.n for name, s in by_name.items() if name.startswith(kind)) == by_name["overall"].n == 300
        assert (
            sum(s.pairs.only_candidate_right for n, s in by_name.items() if n.startswith(kind))
            == by_name["overall"].pairs.only_candidate_right
        )
    assert by_name["overall"].candidate.estimate == 1.0
    assert by_name["overall"].clusters == 100
    confusion = found.details_base["confusion"]
    right = sum(confusion[i][i] for i in range(2))
    assert by_name["overall"].base.estimate == right / 300
    assert sum(map(sum, confusion)) + found.no_answer_base == 300
    for s in found.slices:
        assert s.difference.low <= s.difference_bound.low <= s.difference.estimate <= s.difference_bound.high


def test_the_same_seed_gives_the_same_evaluation() -> None:
    params = EvaluateParams(bootstrap_samples=200)
    assert evaluate(answers(np.random.default_rng(0), 90), params) == evaluate(
        answers(np.random.default_rng(0), 90), params
    )


def test_the_interval_is_never_more_hopeful_than_the_closed_form_or_the_tracks() -> None:
    # 40 of 200 rows got worse, all in two tracks of 20: the closed form takes them for 40 independent misses.
    truth = np.zeros(200, dtype=np.int64)
    worse = np.arange(200) < 40
    tracks = np.where(worse, np.arange(200) // 20, 1000 + np.arange(200))
    params = EvaluateParams(bootstrap_samples=500)
    one_sided = z_of(params.confidence, two_sided=False)

    def overall(candidate: np.ndarray) -> SliceResult:
        found = given_answers(truth, truth, candidate, ("normal",) * 200, tracks)
        return evaluate(found, params).slices[0]

    clustered = overall(worse.astype(np.int64))
    assert clustered.difference_bound.low < paired_difference(clustered.pairs, one_sided).low - 0.05
    agreeing = overall(truth.copy())
    assert agreeing.difference_bound.low == paired_difference(agreeing.pairs, one_sided).low < 0


CAR = (Box("car", 1.0, 0.0, 0.0, 10.0, 10.0),)
FOUND, SILENT = DetectionOutput((Box("car", 0.9, 0.0, 0.0, 10.0, 10.0),)), DetectionOutput(())
INVENTED = DetectionOutput((Box("car", 0.5, 0.0, 0.0, 10.0, 10.0),))


def judged_boxes(
    objects: int, negatives: int, on_negatives: tuple[DetectionOutput | None, ...]
) -> GateResult:
    """The base is always right; the candidate is so on `objects` normal pictures, and says this on the dark negatives."""
    found = evaluate(
        Answers(
            "detection",
            (CAR,) * objects + ((),) * negatives,
            (FOUND,) * objects + (SILENT,) * negatives,
            (FOUND,) * objects + on_negatives,
            ("car",),
            ("normal",) * objects + ("dark",) * negatives,
            np.arange(objects + negatives),
        ),
        EvaluateParams(bootstrap_samples=200),
    )
    return decide(found, (), FINE, PARAMS)


def test_a_detector_does_not_pass_on_a_test_split_without_an_object() -> None:
    result = judged_boxes(0, 60, (SILENT,) * 60)
    assert names_of(result, "failed") == ["has evidence"]
    assert "the 60 test rows have no label" in result.reason
    (answered,) = [check for check in result.checks if check.name == "answers every row"]
    assert answered.detail == "0 of 60 rows without an answer (allowed 0)"


def test_a_condition_without_an_object_is_named_as_insufficient_evidence() -> None:
    result = judged_boxes(60, 20, (SILENT,) * 20)
    assert result.passed, result.reason
    assert result.insufficient == ("not worse on condition:dark", "not worse on negatives")


def test_a_detector_that_invents_objects_on_empty_pictures_does_not_pass() -> None:
    result = judged_boxes(60, 60, (INVENTED,) * 6 + (SILENT,) * 54)
    assert names_of(result, "failed") == ["not worse on negatives"]
    assert "worse: difference -10.0 points" in result.reason
    unanswered = judged_boxes(60, 60, (None,) * 6 + (SILENT,) * 54)
    assert names_of(unanswered, "failed") == ["not worse on negatives", "answers every row"]
    assert judged_boxes(60, 200, (SILENT,) * 200).passed

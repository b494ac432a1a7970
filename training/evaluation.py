"""Base and candidate on the same held-out rows, through the vehicle's own code and the shipped bytes.

A row that a model gives no answer to (NaN) counts as wrong and is counted beside it. Every slice has its
accuracies with Wilson intervals and the paired difference with the wider of Newcombe's interval and a
bootstrap over tracks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foundation.errors import MisconfiguredError
from modelkit.images import condition_of
from modelkit.predictor import Predictor
from modelkit.prepare import preprocess
from modelkit.runtime import LoadedModel
from training.intervals import (
    Interval,
    PairedCounts,
    bootstrap_difference,
    mcnemar_p,
    paired_difference,
    wilson,
    z_of,
)
from training.params import EvaluateParams
from training.rows import Row

OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class Answers:
    """What both models said, row by row, n rows. Class numbers are the contract's; -1 is no answer."""

    truth: NDArray[np.int64]
    base: NDArray[np.int64]
    candidate: NDArray[np.int64]
    classes: tuple[str, ...]
    conditions: tuple[str, ...]
    clusters: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SliceResult:
    """One slice. Accuracies and differences are ratios of 1.

    `difference` is two-sided; `difference_bound` is the pair of one-sided bounds that the gate uses, each
    of the same confidence; `mcnemar_p` is one-sided for "the candidate is better".
    """

    name: str
    n: int
    clusters: int
    base: Interval
    candidate: Interval
    difference: Interval
    difference_bound: Interval
    pairs: PairedCounts
    mcnemar_p: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All slices (overall, `class:<name>`, `condition:<name>`), no-answers and confusion matrices.

    `confusion_*` is [truth][answer] in the contract's order; rows without an answer are in `no_answer_*`
    only.
    """

    slices: tuple[SliceResult, ...]
    classes: tuple[str, ...]
    no_answer_base: int
    no_answer_candidate: int
    confusion_base: tuple[tuple[int, ...], ...]
    confusion_candidate: tuple[tuple[int, ...], ...]
    confidence: float

    def by_name(self, name: str) -> SliceResult | None:
        """The slice of this name, or None when no test row is in it."""
        return next((found for found in self.slices if found.name == name), None)

    def to_json(self) -> dict[str, object]:
        """Plain values for evaluation.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Latency:
    """Median time of one picture through the runtime, both models in turn on this machine; seconds."""

    base_p50_s: float
    candidate_p50_s: float
    runs: int

    @property
    def ratio(self) -> float:
        """Candidate over base."""
        return self.candidate_p50_s / self.base_p50_s


def answer(
    batches: Iterable[Sequence[Row]],
    base: Predictor,
    candidate: Predictor,
    cluster: Literal["track", "drive", "row"],
) -> Answers:
    """Run both models over the rows, once each.

    Raises:
        MisconfiguredError: there is no row, the contracts have other classes, or a row's class is in neither.
    """
    classes = candidate.contract.classes
    if base.contract.classes != classes:
        raise MisconfiguredError(
            f"base and candidate have other classes: {base.contract.classes} and {classes}"
        )
    index = {name: i for i, name in enumerate(classes)}
    truth: list[int] = []
    said: tuple[list[int], list[int]] = ([], [])
    conditions: list[str] = []
    clusters: dict[str, int] = {}
    numbers: list[int] = []
    for rows in batches:
        for row in rows:
            if row.class_name not in index:
                raise MisconfiguredError(f"class {row.class_name!r} of a test row is not in {list(classes)}")
            truth.append(index[row.class_name])
            conditions.append(row.condition or condition_of(row.image))
            numbers.append(clusters.setdefault(_cluster(row, cluster), len(clusters)))
        images = [row.image for row in rows]
        for predictor, found in zip((base, candidate), said, strict=True):
            found.extend(index[p.output.class_name] if p.is_finite else -1 for p in predictor.predict(images))
    if not truth:
        raise MisconfiguredError("the test split is empty: nothing can be proven on it")
    as_array = [np.array(values, dtype=np.int64) for values in (truth, *said, numbers)]
    return Answers(as_array[0], as_array[1], as_array[2], classes, tuple(conditions), as_array[3])


def _cluster(row: Row, cluster: str) -> str:
    if cluster == "drive":
        return f"drive/{row.drive_id}"
    if cluster == "track" and row.track_id:
        return f"track/{row.drive_id}/{row.track_id}"
    return f"row/{row.payload_sha256}"


def evaluate(answers: Answers, params: EvaluateParams) -> Evaluation:
    """Every slice that has at least one row."""
    conditions = np.array(answers.conditions)
    masks = [(OVERALL, np.ones(len(answers.truth), dtype=np.bool_))]
    masks += [(f"class:{name}", answers.truth == i) for i, name in enumerate(answers.classes)]
    masks += [(f"condition:{name}", conditions == name) for name in sorted(set(answers.conditions))]
    return Evaluation(
        slices=tuple(_slice(name, mask, answers, params) for name, mask in masks if mask.any()),
        classes=answers.classes,
        no_answer_base=int((answers.base < 0).sum()),
        no_answer_candidate=int((answers.candidate < 0).sum()),
        confusion_base=_confusion(answers.truth, answers.base, len(answers.classes)),
        confusion_candidate=_confusion(answers.truth, answers.candidate, len(answers.classes)),
        confidence=params.confidence,
    )


def _slice(name: str, mask: NDArray[np.bool_], answers: Answers, params: EvaluateParams) -> SliceResult:
    base = (answers.base == answers.truth)[mask]
    candidate = (answers.candidate == answers.truth)[mask]
    clusters = answers.clusters[mask]
    n = len(base)
    pairs = PairedCounts(
        int((base & candidate).sum()),
        int((base & ~candidate).sum()),
        int((~base & candidate).sum()),
        int((~base & ~candidate).sum()),
    )
    z = z_of(params.confidence, two_sided=True)
    one_sided = z_of(params.confidence, two_sided=False)
    difference = candidate.astype(np.float64) - base.astype(np.float64)
    draws = bootstrap_difference(difference, clusters, params.bootstrap_samples, params.seed)
    tail = (1.0 - params.confidence) / 2.0
    return SliceResult(
        name=name,
        n=n,
        clusters=len(np.unique(clusters)),
        base=_accuracy(base, clusters, z, params),
        candidate=_accuracy(candidate, clusters, z, params),
        difference=_wider(paired_difference(pairs, z), draws, tail),
        difference_bound=_wider(paired_difference(pairs, one_sided), draws, 2 * tail),
        pairs=pairs,
        mcnemar_p=mcnemar_p(pairs),
    )


def _accuracy(
    right: NDArray[np.bool_], clusters: NDArray[np.int64], z: float, params: EvaluateParams
) -> Interval:
    """Accuracy of one model on a slice; rows of one cluster are drawn together, for they are no independent proof."""
    draws = bootstrap_difference(right.astype(np.float64), clusters, params.bootstrap_samples, params.seed)
    return _wider(wilson(int(right.sum()), len(right), z), draws, (1.0 - params.confidence) / 2.0)


def _wider(closed: Interval, draws: NDArray[np.float64], tail: float) -> Interval:
    """Neither the closed form (blind to tracks) nor the bootstrap (blind where all agree) may flatter."""
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Interval(closed.estimate, min(closed.low, float(low)), max(closed.high, float(high)))


def _confusion(
    truth: NDArray[np.int64], said: NDArray[np.int64], classes: int
) -> tuple[tuple[int, ...], ...]:
    answered = said >= 0
    flat = np.bincount(truth[answered] * classes + said[answered], minlength=classes * classes)
    return tuple(tuple(int(v) for v in row) for row in flat.reshape(classes, classes))


def measure_latency(base: LoadedModel, candidate: LoadedModel, row: Row, runs: int) -> Latency:
    """Time both models on one picture in turn, so that a busy machine is equally busy for both."""
    inputs = [(m, {m.contract.input.name: preprocess([row.image], m.contract)}) for m in (base, candidate)]
    for model, batch in inputs:
        for _ in range(5):
            model.run(batch)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for (model, batch), found in zip(inputs, seconds, strict=True):
            started = time.perf_counter()
            model.run(batch)
            found.append(time.perf_counter() - started)
    return Latency(float(np.median(seconds[0])), float(np.median(seconds[1])), runs)

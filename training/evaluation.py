"""Evaluate base and candidate on the same held-out rows, with the vehicle's own code and the shipped bytes.

A row without an answer (NaN) counts as wrong and is also counted separately. The metric is the task's. Every slice has
both models' values and their paired difference with bootstrap intervals over clusters; where rows are either right or
wrong, the wider of the bootstrap's and Wilson's or Newcombe's interval.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foundation.errors import MisconfiguredError
from modelkit.images import condition_of
from modelkit.predictor import Predictor
from modelkit.prepare import preprocess
from modelkit.runtime import LoadedModel
from modelkit.tasks import TASKS
from modelkit.tasks.judged import Judged
from training.intervals import (
    Interval,
    PairedCounts,
    bootstrap_difference,
    cluster_weights,
    mcnemar_p,
    paired_difference,
    wilson,
    z_of,
)
from training.params import EvaluateParams
from training.rows import Row

OVERALL = "overall"
NEGATIVES = "negatives"
"""The slice of pictures on which there is nothing; its metric is the share of them on which the model says so."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Labels and both models' outputs, row by row; None is no answer. Labels and outputs are the task's."""

    task: str
    labels: tuple[Any, ...]
    base: tuple[Any, ...]
    candidate: tuple[Any, ...]
    classes: tuple[str, ...]
    conditions: tuple[str, ...]
    clusters: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SliceResult:
    """One slice. The metric and its differences are ratios (0..1, -1..1); `n` counts labels (rows or boxes), or negatives.

    `difference` is two-sided; `difference_bound` is the pair of one-sided bounds that the gate uses, each
    of the same confidence; `p_better` is one-sided for "the candidate is better": McNemar's where rows are
    right or wrong (`pairs` counts them), else of the bootstrap over clusters.
    """

    name: str
    n: int
    clusters: int
    base: Interval
    candidate: Interval
    difference: Interval
    difference_bound: Interval
    pairs: PairedCounts | None
    p_better: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All slices (overall, `class:<name>`, `condition:<name>`, negatives), rows without an answer, and the task's details."""

    metric: str
    slices: tuple[SliceResult, ...]
    classes: tuple[str, ...]
    no_answer_base: int
    no_answer_candidate: int
    details_base: dict[str, Any]
    details_candidate: dict[str, Any]
    confidence: float
    rows: int

    def by_name(self, name: str) -> SliceResult | None:
        """Return the slice of this name, or None when it has no test row."""
        return next((found for found in self.slices if found.name == name), None)

    def to_json(self) -> dict[str, object]:
        """Return plain values for evaluation.json, whose slices have counts of their own in place of `rows`."""
        found = asdict(self)
        del found["rows"]
        return found


@dataclass(frozen=True, slots=True)
class Latency:
    """Median time of one picture through the runtime, both models in turn on this machine; seconds."""

    base_p50_s: float
    candidate_p50_s: float
    runs: int

    @property
    def ratio(self) -> float:
        """The candidate's time divided by the base's."""
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
    classes, task = candidate.contract.classes, TASKS[candidate.contract.task]
    if base.contract.classes != classes or base.contract.task != task.name:
        raise MisconfiguredError(
            f"base and candidate differ in classes or task: {base.contract.task} of {base.contract.classes} "
            f"and {task.name} of {classes}"
        )
    labels: list[Any] = []
    said: tuple[list[Any], list[Any]] = ([], [])
    conditions: list[str] = []
    clusters: dict[str, int] = {}
    numbers: list[int] = []
    for rows in batches:
        for row in rows:
            problem = task.label_problem(row.label, classes)
            if problem:
                raise MisconfiguredError(f"the label of the test row {row.payload_sha256}: {problem}")
            labels.append(row.label)
            conditions.append(row.condition or condition_of(row.image))
            numbers.append(clusters.setdefault(_cluster(row, cluster), len(clusters)))
        images = [row.image for row in rows]
        for predictor, found in zip((base, candidate), said, strict=True):
            found.extend(p.output for p in predictor.predict(images))
    if not labels:
        raise MisconfiguredError("the test split is empty: nothing can be evaluated on it")
    numbers_of = np.array(numbers, dtype=np.int64)
    return Answers(
        task.name, tuple(labels), tuple(said[0]), tuple(said[1]), classes, tuple(conditions), numbers_of
    )


def _cluster(row: Row, cluster: str) -> str:
    if cluster == "drive":
        return f"drive/{row.drive_id}"
    if cluster == "track" and row.track_id:
        return f"track/{row.drive_id}/{row.track_id}"
    return f"row/{row.payload_sha256}"


def evaluate(answers: Answers, params: EvaluateParams) -> Evaluation:
    """Return every slice that has a row; that of a class only with a label of it."""
    task = TASKS[answers.task]
    base, candidate = (
        task.judge(answers.labels, said, answers.classes) for said in (answers.base, answers.candidate)
    )
    conditions = np.array(answers.conditions)
    whole = np.ones(len(answers.labels), dtype=np.bool_)
    parts: list[tuple[str, str | None, NDArray[np.bool_]]] = [(OVERALL, None, whole)]
    parts += [(f"class:{name}", name, whole) for name in answers.classes]
    parts += [(f"condition:{name}", None, conditions == name) for name in sorted(set(answers.conditions))]
    slices = [
        _slice(name, class_name, rows, (base, candidate), answers.clusters, params)
        for name, class_name, rows in parts
        if class_name is None or base.evidence(class_name).any()
    ]
    negatives, before, after = base.evidence(None) == 0, base.silent(), candidate.silent()
    if before is not None and after is not None and negatives.any():
        of_negatives = (before[negatives], after[negatives], answers.clusters[negatives])
        slices.append(_of_rows(NEGATIVES, *of_negatives, params))
    return Evaluation(
        metric=base.metric,
        slices=tuple(slices),
        classes=answers.classes,
        no_answer_base=sum(said is None for said in answers.base),
        no_answer_candidate=sum(said is None for said in answers.candidate),
        details_base=base.details(),
        details_candidate=candidate.details(),
        confidence=params.confidence,
        rows=len(answers.labels),
    )


def _slice(
    name: str,
    class_name: str | None,
    rows: NDArray[np.bool_],
    judged: tuple[Judged, Judged],
    clusters: NDArray[np.int64],
    params: EvaluateParams,
) -> SliceResult:
    evidence = judged[0].evidence(class_name) * rows
    right = [each.right(class_name) for each in judged]
    if right[0] is None or right[1] is None:
        return _drawn_again(name, class_name, rows, judged, clusters, params)
    used = evidence > 0  # a row without evidence is neither right nor wrong
    return _of_rows(name, right[0][used], right[1][used], clusters[used], params)


def _of_rows(
    name: str,
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    clusters: NDArray[np.int64],
    params: EvaluateParams,
) -> SliceResult:
    """Evaluate rows on which base (`a`) and candidate (`b`) are right or wrong, at least one."""
    pairs = PairedCounts(int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))
    z = z_of(params.confidence, two_sided=True)
    one_sided = z_of(params.confidence, two_sided=False)
    tail = (1.0 - params.confidence) / 2.0
    draws = [
        bootstrap_difference(values.astype(np.float64), clusters, params.bootstrap_samples, params.seed)
        for values in (a, b, b.astype(np.float64) - a)
    ]
    return SliceResult(
        name=name,
        n=len(a),
        clusters=len(np.unique(clusters)),
        base=_wider(wilson(int(a.sum()), len(a), z), draws[0], tail),
        candidate=_wider(wilson(int(b.sum()), len(b), z), draws[1], tail),
        difference=_wider(paired_difference(pairs, z), draws[2], tail),
        difference_bound=_wider(paired_difference(pairs, one_sided), draws[2], 2 * tail),
        pairs=pairs,
        p_better=mcnemar_p(pairs),
    )


def _drawn_again(
    name: str,
    class_name: str | None,
    rows: NDArray[np.bool_],
    judged: tuple[Judged, Judged],
    clusters: NDArray[np.int64],
    params: EvaluateParams,
) -> SliceResult:
    """Evaluate a slice by a metric that is not a mean of rows: it is recomputed for every draw of clusters."""
    drawn = np.zeros((params.bootstrap_samples, len(rows)))
    drawn[:, rows] = cluster_weights(clusters[rows], params.bootstrap_samples, params.seed)
    once = rows[None].astype(np.float64)
    base, candidate = (each.values(class_name, drawn) for each in judged)
    before, after = (float(each.values(class_name, once)[0]) for each in judged)
    draws = candidate - base
    tail = (1.0 - params.confidence) / 2.0
    return SliceResult(
        name=name,
        n=int((judged[0].evidence(class_name) * rows).sum()),
        clusters=len(np.unique(clusters[rows])),
        base=_wider(_point(before), base, tail),
        candidate=_wider(_point(after), candidate, tail),
        difference=_wider(_point(after - before), draws, tail),
        difference_bound=_wider(_point(after - before), draws, 2 * tail),
        pairs=None,
        p_better=float((1 + (draws <= 0).sum()) / (1 + len(draws))),
    )


def _point(estimate: float) -> Interval:
    return Interval(estimate, estimate, estimate)


def _wider(closed: Interval, draws: NDArray[np.float64], tail: float) -> Interval:
    """Return the wider interval: the closed form ignores tracks, the bootstrap has no width where all rows agree."""
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Interval(closed.estimate, min(closed.low, float(low)), max(closed.high, float(high)))


def measure_latency(base: LoadedModel, candidate: LoadedModel, row: Row, runs: int) -> Latency:
    """Time both models on one picture in turn, so that other load affects both equally."""
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

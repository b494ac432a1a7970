"""Run the stage evaluate: both served artefacts on the test split, the gate's verdict, and the plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from foundation.errors import MisconfiguredError
from foundation.files import read_document, write_document
from modelkit.images import BLURRED_BELOW_SHARPNESS, BRIGHT_ABOVE_LUMA, DARK_BELOW_LUMA
from modelkit.predictor import Predictor
from modelkit.runtime import RuntimeOptions
from modelkit.runtimes import open_predictor
from modelkit.verify import VerifiedModel
from schemas.reasons import Split
from training.evaluation import OVERALL, Evaluation, Latency, SliceResult, answer, evaluate, measure_latency
from training.evidence import EVALUATION, GATE, PARITY
from training.gate import Budgets, GateResult, decide, target_slices
from training.params import EvaluateParams, GateParams
from training.plots import plot_by_class
from training.registry import load_base
from training.rows import Row, dataset_digest, iter_rows
from training.stages import INT8_FILE, read_candidate
from workspace.layout import Workspace


def run_evaluate(place: Workspace, params: EvaluateParams, gate_params: GateParams) -> dict[str, Any]:
    """Write evaluation.json, gate.json and accuracy_by_class.png; return both documents.

    A refusal of the gate is a result, not an error: package and release act on it.

    Raises:
        MisconfiguredError: a stage has not run, the test split is empty, or the candidate is of another base.
    """
    base = load_base(place.registry_path)
    candidate = read_candidate(place, INT8_FILE)
    if candidate.contract.base_digest != base.model.digest:
        raise MisconfiguredError(
            f"the candidate was made from {candidate.contract.base_digest}, "
            f"but the base is {base.model.digest}; train again"
        )
    predictors = (_predictor(base.model), _predictor(candidate))
    rows = iter_rows(place.dataset_path, Split.TEST, task=candidate.contract.task)
    first = next(rows, None)
    if not first:
        raise MisconfiguredError(
            f"the test split of {place.dataset_path} is empty: nothing can be evaluated on it"
        )
    batches: Iterator[Sequence[Row]] = chain([first], rows)
    evaluation = evaluate(answer(batches, *predictors, params.cluster), params)
    latency = measure_latency(predictors[0].loaded, predictors[1].loaded, first[0], params.latency_runs)
    targets = target_slices(base.model.contract, gate_params)
    budgets = Budgets(
        len(candidate.data), latency.ratio, _agreement(place.reports_path / "parity.json", candidate.digest)
    )
    gate = decide(evaluation, targets, budgets, gate_params)
    documents = _documents(place, base.model, candidate, evaluation, latency, gate, targets)
    place.reports_path.mkdir(parents=True, exist_ok=True)
    plot_by_class(
        evaluation, place.reports_path / "accuracy_by_class.png", base.record.name, candidate.contract.name
    )
    write_document(place.reports_path / "evaluation.json", EVALUATION, documents["evaluation"])
    write_document(place.reports_path / "gate.json", GATE, documents["gate"])
    return documents


def _predictor(model: VerifiedModel) -> Predictor:
    return open_predictor(model, RuntimeOptions(off_vehicle=True))


def _agreement(path: Path, digest: str) -> float:
    """Return the agreement of the int8 artefact with the trained network, from the parity.json of this artefact."""
    found = read_document(path, PARITY) if path.is_file() else None
    for entry in found.parity if found is not None and found.int8_digest == digest else ():
        if (entry.reference, entry.compared) == ("torch", "int8"):
            return entry.agreement_ratio
    raise MisconfiguredError(f"{path} is not about the model {digest}; run `fleetloop quantise` again")


def _documents(
    place: Workspace,
    base: VerifiedModel,
    candidate: VerifiedModel,
    evaluation: Evaluation,
    latency: Latency,
    gate: GateResult,
    targets: Sequence[str],
) -> dict[str, Any]:
    about = {
        "base_digest": base.digest,
        "base_name": base.contract.name,
        "candidate_digest": candidate.digest,
        "candidate_name": candidate.contract.name,
        "dataset_digest": dataset_digest(place.dataset_path),
    }
    latency_seconds = {
        "base_p50_s": latency.base_p50_s,
        "candidate_p50_s": latency.candidate_p50_s,
        "runs": latency.runs,
    }
    return {
        "evaluation": {
            **about,
            **evaluation.to_json(),
            "summary": {found.name: _summary(found) for found in evaluation.slices},
            "latency": latency_seconds,
            "base_untrained": {
                "classes": list(base.contract.untrained_classes),
                "conditions": list(base.contract.untrained_conditions),
            },
            "condition_thresholds": {
                "dark_below_luma": DARK_BELOW_LUMA,
                "bright_above_luma": BRIGHT_ABOVE_LUMA,
                "blurred_below_sharpness": BLURRED_BELOW_SHARPNESS,
            },
        },
        "gate": {
            **about,
            **gate.to_json(),
            "targets": list(targets),
            "overall": _summary_of(evaluation, OVERALL),
        },
    }


def _summary_of(evaluation: Evaluation, name: str) -> dict[str, object]:
    found = evaluation.by_name(name)
    return _summary(found) if found is not None else {}


def _summary(found: SliceResult) -> dict[str, object]:
    return {
        "n": found.n,
        "before": round(found.base.estimate, 6),
        "after": round(found.candidate.estimate, 6),
        "interval_before": [round(found.base.low, 6), round(found.base.high, 6)],
        "interval_after": [round(found.candidate.low, 6), round(found.candidate.high, 6)],
        "difference": [
            round(v, 6) for v in (found.difference.estimate, found.difference.low, found.difference.high)
        ],
        "p_better": found.p_better,
    }

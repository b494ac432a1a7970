"""The gate: a candidate passes only on evidence, and a refusal names every reason. Without a label in the test split it fails.

Non-inferiority: on every slice with at least n_min rows, the one-sided bound of the paired difference is no lower than
minus the margin. A smaller slice is listed as insufficient evidence, and refuses only if it is proven worse by more
than the margin. Superiority: each target slice (what the base was not trained on) must be proven better; one with
fewer than n_min rows may stay unproven, but at least one target must be proven. Then size, latency and parity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from modelkit.contract import ModelContract
from training.evaluation import OVERALL, Evaluation, SliceResult
from training.params import GateParams

Outcome = Literal["passed", "failed", "insufficient evidence"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the evidence, with the value and its bound."""

    name: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class Budgets:
    """Size and latency of the shipped artefact, and its agreement with the trained network."""

    model_bytes: int
    latency_ratio: float
    parity_agreement_ratio: float


@dataclass(frozen=True, slots=True)
class GateResult:
    """Whether the candidate may be released without an override. `reason` names every failed check."""

    passed: bool
    reason: str
    checks: tuple[Check, ...]

    @property
    def insufficient(self) -> tuple[str, ...]:
        """The names of the checks with too few rows."""
        return tuple(check.name for check in self.checks if check.outcome == "insufficient evidence")

    def to_json(self) -> dict[str, object]:
        """Return plain values for gate.json."""
        return {**asdict(self), "insufficient": list(self.insufficient)}


def target_slices(base: ModelContract, params: GateParams) -> tuple[str, ...]:
    """Return the slices that must get better: those of the parameters, or what the base was not trained on."""
    if params.target_slices:
        return params.target_slices
    return (
        *(f"class:{name}" for name in base.untrained_classes),
        *(f"condition:{name}" for name in base.untrained_conditions),
    )


def decide(
    evaluation: Evaluation, targets: Sequence[str], budgets: Budgets, params: GateParams
) -> GateResult:
    """Compare the evidence with the parameters. Pure: equal arguments give equal results."""
    checks = [_not_worse(found, params) for found in evaluation.slices]
    overall = evaluation.by_name(OVERALL)
    if overall is None or overall.n == 0:
        none = f"the {evaluation.rows} test rows have no label that a model could get right or wrong"
        checks.append(Check("has evidence", "failed", none))
    checks += _better(evaluation, targets, params)
    checks += _budgets(evaluation, budgets, params)
    failed = [check for check in checks if check.outcome == "failed"]
    reason = "; ".join(f"{check.name}: {check.detail}" for check in failed)
    return GateResult(not failed, reason or "every check with enough evidence passed", tuple(checks))


def _not_worse(found: SliceResult, params: GateParams) -> Check:
    name = f"not worse on {found.name}"
    bound = found.difference_bound
    detail = (
        f"difference {_points(bound.estimate)}, at least {_points(bound.low)} "
        f"(allowed {_points(-params.margin)}), n={found.n}"
    )
    if bound.high < -params.margin:
        return Check(name, "failed", f"worse beyond the margin: at most {_points(bound.high)}, {detail}")
    if found.n < params.n_min:
        return Check(name, "insufficient evidence", f"n={found.n} is below {params.n_min}; {detail}")
    if bound.low < -params.margin:
        word = "worse" if bound.estimate < -params.margin else "not shown to be within the margin"
        return Check(name, "failed", f"{word}: {detail}")
    return Check(name, "passed", detail)


def _better(evaluation: Evaluation, targets: Sequence[str], params: GateParams) -> list[Check]:
    checks: list[Check] = []
    alpha = 1.0 - evaluation.confidence
    for name in targets:
        found = evaluation.by_name(name)
        if found is None:
            checks.append(Check(f"better on {name}", "insufficient evidence", "no test row is in this slice"))
            continue
        detail = (
            f"difference {_points(found.difference.estimate)}, p={found.p_better:.2g} (needs {alpha:.2g}), "
            f"n={found.n}"
        )
        if found.p_better <= alpha and found.difference.estimate > 0:
            checks.append(Check(f"better on {name}", "passed", detail))
        else:
            outcome: Outcome = "insufficient evidence" if found.n < params.n_min else "failed"
            checks.append(Check(f"better on {name}", outcome, detail))
    if targets and not any(check.outcome == "passed" for check in checks):
        checks.append(
            Check(
                "better on at least one target",
                "failed",
                f"no target slice of {list(targets)} is shown better",
            )
        )
    return checks


def _budgets(evaluation: Evaluation, budgets: Budgets, params: GateParams) -> list[Check]:
    facts = [
        (
            "answers every row",
            evaluation.no_answer_candidate == 0,
            f"{evaluation.no_answer_candidate} of {evaluation.rows} rows without an answer (allowed 0)",
        ),
        (
            "model size",
            budgets.model_bytes <= params.max_model_bytes,
            f"{budgets.model_bytes} bytes (allowed {params.max_model_bytes})",
        ),
        (
            "latency",
            budgets.latency_ratio <= params.max_latency_ratio,
            f"{budgets.latency_ratio:.2f} times the base (allowed {params.max_latency_ratio})",
        ),
        (
            "parity",
            budgets.parity_agreement_ratio >= params.min_parity_agreement,
            f"{budgets.parity_agreement_ratio:.4f} of the answers agree with the trained network "
            f"(needed {params.min_parity_agreement})",
        ),
    ]
    return [Check(name, "passed" if holds else "failed", detail) for name, holds, detail in facts]


def _points(ratio: float) -> str:
    return f"{100 * ratio:+.1f} points"

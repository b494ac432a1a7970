"""Regression: named numbers per picture, such as the angles of a head or the places of landmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from foundation.errors import RejectedError
from modelkit.geometry import Placed
from modelkit.specs import HeadSpec
from modelkit.tasks.task import Raw, Shapes, per_picture
from modelkit.tasks.untrained import UnlabelledTask
from schemas.predictions import MAX_VALUES, ModelPrediction, RegressionOutput
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from modelkit.specs import ContractFields

HEADS: Final = ("values", "values-each")
AGREE_WITHIN: Final = 0.05
"""Two values agree when they differ by at most this share of the larger one, or of 1 where both are smaller."""
_SHOWN: Final = 6


class Regression(UnlabelledTask[RegressionOutput]):
    """Heads: `values` is one output (B, numbers); `values-each` an output (B, 1) for each, named by it.

    The contract's classes are the names of the numbers, in order. Units are the model's own.
    """

    name: ClassVar[str] = "regression"
    heads: ClassVar[tuple[str, ...]] = HEADS
    usual_parity: ClassVar[float] = 0.98
    least_classes: ClassVar[int] = 1

    def roles(self, head: HeadSpec, classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `Task.roles`."""
        return (tuple(classes) if head.kind == "values-each" else ("values",)), ()

    def completed(self, asked: HeadSpec, classes: Sequence[str], taken: list[str]) -> HeadSpec:
        """Take one output for granted."""
        if not asked.kind:
            taken.append("one output with all numbers (--head values-each for one output per number)")
        return HeadSpec(asked.kind or "values")

    def problems(self, contract: ContractFields) -> Iterator[str]:
        """See `Task.problems`."""
        if contract.head.kind not in HEADS:
            yield f"head {contract.head.kind!r}, regression has {list(HEADS)}"
            return
        if not 1 <= len(contract.classes) <= MAX_VALUES:
            yield f"{len(contract.classes)} names, regression allows 1 to {MAX_VALUES}"
        needed, _ = self.roles(contract.head, contract.classes)
        if set(contract.outputs) - {"embedding"} != set(needed):
            yield f"outputs {sorted(contract.outputs)}, the head {contract.head.kind} has {list(needed)}"

    def check_shapes(self, contract: ContractFields, shapes: Shapes) -> None:
        """See `Task.check_shapes`."""
        width = 1 if contract.head.kind == "values-each" else len(contract.classes)
        for name in self.roles(contract.head, contract.classes)[0]:
            shape = shapes[name]
            if shape and (len(shape) < 2 or shape[1] not in (-1, width) or set(shape[2:]) - {1, -1}):
                raise RejectedError(
                    f"{name} has shape {shape[1:]} per picture, the contract has {width} names for it",
                    reason=RefuseReason.WRONG_CLASSES,
                )

    def decode(
        self, raw: Raw, contract: ContractFields, placed: Sequence[Placed]
    ) -> list[RegressionOutput | None]:
        """See `Task.decode`."""
        names = tuple(contract.classes)
        if contract.head.kind == "values-each":
            values = np.concatenate(
                [per_picture(raw, name, contract, len(placed), 1) for name in names], axis=1
            )
        else:
            values = per_picture(raw, "values", contract, len(placed), len(names))
        finite = np.isfinite(values).all(axis=1)
        return [
            RegressionOutput(names, tuple(row.tolist())) if good else None
            for row, good in zip(values, finite, strict=True)
        ]

    def warnings(
        self, raw: Raw, contract: ContractFields, placed: Sequence[Placed], producers: Mapping[str, str]
    ) -> list[str]:
        """Warn of nothing."""
        return []

    def scores(self, output: RegressionOutput, contract: ContractFields) -> dict[str, float]:
        """Return none: a number says nothing about its doubt."""
        return {}

    def agreement(self, a: RegressionOutput, b: RegressionOutput) -> float:
        """Return the share of values that differ by at most AGREE_WITHIN; 0 for other names."""
        if a.names != b.names:
            return 0.0
        one, two = np.array(a.values), np.array(b.values)
        bound = AGREE_WITHIN * np.maximum(np.maximum(np.abs(one), np.abs(two)), 1.0)
        return float((np.abs(one - two) <= bound).mean())

    def wire_fields(self, output: RegressionOutput) -> dict[str, Any]:
        """See `Task.wire_fields`."""
        return {"regression": output}

    def from_wire(self, prediction: ModelPrediction) -> RegressionOutput | None:
        """See `Task.from_wire`."""
        return prediction.regression

    def summary(self, output: RegressionOutput) -> str:
        """Return the first numbers by name."""
        pairs = list(zip(output.names, output.values, strict=True))
        more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
        return ", ".join(f"{name} {value:.3g}" for name, value in pairs[:_SHOWN]) + more

    def describe(self, output: RegressionOutput) -> str:
        """Return the summary."""
        return self.summary(output)

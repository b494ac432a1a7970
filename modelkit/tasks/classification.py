"""Classification: one class per picture (softmax), or several labels that do not compete (sigmoid)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from foundation.errors import RejectedError
from modelkit.geometry import Placed
from modelkit.specs import HeadSpec
from modelkit.tasks.accuracy import Accuracy
from modelkit.tasks.judged import Judged
from modelkit.tasks.task import Drawing, Raw, Shapes, Task, per_picture, wrong_io
from modelkit.tasks.uncertainty import distribution_scores, label_scores
from schemas.predictions import ClassificationOutput, ModelPrediction
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from modelkit.specs import ContractFields

COMPETING: Final = ("softmax", "probabilities")
INDEPENDENT: Final = ("sigmoid", "sigmoid-inside")
_SUM_TOLERANCE: Final = 1e-2
_RANGE_TOLERANCE: Final = 1e-3


class Classification(Task[ClassificationOutput, str]):
    """Heads: `softmax` and `sigmoid` are given logits; `probabilities` and `sigmoid-inside` have it in the graph.

    The label is a class name, "" for none.
    """

    name: ClassVar[str] = "classification"
    heads: ClassVar[tuple[str, ...]] = (*COMPETING, *INDEPENDENT)

    def roles(self, head: HeadSpec, classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the logits."""
        return ("logits",), ()

    def completed(self, asked: HeadSpec, classes: Sequence[str], taken: list[str]) -> HeadSpec:
        """Take softmax for granted."""
        if asked.kind:
            return HeadSpec(asked.kind)
        taken.append(
            "logits, from which softmax makes probabilities (--head probabilities, sigmoid, sigmoid-inside)"
        )
        return HeadSpec()

    def problems(self, contract: ContractFields) -> Iterator[str]:
        """See `Task.problems`."""
        if len(contract.classes) < self.least_classes:
            yield f"{len(contract.classes)} classes, classification needs at least {self.least_classes}"
        if contract.head.kind not in self.heads:
            yield f"head {contract.head.kind!r}, classification has {list(self.heads)}"
        if set(contract.outputs) - {"embedding"} != {"logits"}:
            yield f"outputs {sorted(contract.outputs)}, classification has logits and perhaps embedding"

    def check_shapes(self, contract: ContractFields, shapes: Shapes) -> None:
        """See `Task.check_shapes`."""
        found, wanted = shapes["logits"], len(contract.classes)
        is_row = len(found) >= 2 and set(found[2:]) <= {1}
        if not is_row or found[1] not in (-1, wanted):
            raise RejectedError(
                f"{contract.outputs['logits']!r} has shape {found[1:]} per picture, the contract has {wanted} classes",
                reason=RefuseReason.WRONG_CLASSES if is_row else RefuseReason.WRONG_IO,
            )

    def decode(
        self, raw: Raw, contract: ContractFields, placed: Sequence[Placed]
    ) -> list[ClassificationOutput | None]:
        """See `Task.decode`."""
        values = per_picture(raw, "logits", contract, len(placed), len(contract.classes))
        probabilities = _probabilities(values, contract.head.kind)
        finite = np.asarray(np.isfinite(probabilities).all(axis=1))
        best = probabilities.argmax(axis=1).tolist()
        names = contract.classes
        return [
            ClassificationOutput(names[winner], tuple(row)) if is_finite else None
            for row, winner, is_finite in zip(probabilities.tolist(), best, finite, strict=True)
        ]

    def warnings(
        self, raw: Raw, contract: ContractFields, placed: Sequence[Placed], producers: Mapping[str, str]
    ) -> list[str]:
        """Warn of an activation that is applied twice: the best class stays, but every score is wrong."""
        last, kind = producers.get("logits", ""), contract.head.kind
        if (last, kind) in (("Softmax", "softmax"), ("Sigmoid", "sigmoid")):
            other = {"softmax": "probabilities", "sigmoid": "sigmoid-inside"}[kind]
            return [
                f"the last node of the file is {last} already: the head {kind} applies it twice, {other} does not"
            ]
        return []

    def scores(self, output: ClassificationOutput, contract: ContractFields) -> dict[str, float]:
        """Return entropy, margin and least confidence of the distribution, or of the most doubtful label."""
        if contract.head.kind in COMPETING:
            return distribution_scores(output.probabilities)
        return label_scores(output.probabilities)

    def agreement(self, a: ClassificationOutput, b: ClassificationOutput) -> float:
        """Return 1 when both name the same class, else 0."""
        return float(a.class_name == b.class_name)

    def wire_fields(self, output: ClassificationOutput) -> dict[str, Any]:
        """See `Task.wire_fields`."""
        return {"classification": output}

    def from_wire(self, prediction: ModelPrediction) -> ClassificationOutput | None:
        """See `Task.from_wire`."""
        return prediction.classification

    def summary(self, output: ClassificationOutput) -> str:
        """Return the class."""
        return output.class_name

    def describe(self, output: ClassificationOutput) -> str:
        """Return the class with its probability."""
        return f"{output.class_name} ({max(output.probabilities):.2f})"

    label_column: ClassVar[str] = "class_name"
    label_is_class: ClassVar[bool] = True
    usual_parity: ClassVar[float] = 0.98
    least_classes: ClassVar[int] = 2
    moves_pictures: ClassVar[bool] = True

    def label_of(self, value: Any) -> str:
        """See `Task.label_of`."""
        if not isinstance(value, str) or not value:
            raise ValueError("it has no class")
        return value

    def as_label(self, output: ClassificationOutput) -> str:
        """Return the class."""
        return output.class_name

    def label_problem(
        self, label: str, classes: Sequence[str], size: tuple[float, float] | None = None
    ) -> str:
        """See `Task.label_problem`."""
        return "" if label in classes else f"class {label!r} is not in {list(classes)}"

    def label_words(self, label: str) -> str:
        """Return the class."""
        return label

    def classes_of(self, label: str) -> tuple[str, ...]:
        """Return the one class."""
        return (label,)

    def mark(self, drawing: Drawing, label: str, scale: float, offset: tuple[int, int]) -> None:
        """Draw nothing: the sheet is of one class."""

    def target(self, label: str, contract: ContractFields, placed: Placed) -> int:
        """Return the class number."""
        return contract.classes.index(label)

    def groups(self, labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
        """Return the class numbers."""
        index = {name: number for number, name in enumerate(classes)}
        return np.array([index[label] for label in labels], dtype=np.int64)

    def loss(
        self, outputs: Mapping[str, Any], targets: Sequence[int], contract: ContractFields, smoothing: float
    ) -> Any:
        """Return the cross-entropy with label smoothing."""
        import torch
        from torch.nn import functional

        truth = torch.tensor(targets, dtype=torch.int64)
        return functional.cross_entropy(outputs["logits"], truth, label_smoothing=smoothing)

    def quality(
        self,
        labels: Sequence[str],
        outputs: Sequence[ClassificationOutput | None],
        classes: Sequence[str],
    ) -> float:
        """Return the recall averaged over the classes that have a row."""
        by_class: dict[str, list[bool]] = {}
        for label, output in zip(labels, outputs, strict=True):
            by_class.setdefault(label, []).append(output is not None and output.class_name == label)
        return float(np.mean([np.mean(found) for found in by_class.values()]))

    def judge(
        self,
        labels: Sequence[str],
        outputs: Sequence[ClassificationOutput | None],
        classes: Sequence[str],
    ) -> Judged:
        """Return accuracy."""
        return Accuracy(labels, outputs, classes)


def _probabilities(values: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", over="ignore"):
        if kind == "softmax":
            exponents = np.exp(values - values.max(axis=1, keepdims=True))
            return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))
        if kind == "sigmoid":
            return np.asarray(1.0 / (1.0 + np.exp(-values)))
    known = values[np.isfinite(values).all(axis=1)]
    off = known[(known < -_RANGE_TOLERANCE) | (known > 1.0 + _RANGE_TOLERANCE)]
    if off.size:
        raise wrong_io(f"the head says {kind}, the model gives {off.flat[0]:g}, which is no probability")
    sums = known.sum(axis=1)
    if kind == "probabilities" and known.size and np.abs(sums - 1.0).max() > _SUM_TOLERANCE:
        worst = sums[np.abs(sums - 1.0).argmax()]
        raise wrong_io(f"the head says {kind}, the model gives {worst:g} as their sum, not 1")
    return np.asarray(np.where(np.isfinite(values), np.clip(values, 0.0, 1.0), values))

"""Embedding: a unit vector per picture, so that pictures can be compared and searched; no classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from modelkit.geometry import Placed
from modelkit.specs import HeadSpec
from modelkit.tasks.task import Raw, Shapes, per_picture
from modelkit.tasks.untrained import UnlabelledTask
from schemas.predictions import ModelPrediction

if TYPE_CHECKING:
    from modelkit.specs import ContractFields

Vector = tuple[float, ...]
HEAD: Final = "normalised"
_SHOWN: Final = 3


class Embedding(UnlabelledTask[Vector]):
    """The one head, `normalised`, divides the embedding by its length (Euclidean); a vector of length 0 is no answer."""

    name: ClassVar[str] = "embedding"
    heads: ClassVar[tuple[str, ...]] = (HEAD,)
    usual_parity: ClassVar[float] = 0.98

    def roles(self, head: HeadSpec, classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the embedding."""
        return ("embedding",), ()

    def completed(self, asked: HeadSpec, classes: Sequence[str], taken: list[str]) -> HeadSpec:
        """Take the one head."""
        return HeadSpec(asked.kind or HEAD)

    def facts(self, contract: ContractFields) -> list[str]:
        """Return its length."""
        return [f"embedding: {contract.embedding_size} numbers, of length 1 together"]

    def problems(self, contract: ContractFields) -> Iterator[str]:
        """See `Task.problems`."""
        if contract.head.kind != HEAD:
            yield f"head {contract.head.kind!r}, embedding has {[HEAD]}"
        if set(contract.outputs) != {"embedding"}:
            yield f"outputs {sorted(contract.outputs)}, embedding has ['embedding']"
        if contract.classes:
            yield f"{len(contract.classes)} classes, an embedding has none"

    def check_shapes(self, contract: ContractFields, shapes: Shapes) -> None:
        """Check nothing: an embedding's shape is checked for every task."""

    def decode(self, raw: Raw, contract: ContractFields, placed: Sequence[Placed]) -> list[Vector | None]:
        """See `Task.decode`."""
        values = per_picture(raw, "embedding", contract, len(placed), contract.embedding_size)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            largest = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
            scaled = values / largest  # so that no square overflows
            units = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
        finite = np.isfinite(units).all(axis=1)
        return [tuple(row.tolist()) if good else None for row, good in zip(units, finite, strict=True)]

    def warnings(
        self, raw: Raw, contract: ContractFields, placed: Sequence[Placed], producers: Mapping[str, str]
    ) -> list[str]:
        """Warn of a vector without direction."""
        missing = sum(each is None for each in self.decode(raw, contract, placed))
        return ["an embedding is all 0 or not finite: it has no direction"] if missing else []

    def scores(self, output: Vector, contract: ContractFields) -> dict[str, float]:
        """Return none: novelty is measured for every model with an embedding."""
        return {}

    def agreement(self, a: Vector, b: Vector) -> float:
        """Return the cosine, at least 0; 0 for vectors of other sizes."""
        if len(a) != len(b):
            return 0.0
        return float(np.clip(np.dot(a, b), 0.0, 1.0))

    def wire_fields(self, output: Vector) -> dict[str, Any]:
        """See `Task.wire_fields`: the embedding that is sent has length 1."""
        return {"embedding": output}

    def from_wire(self, prediction: ModelPrediction) -> Vector | None:
        """See `Task.from_wire`."""
        return tuple(prediction.embedding) or None

    def summary(self, output: Vector) -> str:
        """Return its size."""
        return f"{len(output)} numbers"

    def describe(self, output: Vector) -> str:
        """Return its size and largest numbers."""
        order = np.argsort(-np.abs(output), kind="stable")[:_SHOWN]
        return (
            f"{len(output)} numbers, largest {', '.join(f'[{i}] {output[i]:+.2f}' for i in order.tolist())}"
        )

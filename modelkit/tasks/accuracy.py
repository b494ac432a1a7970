"""Accuracy of classification: the share of correct answers; a picture without an answer counts as wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from modelkit.tasks.judged import Floats, Judged
from schemas.predictions import ClassificationOutput


class Accuracy(Judged):
    """See `Judged`. `classes` is the contract's order."""

    metric: ClassVar[str] = "accuracy"

    def __init__(
        self, labels: Sequence[str], outputs: Sequence[ClassificationOutput | None], classes: Sequence[str]
    ) -> None:
        index = {name: number for number, name in enumerate(classes)}
        self._classes = index
        self._truth = np.array([index[name] for name in labels], dtype=np.int64)
        self._said = np.array([-1 if o is None else index[o.class_name] for o in outputs], dtype=np.int64)

    def evidence(self, class_name: str | None) -> NDArray[np.int64]:
        """Return one per row of the class."""
        if class_name is None:
            return np.ones(len(self._truth), dtype=np.int64)
        return np.asarray(self._truth == self._classes[class_name], dtype=np.int64)

    def values(self, class_name: str | None, weights: Floats) -> Floats:
        """See `Judged.values`."""
        counted = weights * self.evidence(class_name)
        total = counted.sum(axis=1)
        right = (counted * (self._said == self._truth)).sum(axis=1)
        return np.asarray(np.divide(right, total, out=np.zeros_like(total), where=total > 0))

    def right(self, class_name: str | None) -> NDArray[np.bool_]:
        """See `Judged.right`."""
        return np.asarray(self._said == self._truth)

    def details(self) -> dict[str, Any]:
        """`confusion` is [truth][answer] in the contract's order, rows without an answer left out."""
        size, answered = len(self._classes), self._said >= 0
        flat = np.bincount(self._truth[answered] * size + self._said[answered], minlength=size * size)
        return {"confusion": flat.reshape(size, size).tolist()}

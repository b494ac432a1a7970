"""How good one model's answers are on labelled pictures, in a form that can be cut into slices and drawn again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Judged(ABC):
    """Answers of one model, row by row. A class narrows every question to that class; None asks about all."""

    metric: ClassVar[str]

    @abstractmethod
    def evidence(self, class_name: str | None) -> NDArray[np.int64]:
        """How many labelled things each row has (rows,)."""

    @abstractmethod
    def values(self, class_name: str | None, weights: Floats) -> Floats:
        """The metric in [0, 1] with every row counted `weights` times: (S, rows) to (S,); 0 without evidence."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """What only this task reports, as plain values."""

    def right(self, class_name: str | None) -> NDArray[np.bool_] | None:
        """Which rows are right, where the metric is their share among the rows with evidence; None where it is not."""
        return None

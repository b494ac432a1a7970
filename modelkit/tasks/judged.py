"""One model's answers compared with labels, in a form that can be sliced and resampled."""

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
        """Return the number of labels of each row (rows,)."""

    @abstractmethod
    def values(self, class_name: str | None, weights: Floats) -> Floats:
        """Return the metric in [0, 1] with every row counted `weights` times: (S, rows) to (S,); 0 without evidence."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """Return what only this task reports, as plain values."""

    def right(self, class_name: str | None) -> NDArray[np.bool_] | None:
        """Return which rows are correct, if the metric is their share among the rows with evidence; else None."""
        return None

    def silent(self) -> NDArray[np.bool_] | None:
        """Return in which rows the model answered, and answered that there is nothing; None where every row has a label."""
        return None

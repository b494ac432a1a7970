"""Tasks whose models are run and measured but not trained here: what training asks of a task is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from foundation.errors import MisconfiguredError
from modelkit.geometry import Placed
from modelkit.tasks.judged import Judged
from modelkit.tasks.task import Drawing, Task

if TYPE_CHECKING:
    from modelkit.specs import ContractFields

Output = TypeVar("Output")
Label = TypeVar("Label")


class UntrainedTask(Task[Output, Label]):
    """Refuses targets, groups and losses: no network of this task is trained yet."""

    learns: ClassVar[bool] = False
    moves_pictures: ClassVar[bool] = False
    label_is_class: ClassVar[bool] = False

    def target(self, label: Label, contract: ContractFields, placed: Placed) -> Any:
        """Raise MisconfiguredError."""
        raise self._untrained("has no training target")

    def groups(self, labels: Sequence[Label], classes: Sequence[str]) -> NDArray[np.int64]:
        """Raise MisconfiguredError."""
        raise self._untrained("has no groups to sample from")

    def loss(
        self, outputs: Mapping[str, Any], targets: Sequence[Any], contract: ContractFields, smoothing: float
    ) -> Any:
        """Raise MisconfiguredError."""
        raise self._untrained("has no loss")

    def _untrained(self, what: str) -> MisconfiguredError:
        return MisconfiguredError(f"the task {self.name} {what}: its models are imported, not trained here")


class UnlabelledTask(UntrainedTask[Output, Output]):
    """Refuses labels too."""

    label_column: ClassVar[str] = ""
    least_classes: ClassVar[int] = 0

    def label_of(self, value: Any) -> Output:
        """Raise MisconfiguredError."""
        raise self._untrained("has no labels")

    def as_label(self, output: Output) -> Output:
        """Return the output."""
        return output

    def label_problem(
        self, label: Output, classes: Sequence[str], size: tuple[float, float] | None = None
    ) -> str:
        """Return that there are none."""
        return f"the task {self.name} has no labels"

    def label_words(self, label: Output) -> str:
        """Return the summary."""
        return self.summary(label)

    def classes_of(self, label: Output) -> tuple[str, ...]:
        """Return none."""
        return ()

    def mark(self, drawing: Drawing, label: Output, scale: float, offset: tuple[int, int]) -> None:
        """Draw nothing."""

    def quality(
        self, labels: Sequence[Output], outputs: Sequence[Output | None], classes: Sequence[str]
    ) -> float:
        """Raise MisconfiguredError."""
        raise self._untrained("has no metric")

    def judge(
        self, labels: Sequence[Output], outputs: Sequence[Output | None], classes: Sequence[str]
    ) -> Judged:
        """Raise MisconfiguredError."""
        raise self._untrained("has no metric")

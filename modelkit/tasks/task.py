"""The interface of a task. The vehicle uses the first half of it, datasets and training the second."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from foundation.errors import RejectedError
from modelkit.geometry import Placed
from modelkit.tasks.judged import Judged
from schemas.predictions import ModelPrediction
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from modelkit.specs import ContractFields, HeadSpec

Raw = Mapping[str, NDArray[Any]]
"""What a graph returned, by role; the batch is the first axis unless the head says otherwise."""
Shapes = Mapping[str, tuple[int, ...]]
"""The shapes that a graph declares, by role; -1 where a size is free."""


class Drawing(Protocol):
    """What `mark` needs of a drawing library (Pillow's ImageDraw)."""

    def rectangle(self, xy: Sequence[float], *, outline: str, width: int) -> None:
        """Draw an outline."""

    def bitmap(self, xy: Sequence[int], bitmap: Any, *, fill: str) -> None:
        """Lay a colour over the picture, as strongly as a grey picture says."""


class Move(Protocol):
    """A geometric change of a picture."""

    def edges(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert boxes (N, 4) of the picture before to those of the picture after, in pixels of the input."""


Output = TypeVar("Output")
Label = TypeVar("Label")


class Task(ABC, Generic[Output, Label]):
    """One kind of question to a model. Stateless; there is one instance of each, in `modelkit.tasks.TASKS`."""

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]]
    """The forms of output that it reads: `HeadSpec.kind`."""

    @abstractmethod
    def roles(self, head: HeadSpec, classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the outputs that the head needs, and those that it may have besides an embedding."""

    @abstractmethod
    def completed(self, asked: HeadSpec, classes: Sequence[str], taken: list[str]) -> HeadSpec:
        """Return the head of a model from elsewhere, of which "" was not said; defaults are added to `taken` as text.

        Raises:
            MisconfiguredError: what must be said is missing.
        """

    def facts(self, contract: ContractFields) -> list[str]:
        """Return what a person should know of the head, in lines."""
        del contract
        return []

    @abstractmethod
    def problems(self, contract: ContractFields) -> Iterator[str]:
        """Yield the contradictions in the contract's classes, head and outputs."""

    @abstractmethod
    def check_shapes(self, contract: ContractFields, shapes: Shapes) -> None:
        """Check the shapes that the graph declares against the contract.

        Raises:
            RejectedError: reason `wrong_io`, or `wrong_classes` where the number of classes is another.
        """

    @abstractmethod
    def decode(self, raw: Raw, contract: ContractFields, placed: Sequence[Placed]) -> list[Output | None]:
        """Return one output per picture, None where what comes out of the head is not finite.

        Raises:
            RejectedError: reason `wrong_io`; the outputs are not of the shape or range that the head says.
        """

    @abstractmethod
    def warnings(
        self, raw: Raw, contract: ContractFields, placed: Sequence[Placed], producers: Mapping[str, str]
    ) -> list[str]:
        """Return likely mistakes in the contract, as text, from one run; `producers` is each role's last operator."""

    @abstractmethod
    def scores(self, output: Output, contract: ContractFields) -> dict[str, float]:
        """Return how much there is to learn from this picture, by measure, each in [0, 1]."""

    def count(self, output: Output) -> int | None:
        """Return how many objects there are, None where nothing is counted; see `modelkit.scores.CountMemory`."""
        del output
        return None

    @abstractmethod
    def agreement(self, a: Output, b: Output) -> float:
        """Return how far two models agree on one picture, 0 to 1."""

    @abstractmethod
    def wire_fields(self, output: Output) -> dict[str, Any]:
        """Return the fields of `ModelPrediction` that carry this output."""

    @abstractmethod
    def from_wire(self, prediction: ModelPrediction) -> Output | None:
        """Return the output that `wire_fields` wrote, None when the record has none."""

    @abstractmethod
    def summary(self, output: Output) -> str:
        """Return the output in a few words, for logs."""

    @abstractmethod
    def describe(self, output: Output) -> str:
        """Return the output in a sentence with its scores, for a person who tries a model."""

    # Datasets.

    label_column: ClassVar[str]
    """The column of lake and shards that holds the label; null where nobody looked yet."""
    usual_parity: ClassVar[float]
    """How far the quantised form of a sound model agrees with the trained one, at least: a new workspace's gate asks for it."""
    label_is_class: ClassVar[bool]
    """Whether the plain value of that column is the one class itself, so that whole columns can be compared."""
    least_classes: ClassVar[int]
    """Fewer classes than this leave nothing to ask a model."""

    @abstractmethod
    def label_of(self, value: Any) -> Label:
        """Return the label from the plain value of `label_column`. Raises KeyError, TypeError or ValueError."""

    @abstractmethod
    def as_label(self, output: Output) -> Label:
        """Return a model's output as a label."""

    @abstractmethod
    def label_problem(
        self, label: Label, classes: Sequence[str], size: tuple[float, float] | None = None
    ) -> str:
        """Return why the label cannot be used with these classes and a picture of this width and height, "" when it can."""

    @abstractmethod
    def label_words(self, label: Label) -> str:
        """Return the label in a few words, for lists."""

    @abstractmethod
    def classes_of(self, label: Label) -> tuple[str, ...]:
        """Return the classes that the label names, each once, in order of name."""

    @abstractmethod
    def mark(self, drawing: Drawing, label: Label, scale: float, offset: tuple[int, int]) -> None:
        """Draw the label upon its picture on a card: picture pixels times `scale`, moved by `offset`."""

    # Training and evaluation.

    learns: ClassVar[bool] = True
    """Whether a workspace's labels can be of this task and its models are trained here; others are imported and run."""
    moves_pictures: ClassVar[bool]
    """Whether training may shift a picture without changing its label; otherwise it zooms and calls `moved`."""

    @abstractmethod
    def target(self, label: Label, contract: ContractFields, placed: Placed) -> Any:
        """Return the label in the terms of the model's input, as `loss` takes it."""

    def moved(self, target: Any, zoom: Move, contract: ContractFields) -> Any:
        """Return the target (see `target`) of a picture that was magnified and moved: the same, where no place is in it."""
        del zoom, contract
        return target

    @abstractmethod
    def groups(self, labels: Sequence[Label], classes: Sequence[str]) -> NDArray[np.int64]:
        """Return a group number per row, for balanced sampling by group size."""

    @abstractmethod
    def loss(
        self, outputs: Mapping[str, Any], targets: Sequence[Any], contract: ContractFields, smoothing: float
    ) -> Any:
        """Return the loss of a batch as a torch scalar; `outputs` are tensors by role. Imports torch."""

    @abstractmethod
    def quality(
        self, labels: Sequence[Label], outputs: Sequence[Output | None], classes: Sequence[str]
    ) -> float:
        """Return one number in [0, 1] by which training chooses an epoch."""

    @abstractmethod
    def judge(
        self, labels: Sequence[Label], outputs: Sequence[Output | None], classes: Sequence[str]
    ) -> Judged:
        """Return the metric of this task on labelled pictures."""


def wrong_io(message: str) -> RejectedError:
    """Return the refusal of outputs or shapes that are not what the contract says."""
    return RejectedError(message, reason=RefuseReason.WRONG_IO)


def role(raw: Raw, name: str) -> NDArray[np.float64]:
    """Return the output of a role as float64. Raises RejectedError(wrong_io) when it is no array of numbers."""
    try:
        return np.asarray(raw[name], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise wrong_io(f"{name} is no array of numbers: {error}") from error


def per_picture(raw: Raw, name: str, contract: ContractFields, count: int, width: int) -> NDArray[np.float64]:
    """Return the output of a role that has one row of `width` numbers per picture; rows that only filled a batch are cut.

    Axes of one after it, as a pooling leaves them, are dropped.

    Raises:
        RejectedError: reason `wrong_io`; it has another shape.
    """
    values, rows = role(raw, name), contract.input.batch or count
    if values.ndim > 2 and set(values.shape[2:]) == {1}:
        values = values.reshape(values.shape[:2])
    if values.shape != (rows, width):
        raise wrong_io(f"{name} of shape {values.shape}, the contract says {(rows, width)}")
    return values[:count]

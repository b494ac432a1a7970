"""Segmentation: a class for every cell of a grid over the picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.geometry import Placed
from modelkit.specs import HeadSpec
from modelkit.tasks.judged import Judged
from modelkit.tasks.masks import Cells, Mask, over_picture, pack, resized, thinned, unpack
from modelkit.tasks.mean_iou import MeanIou
from modelkit.tasks.task import Drawing, Raw, Shapes, role, wrong_io
from modelkit.tasks.uncertainty import map_scores
from modelkit.tasks.untrained import UntrainedTask
from schemas.predictions import (
    MAX_MASK_CLASSES,
    MAX_MASK_SIDE,
    UNSEEN,
    ModelPrediction,
    SegmentationOutput,
    check_mask,
)
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from modelkit.specs import ContractFields

HEADS: Final = ("mask-logits", "mask-probabilities", "mask-logits-nhwc", "mask-classes", "mask-layers")
SCORED_CELLS: Final = 65_536
"""Scores are measured on about so many cells of a map, evenly spread."""
_COLOURS: Final = ("#ffd23f", "#3bceac", "#ee4266", "#3f88c5", "#f49d37", "#7b2d8b")
_OPACITY: Final = 110
_SUM_TOLERANCE: Final = 1e-2
DESCRIBED_CLASSES: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Segmented:
    """The mask, and the model's doubt by measure, each averaged over the cells and in [0, 1]; empty if it gives none."""

    mask: Mask
    doubt: Mapping[str, float] = field(default_factory=dict)


class Segmentation(UntrainedTask[Segmented, Mask]):
    """Heads, of which the best class of a cell is taken where there is a choice:

    - `mask-logits`: mask (B, C, h, w); `mask-probabilities`: the same after softmax; `mask-logits-nhwc`: (B, h, w, C);
    - `mask-classes`: mask (B, h, w) or (B, 1, h, w) of class numbers;
    - `mask-layers`: an output (B, 2, h, w) of logits "no" and "yes" for each class but the first, named by the class.
      Later classes are painted over earlier ones; what is none of them is of the first class, the background.

    The label is a mask.
    """

    name: ClassVar[str] = "segmentation"
    heads: ClassVar[tuple[str, ...]] = HEADS
    label_column: ClassVar[str] = "mask"
    usual_parity: ClassVar[float] = 0.9
    least_classes: ClassVar[int] = 2

    def roles(self, head: HeadSpec, classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `Task.roles`."""
        return (tuple(classes[1:]) if head.kind == "mask-layers" else ("mask",)), ()

    def completed(self, asked: HeadSpec, classes: Sequence[str], taken: list[str]) -> HeadSpec:
        """Ask for the head."""
        if not asked.kind:
            raise MisconfiguredError(f"say how the mask comes out with --head: {', '.join(HEADS)}")
        return dataclasses.replace(HeadSpec(asked.kind), first_class=asked.first_class)

    def facts(self, contract: ContractFields) -> list[str]:
        """Return what a cell can be."""
        return [f"mask: {len(contract.classes)} classes, the first is {contract.classes[0]!r}"]

    def problems(self, contract: ContractFields) -> Iterator[str]:
        """See `Task.problems`."""
        count, spec = len(contract.classes), contract.head
        if spec.kind not in HEADS:
            yield f"head {spec.kind!r}, segmentation has {list(HEADS)}"
            return
        if not self.least_classes <= count <= MAX_MASK_CLASSES:
            yield f"{count} classes, segmentation allows {self.least_classes} to {MAX_MASK_CLASSES}"
        needed, _ = self.roles(spec, contract.classes)
        if set(contract.outputs) - {"embedding"} != set(needed):
            yield f"outputs {sorted(contract.outputs)}, the head {spec.kind} has {list(needed)}"
        if not 0 <= spec.first_class <= MAX_MASK_CLASSES or (
            spec.first_class and spec.kind != "mask-classes"
        ):
            yield f"first_class {spec.first_class}, only mask-classes may begin at another number than 0"

    def check_shapes(self, contract: ContractFields, shapes: Shapes) -> None:
        """See `Task.check_shapes`."""
        kind, count = contract.head.kind, len(contract.classes)
        if kind == "mask-classes":
            return
        wanted = 2 if kind == "mask-layers" else count
        for name in self.roles(contract.head, contract.classes)[0]:
            shape = shapes[name]
            if not shape:
                continue  # the file does not say
            if len(shape) != 4:
                raise wrong_io(f"{name} has shape {shape}, a map has four axes")
            found = shape[3] if kind == "mask-logits-nhwc" else shape[1]
            if found not in (-1, wanted):
                raise RejectedError(
                    f"{name} of shape {shape} has {found} channels, the contract needs {wanted}",
                    reason=RefuseReason.WRONG_CLASSES,
                )

    def decode(self, raw: Raw, contract: ContractFields, placed: Sequence[Placed]) -> list[Segmented | None]:
        """See `Task.decode`."""
        with np.errstate(invalid="ignore", over="ignore"):
            return [self._mask(raw, contract, where, index) for index, where in enumerate(placed)]

    def _mask(self, raw: Raw, contract: ContractFields, where: Placed, index: int) -> Segmented | None:
        kind = contract.head.kind
        if kind == "mask-classes":
            numbers = _numbers(raw, contract, index)
            doubt: dict[str, float] = {}
        else:
            maps = [
                _map(raw, name, contract, index) for name in self.roles(contract.head, contract.classes)[0]
            ]
            if not all(np.isfinite(each).all() for each in maps):
                return None
            if kind == "mask-layers":
                numbers = np.zeros(maps[0].shape[1:], dtype=np.uint8)
                for number, each in enumerate(maps, start=1):
                    if each.shape != maps[0].shape:
                        raise wrong_io(f"layers of shapes {maps[0].shape} and {each.shape}")
                    numbers[each.argmax(axis=0) == 1] = number
            else:
                numbers = maps[0].argmax(axis=0).astype(np.uint8)
            small = [thinned(each, SCORED_CELLS) for each in maps]
            doubt = map_scores([each if kind == "mask-probabilities" else _shares(each) for each in small])
        return Segmented(Mask(tuple(contract.classes), over_picture(numbers, where, contract.input)), doubt)

    def warnings(
        self, raw: Raw, contract: ContractFields, placed: Sequence[Placed], producers: Mapping[str, str]
    ) -> list[str]:
        """Warn of a softmax that is applied twice, and of a map that has one class only."""
        found = []
        if contract.head.kind == "mask-logits" and producers.get("mask") == "Softmax":
            found.append(
                "the last node of the file is Softmax already: mask-probabilities does not apply it again"
            )
        seen = [
            np.unique(answer.mask.cells[answer.mask.cells != UNSEEN])
            for answer in self.decode(raw, contract, placed)
            if answer is not None
        ]
        found += [
            f"a picture is {contract.classes[int(numbers[0])]!r} all over"
            for numbers in seen
            if len(numbers) == 1
        ]
        return found

    def scores(self, output: Segmented, contract: ContractFields) -> dict[str, float]:
        """Return entropy, margin and least confidence, averaged over the cells; none where the model gives classes alone."""
        return dict(output.doubt)

    def agreement(self, a: Segmented, b: Segmented) -> float:
        """Return the mean intersection over union of the classes that either has, on the grid of `a`."""
        one, two = a.mask.cells, resized(b.mask.cells, *a.mask.cells.shape)
        found = []
        for number in np.union1d(one, two):
            if number != UNSEEN:
                both = int(((one == number) & (two == number)).sum())
                found.append(both / int(((one == number) | (two == number)).sum()))
        return float(np.mean(found)) if found else 1.0

    def wire_fields(self, output: Segmented) -> dict[str, Any]:
        """See `Task.wire_fields`."""
        return {"segmentation": pack(output.mask)}

    def from_wire(self, prediction: ModelPrediction) -> Segmented | None:
        """See `Task.from_wire`. Doubt is not transferred but for the scores beside it."""
        return Segmented(unpack(prediction.segmentation)) if prediction.segmentation is not None else None

    def summary(self, output: Segmented) -> str:
        """Return the share of each class."""
        return self.label_words(output.mask)

    def describe(self, output: Segmented) -> str:
        """Return the share of each class and the model's doubt."""
        doubt = "".join(f", {name} {value:.2f}" for name, value in output.doubt.items() if name == "entropy")
        return self.label_words(output.mask) + doubt

    def label_of(self, value: Any) -> Mask:
        """Return the mask of {classes, height, width, mask: bytes of zlib}. Raises ValueError for another."""
        output = SegmentationOutput(
            tuple(value["classes"]), value["height"], value["width"], bytes(value["mask"])
        )
        try:
            check_mask("label", output)
        except RejectedError as error:
            raise ValueError(str(error)) from error
        return unpack(output)

    def as_label(self, output: Segmented) -> Mask:
        """Return the mask."""
        return output.mask

    def label_problem(
        self, label: Mask, classes: Sequence[str], size: tuple[float, float] | None = None
    ) -> str:
        """See `Task.label_problem`."""
        unknown = [name for name in label.classes if name not in classes]
        if unknown:
            return f"class {unknown[0]!r} is not in {list(classes)}"
        if not label.cells.size or max(label.cells.shape) > MAX_MASK_SIDE:
            return f"mask of {label.cells.shape} cells, allowed are 1 to {MAX_MASK_SIDE} per side"
        if (label.cells == UNSEEN).all():
            return "no cell of the mask has a class"
        return ""

    def label_words(self, label: Mask) -> str:
        """Return the largest shares."""
        shares = sorted(((share, name) for name, share in label.shares().items() if share > 0), reverse=True)
        more = f" and {len(shares) - DESCRIBED_CLASSES} more" if len(shares) > DESCRIBED_CLASSES else ""
        named = ", ".join(f"{share:.0%} {name}" for share, name in shares[:DESCRIBED_CLASSES])
        return f"{named}{more}" or "nothing"

    def classes_of(self, label: Mask) -> tuple[str, ...]:
        """See `Task.classes_of`."""
        return tuple(sorted(name for name, share in label.shares().items() if share > 0))

    def mark(self, drawing: Drawing, label: Mask, scale: float, offset: tuple[int, int]) -> None:
        """Lay a colour over every class but the first, which is the background; `scale` is of the mask's cells."""
        from PIL import Image

        height, width = (max(round(side * scale), 1) for side in label.cells.shape)
        cells = resized(label.cells, height, width)
        for number in range(1, len(label.classes)):
            shade = np.where(cells == number, np.uint8(_OPACITY), np.uint8(0))
            drawing.bitmap(offset, Image.fromarray(shade), fill=_COLOURS[(number - 1) % len(_COLOURS)])

    def quality(
        self, labels: Sequence[Mask], outputs: Sequence[Segmented | None], classes: Sequence[str]
    ) -> float:
        """Return mean intersection over union."""
        return float(self.judge(labels, outputs, classes).values(None, np.ones((1, len(labels))))[0])

    def judge(
        self, labels: Sequence[Mask], outputs: Sequence[Segmented | None], classes: Sequence[str]
    ) -> Judged:
        """Return mean intersection over union."""
        return MeanIou(labels, [None if each is None else each.mask for each in outputs], classes)


def _map(raw: Raw, name: str, contract: ContractFields, index: int) -> NDArray[np.float64]:
    """Return one picture's map (C, h, w)."""
    kind, values = contract.head.kind, role(raw, name)
    wanted = 2 if kind == "mask-layers" else len(contract.classes)
    if values.ndim != 4 or len(values) <= index:
        raise wrong_io(f"{name} of shape {values.shape}, not (batch, ...) of four axes with picture {index}")
    found = np.asarray(values[index], dtype=np.float64)
    if kind == "mask-logits-nhwc":
        found = found.transpose(2, 0, 1)
    if found.shape[0] != wanted or not found.size:
        raise wrong_io(
            f"{name} of shape {values.shape}, the contract needs {wanted} channels of a class each"
        )
    if kind == "mask-probabilities" and np.isfinite(found).all():
        sums = found.sum(axis=0)
        if found.min() < -_SUM_TOLERANCE or np.abs(sums - 1.0).max() > _SUM_TOLERANCE:
            worst = sums.flat[np.abs(sums - 1.0).argmax()]
            raise wrong_io(
                f"the head says {kind}, the model gives {found.min():g} as the least and {worst:g} as a cell's sum"
            )
        found = np.clip(found, 0.0, 1.0)
        found /= found.sum(axis=0)
    return found


def _numbers(raw: Raw, contract: ContractFields, index: int) -> Cells:
    values, first = role(raw, "mask"), contract.head.first_class
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 3 or len(values) <= index or not values[index].size:
        raise wrong_io(f"mask of shape {np.shape(raw['mask'])}, not (batch, rows, columns) of class numbers")
    numbers = values[index] - first
    bad = numbers[~((numbers >= 0) & (numbers < len(contract.classes)) & (numbers == np.floor(numbers)))]
    if bad.size:
        raise wrong_io(
            f"a cell of the mask is {bad.flat[0] + first:g}; it must be a whole number in "
            f"[{first}, {first + len(contract.classes) - 1}]"
        )
    return np.asarray(numbers, dtype=np.uint8)


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(values - values.max(axis=0, keepdims=True))
    return np.asarray(shares / shares.sum(axis=0, keepdims=True))

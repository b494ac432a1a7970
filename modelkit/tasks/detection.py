"""Detection: the objects of a picture, each a box with a class and a score."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.geometry import Placed
from modelkit.tasks.average_precision import AveragePrecision
from modelkit.tasks.boxes import area, clip, overlap, suppress
from modelkit.tasks.candidate_rows import Rows
from modelkit.tasks.dense_heads import shape_problem
from modelkit.tasks.detection_heads import (
    COLUMNS,
    CONVENTIONS,
    HEADS,
    OWN_BOXES,
    UNITS,
    candidates,
    columns_problem,
    roles_of,
)
from modelkit.tasks.judged import Judged
from modelkit.tasks.task import Drawing, Move, Raw, Shapes, Task
from modelkit.tasks.uncertainty import label_scores, mean_label_scores
from schemas.predictions import Box, DetectionOutput, ModelPrediction
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from modelkit.specs import ContractFields, HeadSpec, Suppression

MATCH_OVERLAP = 0.5
"""Two boxes of one class are the same object when they overlap by at least this."""
ALL_BOXES = 1_000
EDGES = ("left", "top", "right", "bottom")
_OUTLINE = "#ffd23f"
_NORMALISED = 1.5
_FAR = 4.0
DESCRIBED_BOXES = 3
LEAST_VISIBLE = 0.4
"""Share of a box that must stay in a picture which training zoomed."""
OUTSIDE_PIXELS = 1.0
"""A labelled box may end so far outside of its picture: tools round edges differently."""
MAX_PRIORS = 256
MAX_PRIOR_PIXELS = 8192.0
MANY_BOXES = 50
"""So many objects or more give the score `count` its largest value."""


class Detection(Task[DetectionOutput, tuple[Box, ...]]):
    """The label is a tuple of boxes; an empty one says that somebody looked and there is none."""

    name: ClassVar[str] = "detection"
    heads: ClassVar[tuple[str, ...]] = tuple(HEADS)

    def roles(self, head: HeadSpec, classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `Task.roles`; none for an unknown head."""
        return roles_of(head) if head.kind in HEADS else ((), ())

    def completed(self, asked: HeadSpec, classes: Sequence[str], taken: list[str]) -> HeadSpec:
        """Ask for the head and how it writes boxes; suppress what the head does not suppress itself."""
        kind, boxes = asked.kind, asked.boxes
        if not kind:
            raise MisconfiguredError(f"say how the boxes come out with --head: {', '.join(HEADS)}")
        if kind == "ssd-priors" and not (asked.priors and asked.strides):
            raise MisconfiguredError(
                "the head ssd-priors needs the boxes that it starts from: --priors, such as 10,16/32x24, and --strides"
            )
        if not boxes:
            boxes = "xyxy-px" if kind in OWN_BOXES else "cxcywh-px" if kind.startswith("yolo") else ""
            if not boxes:
                raise MisconfiguredError(
                    "say how boxes are written with --boxes, such as xyxy-px, cxcywh-norm or xyxy-original"
                )
            if kind not in OWN_BOXES:
                taken.append(f"boxes as {boxes} (--boxes for others)")
        if kind == "detr-softmax" and asked.first_class == 0:
            count = len(classes)
            taken.append(
                f"{count + 1} columns for {count} classes: the last one is no-object (--first-class 1: the first)"
            )
        overlaps = kind.startswith("yolo") or kind in ("ssd-priors", "yunet", "centerface")
        said: str = asked.suppression
        suppression = said or ("per-class" if overlaps else "none")
        return dataclasses.replace(asked, boxes=boxes, suppression=cast("Suppression", suppression))

    def facts(self, contract: ContractFields) -> list[str]:
        """Return how boxes are written and which count."""
        spec = contract.head
        found = [
            f"boxes: {spec.boxes}, above {spec.min_score:g}, suppression {spec.suppression}, at most {spec.max_boxes}"
        ]
        if spec.priors:
            found.append(
                f"priors: {sum(map(len, spec.priors))} sizes at strides {', '.join(map(str, spec.strides))}, "
                f"variances {', '.join(f'{each:g}' for each in spec.variances)}"
            )
        return found

    def problems(self, contract: ContractFields) -> Iterator[str]:
        """See `Task.problems`."""
        spec = contract.head
        head = HEADS.get(spec.kind)
        if head is None:
            yield f"head {spec.kind!r}, detection has {sorted(HEADS)}"
            return
        if len(contract.classes) < self.least_classes:
            yield f"{len(contract.classes)} classes, detection needs at least {self.least_classes}"
        roles = set(contract.outputs) - {"embedding"}
        needed, optional = roles_of(spec)
        if not set(needed) <= roles or not roles <= {*needed, *optional}:
            yield f"outputs {sorted(roles)}, the head {spec.kind} has {[*needed, *optional]}"
        convention, _, unit = spec.boxes.partition("-")
        if convention not in CONVENTIONS or unit not in UNITS:
            yield f"boxes {spec.boxes!r}, allowed are {list(CONVENTIONS)} with -{', -'.join(UNITS)}"
        least = {"b0", "b1", "b2", "b3", "score", "class"}
        if spec.kind == "rows" and not least <= set(spec.columns) <= set(COLUMNS):
            yield f"columns {list(spec.columns)}, needed are {sorted(least)}, allowed {list(COLUMNS)}"
        yield from _prior_problems(spec)
        if not 0.0 <= spec.min_score < 1.0 or not 0.0 <= spec.max_overlap <= 1.0:
            yield f"min_score {spec.min_score} or max_overlap {spec.max_overlap} is not in [0, 1]"
        if spec.suppression not in ("none", "per-class", "agnostic"):
            yield f"suppression {spec.suppression!r}, allowed are 'none', 'per-class' and 'agnostic'"
        if not 1 <= spec.max_boxes <= ALL_BOXES or not all(1 <= s <= 1024 for s in spec.strides):
            yield f"max_boxes {spec.max_boxes} or strides {spec.strides} out of range"

    def check_shapes(self, contract: ContractFields, shapes: Shapes) -> None:
        """See `Task.check_shapes`."""
        if "output" in shapes:
            problem = columns_problem(contract.head.kind, shapes["output"], contract)
        else:
            problem = shape_problem(contract, dict(shapes))
        if problem:
            raise RejectedError(problem, reason=RefuseReason.WRONG_CLASSES)

    def decode(
        self, raw: Raw, contract: ContractFields, placed: Sequence[Placed]
    ) -> list[DetectionOutput | None]:
        """See `Task.decode`."""
        rows = candidates(raw, contract, len(placed))
        return [self._objects(found, contract, where) for found, where in zip(rows, placed, strict=True)]

    def warnings(
        self, raw: Raw, contract: ContractFields, placed: Sequence[Placed], producers: Mapping[str, str]
    ) -> list[str]:
        """Warn of boxes whose numbers do not fit the contract's unit, and of boxes beyond its limit."""
        spec, found = contract.head, []
        size = max(contract.input.width, contract.input.height)
        for rows, where in zip(candidates(raw, contract, len(placed)), placed, strict=True):
            boxes = rows.boxes[(rows.scores > spec.min_score) & np.isfinite(rows.boxes).all(axis=1)]
            farthest = float(np.abs(boxes).max()) if len(boxes) else 0.0
            if len(boxes) and not spec.boxes.endswith("-norm") and farthest <= _NORMALISED:
                found.append(
                    f"all boxes are below {_NORMALISED}: are they of 0 to 1 (norm), not of pixels? "
                    f"(the contract says {spec.boxes})"
                )
            if len(boxes) and spec.boxes.endswith("-norm") and farthest > _FAR * size:
                found.append(
                    f"boxes reach {farthest / size:g} times the input: are they of pixels (px), not of 0 to 1? "
                    f"(the contract says {spec.boxes})"
                )
            whole = dataclasses.replace(contract, head=dataclasses.replace(spec, max_boxes=ALL_BOXES))
            objects = self._objects(rows, whole, where)
            if objects is not None and len(objects.boxes) > spec.max_boxes:
                cut = len(objects.boxes) - spec.max_boxes
                found.append(f"{cut} of {len(objects.boxes)} boxes were cut: max_boxes is {spec.max_boxes}")
        return found

    @np.errstate(invalid="ignore", over="ignore")
    def _objects(self, rows: Rows, contract: ContractFields, where: Placed) -> DetectionOutput | None:
        spec = contract.head
        if np.isnan(rows.scores).any():
            return None
        above = rows.scores > spec.min_score
        boxes, scores, numbers = rows.boxes[above], rows.scores[above], rows.classes[above]
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and np.isfinite(numbers).all()):
            return None
        if not spec.boxes.endswith("-original"):
            boxes = where.to_picture(boxes)
        seen = clip(boxes, where.width, where.height)
        known = (numbers >= 0) & (numbers < len(contract.classes))
        real = known & (area(boxes) > 0) & (area(seen) > 0)
        boxes, seen, scores = boxes[real], seen[real], scores[real]
        classes = numbers[real].astype(np.int64)
        groups = np.zeros_like(classes) if spec.suppression == "agnostic" else classes
        most = 1.0 if spec.suppression == "none" else spec.max_overlap
        kept = suppress(boxes, scores, groups, most, spec.max_boxes)
        return DetectionOutput(
            tuple(
                Box(contract.classes[int(classes[i])], min(float(scores[i]), 1.0), *map(float, seen[i]))
                for i in kept
            )
        )

    def scores(self, output: DetectionOutput, contract: ContractFields) -> dict[str, float]:
        """Return the uncertainty of the most uncertain box, the means over all boxes, and `count`.

        `count` is objects divided by MANY_BOXES, at most 1.
        """
        scores = [box.score for box in output.boxes]
        counted = min(len(scores) / MANY_BOXES, 1.0)
        return {**label_scores(scores), **mean_label_scores(scores), "count": counted}

    def count(self, output: DetectionOutput) -> int:
        """Return the number of boxes."""
        return len(output.boxes)

    def agreement(self, a: DetectionOutput, b: DetectionOutput) -> float:
        """Return the F1 of matching the boxes of both, best overlap first; 1 when both have none.

        Each box is weighted by its score: one near the lowest score may appear or vanish by a rounding error.
        """
        if not a.boxes and not b.boxes:
            return 1.0
        if not a.boxes or not b.boxes:
            return 0.0
        pairs = overlap(edges(a.boxes), edges(b.boxes))
        same = np.array([[x.class_name == y.class_name for y in b.boxes] for x in a.boxes])
        pairs = np.where(same, pairs, 0.0)
        matched = 0.0
        while pairs.max() >= MATCH_OVERLAP:
            row, column = np.unravel_index(int(pairs.argmax()), pairs.shape)
            pairs[row, :] = pairs[:, column] = 0.0
            matched += a.boxes[row].score + b.boxes[column].score
        total = sum(box.score for box in (*a.boxes, *b.boxes))
        return matched / total if total else 0.0

    def wire_fields(self, output: DetectionOutput) -> dict[str, Any]:
        """See `Task.wire_fields`."""
        return {"detection": output}

    def from_wire(self, prediction: ModelPrediction) -> DetectionOutput | None:
        """See `Task.from_wire`."""
        return prediction.detection

    def summary(self, output: DetectionOutput) -> str:
        """Return how many of each class."""
        return self.label_words(output.boxes)

    def describe(self, output: DetectionOutput) -> str:
        """Return the best boxes with their scores."""
        some = [
            f"{box.class_name} {box.score:.2f} at {box.left:.0f},{box.top:.0f} to {box.right:.0f},{box.bottom:.0f}"
            for box in output.boxes[:DESCRIBED_BOXES]
        ]
        more = len(output.boxes) - len(some)
        return "; ".join(some) + (f"; and {more} more" if more else "") or "nothing"

    label_column: ClassVar[str] = "boxes"
    label_is_class: ClassVar[bool] = False
    usual_parity: ClassVar[float] = 0.9
    least_classes: ClassVar[int] = 1
    moves_pictures: ClassVar[bool] = False

    def label_of(self, value: Any) -> tuple[Box, ...]:
        """See `Task.label_of`. A labelled box has the score 1."""
        return tuple(Box(str(row["class_name"]), 1.0, *(float(row[edge]) for edge in EDGES)) for row in value)

    def as_label(self, output: DetectionOutput) -> tuple[Box, ...]:
        """Return the boxes."""
        return output.boxes

    def label_problem(
        self, label: tuple[Box, ...], classes: Sequence[str], size: tuple[float, float] | None = None
    ) -> str:
        """See `Task.label_problem`."""
        for box in label:
            if box.class_name not in classes:
                return f"class {box.class_name!r} is not in {list(classes)}"
            where = edges([box])
            if not (np.isfinite(where).all() and box.left < box.right and box.top < box.bottom):
                return f"box {where[0].tolist()} has no area"
            if size is not None and np.abs(clip(where, *size) - where).max() > OUTSIDE_PIXELS:
                return (
                    f"box {where[0].tolist()} ends outside of the picture of {size[0]:g} x {size[1]:g} pixels"
                )
        return ""

    def label_words(self, label: tuple[Box, ...]) -> str:
        """Return how many of each class."""
        counts = Counter(box.class_name for box in label)
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing"

    def classes_of(self, label: tuple[Box, ...]) -> tuple[str, ...]:
        """See `Task.classes_of`."""
        return tuple(sorted({box.class_name for box in label}))

    def mark(self, drawing: Drawing, label: tuple[Box, ...], scale: float, offset: tuple[int, int]) -> None:
        """Draw an outline per box."""
        for box in label:
            place = edges([box])[0] * scale + np.tile(offset, 2)
            drawing.rectangle(place.tolist(), outline=_OUTLINE, width=1)

    def target(self, label: tuple[Box, ...], contract: ContractFields, placed: Placed) -> NDArray[np.float32]:
        """Return rows (N, 5): class number and edges in pixels of the input."""
        numbers = [[contract.classes.index(box.class_name)] for box in label]
        found = np.concatenate(
            [np.array(numbers, dtype=np.float64).reshape(-1, 1), placed.to_input(edges(label))], axis=1
        )
        return found.astype(np.float32)

    def moved(self, target: NDArray[np.float32], zoom: Move, contract: ContractFields) -> NDArray[np.float32]:
        """Return the rows whose box is still in the picture by at least LEAST_VISIBLE of its area, clipped."""
        boxes = zoom.edges(target[:, 1:]).astype(np.float64)
        inside = clip(boxes, contract.input.width, contract.input.height)
        kept = area(inside) >= np.maximum(area(boxes) * LEAST_VISIBLE, 1.0)
        return np.concatenate([target[:, :1], inside.astype(np.float32)], axis=1)[kept]

    def groups(self, labels: Sequence[tuple[Box, ...]], classes: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of the picture's rarest class; pictures without objects are a group of their own."""
        index = {name: number for number, name in enumerate(classes)}
        known = [[name for name in self.classes_of(label) if name in index] for label in labels]
        counts = Counter(name for names in known for name in names)
        rarest = [min(names, key=lambda name: counts[name], default="") for names in known]
        return np.array([index.get(name, len(index)) for name in rarest], dtype=np.int64)

    def loss(
        self, outputs: Mapping[str, Any], targets: Sequence[Any], contract: ContractFields, smoothing: float
    ) -> Any:
        """Return the focal loss of the scores plus the overlap loss of the boxes; see `detection_loss`."""
        from modelkit.tasks.detection_loss import detection_loss

        return detection_loss(outputs["boxes"], outputs["scores"], targets, contract)

    def quality(
        self,
        labels: Sequence[tuple[Box, ...]],
        outputs: Sequence[DetectionOutput | None],
        classes: Sequence[str],
    ) -> float:
        """Return the metric itself: mean average precision at an overlap of 0.5."""
        judged = self.judge(labels, outputs, classes)
        return float(judged.values(None, np.ones((1, len(labels))))[0])

    def judge(
        self,
        labels: Sequence[tuple[Box, ...]],
        outputs: Sequence[DetectionOutput | None],
        classes: Sequence[str],
    ) -> Judged:
        """Return mean average precision at an overlap of 0.5."""
        return AveragePrecision(labels, outputs, classes)


def _prior_problems(spec: HeadSpec) -> Iterator[str]:
    if spec.activation not in ("none", "sigmoid", "softmax"):
        yield f"activation {spec.activation!r}, allowed are 'none', 'sigmoid' and 'softmax'"
    if spec.kind in ("centerface", "centre-heatmap") and len(spec.strides) > 1:
        yield f"strides {spec.strides}, a heat-map has one"
    if spec.kind in OWN_BOXES and spec.boxes != "xyxy-px":
        yield f"boxes {spec.boxes!r}, the head {spec.kind} gives xyxy-px"
    if spec.kind == "ssd-priors" and (not spec.priors or len(spec.priors) != len(spec.strides)):
        yield f"priors of {len(spec.priors)} strides, the contract has {len(spec.strides)} strides"
    sides = [side for cell in spec.priors for prior in cell for side in prior]
    for side in sides:
        if not 0.0 < side <= MAX_PRIOR_PIXELS:
            yield f"a prior of {side:g} pixels, allowed are above 0 to {MAX_PRIOR_PIXELS:g}"
    if len(sides) > MAX_PRIORS * 2 or not all(spec.priors):
        yield f"priors {len(sides) // 2} in {len(spec.priors)} strides, allowed are 1 per stride to {MAX_PRIORS} in all"
    if not all(0.0 < each <= 1.0 for each in spec.variances):
        yield f"variances {spec.variances} are not in (0, 1]"


def edges(boxes: Sequence[Box]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return boxes as an array (N, 4)."""
    return np.array([[b.left, b.top, b.right, b.bottom] for b in boxes], dtype=np.float64).reshape(-1, 4)

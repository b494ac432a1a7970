"""Detection: the objects of a picture, each a box with a class and a score."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from foundation.errors import RejectedError
from modelkit.geometry import Placed
from modelkit.tasks.boxes import area, clip, overlap, suppress
from modelkit.tasks.detection_heads import COLUMNS, CONVENTIONS, HEADS, UNITS, Rows, columns_problem
from modelkit.tasks.task import Raw, Shapes, Task, wrong_io
from modelkit.tasks.uncertainty import label_scores
from schemas.predictions import Box, DetectionOutput, ModelPrediction
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from modelkit.contract import ModelContract

MATCH_OVERLAP = 0.5
"""Two boxes of one class are the same object when they overlap by at least this."""
ALL_BOXES = 1_000
_NORMALISED = 1.5
_FAR = 4.0
MANY_BOXES = 50
"""So many objects or more give the score `count` its largest value."""


class Detection(Task[DetectionOutput, tuple[Box, ...]]):
    """The label is a tuple of boxes; an empty one says that somebody looked and there is none."""

    name: ClassVar[str] = "detection"

    def problems(self, contract: ModelContract) -> Iterator[str]:
        """See `Task.problems`."""
        spec = contract.head
        head = HEADS.get(spec.kind)
        if head is None:
            yield f"head {spec.kind!r}, detection has {sorted(HEADS)}"
            return
        if not contract.classes:
            yield "0 classes, detection needs at least 1"
        roles = set(contract.outputs) - {"embedding"}
        if not set(head.roles) <= roles or not roles <= {*head.roles, *head.optional}:
            yield f"outputs {sorted(roles)}, the head {spec.kind} has {[*head.roles, *head.optional]}"
        convention, _, unit = spec.boxes.partition("-")
        if convention not in CONVENTIONS or unit not in UNITS:
            yield f"boxes {spec.boxes!r}, allowed are {list(CONVENTIONS)} with -{', -'.join(UNITS)}"
        needed = {"b0", "b1", "b2", "b3", "score", "class"}
        if spec.kind == "rows" and not needed <= set(spec.columns) <= set(COLUMNS):
            yield f"columns {list(spec.columns)}, needed are {sorted(needed)}, allowed {list(COLUMNS)}"
        if not 0.0 <= spec.min_score < 1.0 or not 0.0 <= spec.max_overlap <= 1.0:
            yield f"min_score {spec.min_score} or max_overlap {spec.max_overlap} is not in [0, 1]"
        if spec.suppression not in ("none", "per-class", "agnostic"):
            yield f"suppression {spec.suppression!r}, allowed are 'none', 'per-class' and 'agnostic'"
        if not 1 <= spec.max_boxes <= ALL_BOXES or not all(1 <= s <= 1024 for s in spec.strides):
            yield f"max_boxes {spec.max_boxes} or strides {spec.strides} out of range"

    def check_shapes(self, contract: ModelContract, shapes: Shapes) -> None:
        """See `Task.check_shapes`."""
        if "output" in shapes:
            problem = columns_problem(contract.head.kind, shapes["output"], contract)
            if problem:
                raise RejectedError(problem, reason=RefuseReason.WRONG_CLASSES)

    def decode(
        self, raw: Raw, contract: ModelContract, placed: Sequence[Placed]
    ) -> list[DetectionOutput | None]:
        """See `Task.decode`."""
        head = HEADS[contract.head.kind]
        try:
            rows = [head.rows(raw, contract, index) for index in range(len(placed))]
        except (IndexError, ValueError) as error:
            shapes = {name: values.shape for name, values in raw.items()}
            raise wrong_io(
                f"outputs of shapes {shapes} do not fit the head {contract.head.kind}: {error}"
            ) from error
        return [self._objects(found, contract, where) for found, where in zip(rows, placed, strict=True)]

    def warnings(
        self, raw: Raw, contract: ModelContract, placed: Sequence[Placed], producers: Mapping[str, str]
    ) -> list[str]:
        """Boxes whose numbers do not fit the unit that the contract says, and boxes beyond its limit."""
        spec, found = contract.head, []
        size = max(contract.input.width, contract.input.height)
        for index, where in enumerate(placed):
            rows = HEADS[spec.kind].rows(raw, contract, index)
            boxes = rows.boxes[(rows.scores > spec.min_score) & np.isfinite(rows.boxes).all(axis=1)]
            farthest = float(np.abs(boxes).max()) if len(boxes) else 0.0
            if len(boxes) and not spec.boxes.endswith("-norm") and farthest <= _NORMALISED:
                found.append(f"all boxes are below {_NORMALISED}: are they of 0 to 1 (norm), not of pixels?")
            if len(boxes) and spec.boxes.endswith("-norm") and farthest > _FAR * size:
                found.append(
                    f"boxes reach {farthest / size:g} times the input: are they of pixels (px), not of 0 to 1?"
                )
            whole = dataclasses.replace(contract, head=dataclasses.replace(spec, max_boxes=ALL_BOXES))
            objects = self._objects(rows, whole, where)
            if objects is not None and len(objects.boxes) > spec.max_boxes:
                cut = len(objects.boxes) - spec.max_boxes
                found.append(f"{cut} of {len(objects.boxes)} boxes were cut: max_boxes is {spec.max_boxes}")
        return found

    def _objects(self, rows: Rows, contract: ModelContract, where: Placed) -> DetectionOutput | None:
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

    def scores(self, output: DetectionOutput, contract: ModelContract) -> dict[str, float]:
        """Doubt about the most doubtful box (is it one at all?), and `count`: objects of MANY_BOXES."""
        doubt = label_scores([box.score for box in output.boxes])
        return {**doubt, "count": min(len(output.boxes) / MANY_BOXES, 1.0)}

    def agreement(self, a: DetectionOutput, b: DetectionOutput) -> float:
        """F1 of matching the boxes of one with those of the other, best overlap first; 1 when both have none."""
        if not a.boxes and not b.boxes:
            return 1.0
        if not a.boxes or not b.boxes:
            return 0.0
        pairs = overlap(edges(a.boxes), edges(b.boxes))
        same = np.array([[x.class_name == y.class_name for y in b.boxes] for x in a.boxes])
        pairs = np.where(same, pairs, 0.0)
        matched = 0
        while pairs.max() >= MATCH_OVERLAP:
            row, column = np.unravel_index(int(pairs.argmax()), pairs.shape)
            pairs[row, :] = pairs[:, column] = 0.0
            matched += 1
        return 2.0 * matched / (len(a.boxes) + len(b.boxes))

    def wire_fields(self, output: DetectionOutput) -> dict[str, Any]:
        """See `Task.wire_fields`."""
        return {"detection": output}

    def from_wire(self, prediction: ModelPrediction) -> DetectionOutput | None:
        """See `Task.from_wire`."""
        return prediction.detection

    def summary(self, output: DetectionOutput) -> str:
        """How many of each class."""
        counts: dict[str, int] = {}
        for box in output.boxes:
            counts[box.class_name] = counts.get(box.class_name, 0) + 1
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing"


def edges(boxes: Sequence[Box]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Boxes as an array (N, 4)."""
    return np.array([[b.left, b.top, b.right, b.bottom] for b in boxes], dtype=np.float64).reshape(-1, 4)

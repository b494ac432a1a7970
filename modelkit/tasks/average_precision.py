"""Average precision of detection, as COCO defines it: pycocotools matches the boxes and gives the numbers.

Our part is resampling: the same matches with every picture weighted, by the same interpolation at 101 recalls. With
every weight 1 the result is the library's own.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from foundation.errors import GuaranteeBrokenError, MisconfiguredError
from modelkit.tasks.judged import Floats, Judged
from schemas.predictions import Box, DetectionOutput

MAX_BOXES_PER_PICTURE: Final = 100
_BLOCK_NUMBERS: Final = 2_000_000
"""Draws are computed in blocks of at most so many numbers (draws times boxes), or one draw at a time."""
_RECALLS: Final = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class _OfClass:
    """All boxes of a class by descending score: row of the picture, whether matched; and the objects per row."""

    rows: NDArray[np.int64]
    found: NDArray[np.bool_]
    objects: NDArray[np.int64]


class AveragePrecision(Judged):
    """See `Judged`: mAP at an overlap of 0.5, the mean over the classes that have objects."""

    metric: ClassVar[str] = "mAP50"

    def __init__(
        self,
        labels: Sequence[tuple[Box, ...]],
        outputs: Sequence[DetectionOutput | None],
        classes: Sequence[str],
    ) -> None:
        """Raises MisconfiguredError when pycocotools is not installed."""
        self._classes = tuple(classes)
        self._rows = len(labels)
        self._silent = np.array([said is not None and not said.boxes for said in outputs], dtype=np.bool_)
        evaluated = _evaluate(labels, outputs, self._classes)
        self._by_class = {
            name: _of_class(evaluated, number, labels, name) for number, name in enumerate(self._classes)
        }
        self._coco = _precisions(evaluated)
        for name, expected in zip(self._classes, self._coco[0], strict=True):
            ours = float(self.values(name, np.ones((1, self._rows)))[0])
            if not np.isnan(expected) and abs(ours - expected) > 1e-6:
                raise GuaranteeBrokenError(f"AP of {name} is {ours}, pycocotools says {expected}")

    def evidence(self, class_name: str | None) -> NDArray[np.int64]:
        """Labelled objects per picture."""
        names = self._classes if class_name is None else (class_name,)
        return np.asarray(np.sum([self._by_class[name].objects for name in names], axis=0), dtype=np.int64)

    def values(self, class_name: str | None, weights: Floats) -> Floats:
        """See `Judged.values`."""
        names = self._classes if class_name is None else (class_name,)
        found = np.stack([_weighted(self._by_class[name], weights) for name in names])
        known = np.isfinite(found)
        total = np.where(known, found, 0.0).sum(axis=0)
        return np.asarray(
            np.divide(total, known.sum(axis=0), out=np.zeros_like(total), where=known.any(axis=0))
        )

    def silent(self) -> NDArray[np.bool_]:
        """Return the pictures without a box above the contract's `min_score`."""
        return self._silent

    def details(self) -> dict[str, Any]:
        """Return AP per class at 0.5 and averaged over 0.5 to 0.95, None without an object of the class."""
        at_half, averaged = ([None if np.isnan(v) else round(float(v), 6) for v in row] for row in self._coco)
        return {
            "ap50": dict(zip(self._classes, at_half, strict=True)),
            "ap50_95": dict(zip(self._classes, averaged, strict=True)),
        }


def _weighted(boxes: _OfClass, weights: Floats) -> Floats:
    """Return AP with every row counted `weights` times, (S, rows) to (S,); NaN where no object is counted."""
    total = weights @ boxes.objects
    found = np.full(len(weights), np.nan)
    size = max(_BLOCK_NUMBERS // max(len(boxes.rows), 1), 1)
    for start in range(0, len(weights), size):
        drawn = weights[start : start + size, boxes.rows]
        true = np.cumsum(drawn * boxes.found, axis=1)
        false = np.cumsum(drawn * ~boxes.found, axis=1)
        for row in np.flatnonzero(total[start : start + size] > 0):
            recall = true[row] / total[start + row]
            precision = true[row] / np.maximum(true[row] + false[row], np.finfo(np.float64).eps)
            best = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(recall, _RECALLS, side="left")
            found[start + row] = float(np.append(best, 0.0)[at].mean())
    return found


def _evaluate(
    labels: Sequence[tuple[Box, ...]], outputs: Sequence[DetectionOutput | None], classes: tuple[str, ...]
) -> Any:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MisconfiguredError(
            f"pycocotools cannot be imported: {error}; install fleetloop[train]"
        ) from error
    number = {name: i + 1 for i, name in enumerate(classes)}
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its progress
        truth, said = COCO(), COCO()
        for coco, rows in (
            (truth, labels),
            (said, [() if output is None else output.boxes for output in outputs]),
        ):
            coco.dataset = {
                "images": [{"id": row} for row in range(len(labels))],
                "categories": [{"id": i, "name": name} for name, i in number.items()],
                "annotations": [
                    {
                        "image_id": row,
                        "category_id": number[box.class_name],
                        "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
                        "area": (box.right - box.left) * (box.bottom - box.top),
                        "score": box.score,
                        "iscrowd": 0,
                    }
                    for row, boxes in enumerate(rows)
                    for box in boxes
                ],
            }
            for place, annotation in enumerate(coco.dataset["annotations"]):
                annotation["id"] = place + 1  # 0 would mean "not matched"
            coco.createIndex()
        run = COCOeval(truth, said, "bbox")
        run.params.areaRng, run.params.areaRngLbl = [[0.0, 1e12]], ["all"]
        run.params.maxDets = [MAX_BOXES_PER_PICTURE]
        run.evaluate()
        run.accumulate()
    return run


def _of_class(run: Any, number: int, labels: Sequence[tuple[Box, ...]], name: str) -> _OfClass:
    """Return what the library matched at an overlap of 0.5; its first threshold."""
    count = len(labels)
    parts = run.evalImgs[number * count : (number + 1) * count]
    scores = [np.array(part["dtScores"] if part else [], dtype=np.float64) for part in parts]
    hits = [np.array(part["dtMatches"][0] if part else [], dtype=np.float64) > 0 for part in parts]
    rows = np.repeat(np.arange(count), [len(part) for part in scores])
    order = np.argsort(-np.concatenate(scores), kind="mergesort") if count else np.zeros(0, dtype=np.int64)
    objects = np.array([sum(box.class_name == name for box in boxes) for boxes in labels], dtype=np.int64)
    return _OfClass(
        rows[order], np.concatenate(hits)[order] if count else np.zeros(0, dtype=np.bool_), objects
    )


def _precisions(run: Any) -> tuple[Floats, Floats]:
    """Return AP per class at 0.5, and averaged over all ten thresholds; NaN without an object."""
    table = np.where(run.eval["precision"] < 0, np.nan, run.eval["precision"])[:, :, :, 0, 0]
    return np.asarray(table[0].mean(axis=0)), np.asarray(table.mean(axis=(0, 1)))

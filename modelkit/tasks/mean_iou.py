"""Mean intersection over union of masks: pycocotools counts the pixels, classes are weighted equally.

An IoU is of all pictures together, as PASCAL VOC and Cityscapes define it: the sum of intersections by the sum of unions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from foundation.errors import MisconfiguredError
from modelkit.tasks.judged import Floats, Judged
from modelkit.tasks.masks import Mask, resized
from schemas.predictions import UNSEEN


class MeanIou(Judged):
    """See `Judged`: the mean over the classes that have labelled pixels.

    Pixels whose label is UNSEEN do not count; a labelled pixel without an answer is a miss. Answers are compared at the
    label's resolution.
    """

    metric: ClassVar[str] = "mIoU"

    def __init__(
        self, labels: Sequence[Mask], outputs: Sequence[Mask | None], classes: Sequence[str]
    ) -> None:
        """Raises MisconfiguredError when pycocotools is not installed."""
        try:
            from pycocotools import mask as coco
        except ImportError as error:
            raise MisconfiguredError(
                f"pycocotools cannot be imported: {error}; install fleetloop[train]"
            ) from error
        self._classes = {name: number for number, name in enumerate(classes)}
        shape = (len(labels), len(self._classes))
        self._both, self._either, self._labelled = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        for row, (label, output) in enumerate(zip(labels, outputs, strict=True)):
            truth = _in_order(label, self._classes)
            said = np.full_like(truth, UNSEEN)
            if output is not None:
                said = resized(_in_order(output, self._classes), *truth.shape)
                said = np.where(truth == UNSEEN, np.uint8(UNSEEN), said)
            numbers = np.arange(shape[1], dtype=np.uint8)
            is_true, is_said = (
                coco.encode(np.asfortranarray(cells[:, :, None] == numbers, dtype=np.uint8))
                for cells in (truth, said)
            )
            areas = coco.area(is_true).astype(np.int64), coco.area(is_said).astype(np.int64)
            shared = [coco.merge([a, b], intersect=True) for a, b in zip(is_true, is_said, strict=True)]
            self._labelled[row] = areas[0]
            self._both[row] = coco.area(shared)
            self._either[row] = areas[0] + areas[1] - self._both[row]

    def evidence(self, class_name: str | None) -> NDArray[np.int64]:
        """Return 1 for each picture with labelled pixels (of the class)."""
        pixels = (
            self._labelled.sum(axis=1) if class_name is None else self._labelled[:, self._classes[class_name]]
        )
        return np.asarray(pixels > 0, dtype=np.int64)

    def values(self, class_name: str | None, weights: Floats) -> Floats:
        """See `Judged.values`."""
        chosen = slice(None) if class_name is None else [self._classes[class_name]]
        both, either = weights @ self._both[:, chosen], weights @ self._either[:, chosen]
        known = weights @ self._labelled[:, chosen] > 0
        found = np.divide(both, either, out=np.zeros_like(both), where=known)
        count = known.sum(axis=1)
        return np.asarray(np.divide(found.sum(axis=1), count, out=np.zeros(len(weights)), where=count > 0))

    def details(self) -> dict[str, Any]:
        """Return IoU per class, None without a labelled pixel of the class."""
        every = np.ones((1, len(self._both)))
        return {
            "iou": {
                name: round(float(self.values(name, every)[0]), 6)
                if self._labelled[:, number].any()
                else None
                for name, number in self._classes.items()
            }
        }


def _in_order(mask: Mask, classes: dict[str, int]) -> NDArray[np.uint8]:
    """Return the cells by the numbers of `classes`; a class that is not there is UNSEEN."""
    table = np.full(256, UNSEEN, dtype=np.uint8)
    for number, name in enumerate(mask.classes):
        table[number] = classes.get(name, UNSEEN)
    return table[mask.cells]

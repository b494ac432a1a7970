"""Convert a label as it was written into the lake's label column, with classes spelled as in the contract.

One reader per column of `connectors.lake.schema.LABEL_COLUMNS`. What cannot be a label is reported as a message.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from connectors.labels.classes import OTHER_SPELLING, ClassNames

EDGES: Final = ("left", "top", "right", "bottom")
MAX_BOXES: Final = 10_000

Answer = tuple[Any, str]
"""The value of the label column and "", or None and the problem."""


def class_answer(value: object, classes: ClassNames | None, *, strict: bool = False) -> Answer:
    """Return the one class. Without `classes` any text is one; `strict` refuses another spelling, else it is mapped."""
    found = (classes or ClassNames(())).match(value)
    if classes is None and isinstance(value, str) and value.strip():
        return value, ""
    if strict and found.how == OTHER_SPELLING:
        return None, f"class {value!a}; the nearest is {found.name!r}"
    return (None, found.problem) if found.problem else (found.name, "")


def boxes_answer(value: object, classes: ClassNames | None, *, strict: bool = False) -> Answer:
    """Return all boxes of a picture, sorted: mappings of class_name and edges in pixels. An empty list is an answer."""
    if not isinstance(value, list | tuple):
        return None, "no boxes" if value is None else f"no list of boxes but {type(value).__name__}"
    if len(value) > MAX_BOXES:
        return None, f"{len(value)} boxes, must be at most {MAX_BOXES}"
    boxes = []  # + 0.0: zero without a sign
    for number, box in enumerate(value, 1):
        if not isinstance(box, Mapping):
            return None, f"box {number} is no mapping but {type(box).__name__}"
        name, problem = class_answer(box.get("class_name"), classes, strict=strict)
        edges = [box.get(edge) for edge in EDGES]
        if problem:
            return None, f"box {number}: {problem}"
        if not all(is_finite_number(edge) for edge in edges):
            return None, f"box {number}: {', '.join(EDGES)} are {edges}, wanted are finite numbers"
        if not (edges[0] < edges[2] and edges[1] < edges[3]):  # type: ignore[operator]
            return None, f"box {number}: {edges} as {', '.join(EDGES)} has no area"
        boxes.append({"class_name": name, **{e: float(v) + 0.0 for e, v in zip(EDGES, edges, strict=True)}})  # type: ignore[arg-type]
    return sorted(boxes, key=lambda box: tuple(box.values())), ""


ANSWERS: Final[Mapping[str, Callable[..., Answer]]] = MappingProxyType(
    {"class_name": class_answer, "boxes": boxes_answer}
)


def is_finite_number(value: object) -> bool:
    """Return whether the value is a number that a float can hold: no bool, NaN or infinity, no whole number beyond."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max

"""Read a detector's raw outputs: for each head a function to rows of box, score and class number.

Boxes come out as edges in pixels of the model's input (or of the picture, where the contract says `original`),
neither filtered nor suppressed. Class numbers count from 0 in the contract's order; a number outside it is a
row that the model left unused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from modelkit.tasks.candidate_rows import DEFAULT_STRIDES, Floats, Rows, best_of, centres, grid
from modelkit.tasks.dense_heads import centerface, centre_heatmap, ssd_priors, yunet
from modelkit.tasks.task import Raw, role, wrong_io

if TYPE_CHECKING:
    from modelkit.specs import ContractFields, HeadSpec

CONVENTIONS: Final = ("xyxy", "cxcywh", "xywh", "yxyx")
UNITS: Final = ("px", "norm", "original")
COLUMNS: Final = ("batch", "b0", "b1", "b2", "b3", "score", "class", "ignored")


@dataclass(frozen=True, slots=True)
class Head:
    """How to read one form of output. `roles` are needed, `optional` may be there; see `roles_of`.

    With `is_per_stride` there is an output of each role for each stride, such as `cls_8`. `rows` gives the candidates
    of picture number `index` of the batch. `columns` says how many columns the one output must have, as a number beside
    the classes; None where it is no such form.
    """

    roles: tuple[str, ...]
    rows: Callable[[Raw, ContractFields, int], Rows]
    optional: tuple[str, ...] = ()
    columns: int | None = None
    has_columns_first: bool = False
    is_per_stride: bool = False


def to_edges(boxes: Floats, contract: ContractFields) -> Floats:
    """Convert boxes in the contract's convention and unit to edges in pixels (of the input, or the original)."""
    convention, _, unit = contract.head.boxes.partition("-")
    a, b, c, d = boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]
    edges = {
        "xyxy": lambda: (a, b, c, d),
        "yxyx": lambda: (b, a, d, c),
        "xywh": lambda: (a, b, a + c, b + d),
        "cxcywh": lambda: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    }[convention]()
    found = np.stack(edges, axis=1)
    if unit == "norm":
        found = found * np.tile([contract.input.width, contract.input.height], 2)
    return np.asarray(found, dtype=np.float64)


def candidates(raw: Raw, contract: ContractFields, count: int) -> list[Rows]:
    """Return the candidates of each of the first `count` pictures of the batch, by the contract's head.

    Raises:
        RejectedError: reason `wrong_io`; an output has not the shape or the range that the head says.
    """
    head = HEADS[contract.head.kind]
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            return [head.rows(raw, contract, index) for index in range(count)]
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        shapes = {name: np.shape(values) for name, values in raw.items()}
        raise wrong_io(
            f"outputs of shapes {shapes} do not fit the head {contract.head.kind}: {error}"
        ) from error


def _boxes(raw: Raw, index: int) -> Floats:
    """Return the boxes of one picture, (N, 4)."""
    boxes = role(raw, "boxes")
    if boxes.ndim != 3 or boxes.shape[2] != 4:
        raise wrong_io(f"boxes of shape {boxes.shape}, not (batch, boxes, 4)")
    return np.asarray(boxes[index], dtype=np.float64)


def _matrix(raw: Raw, contract: ContractFields, index: int, head: Head) -> Floats:
    values: Floats = role(raw, "output")[index]
    columns = len(contract.classes) + (head.columns or 0)
    if head.has_columns_first:
        values = values.T
    if values.ndim != 2 or values.shape[1] != columns:
        raise wrong_io(
            f"output of shape {np.shape(raw['output'])}: {_columns_message(values.shape[-1], contract, head)}"
        )
    return values


def _columns_message(found: int, contract: ContractFields, head: Head) -> str:
    classes, extra = len(contract.classes), head.columns or 0
    text = f"{found} columns are not {extra} + {classes} classes"
    others = {4: "yolo-anchor-free or yolo-anchor-free-rows", 5: "yolov5 or yolox-grid"}
    if found - classes in others and found - classes != extra:
        text += f" ({found - classes} + {classes} would fit {others[found - classes]})"
    return text


def _anchor_free(raw: Raw, contract: ContractFields, index: int) -> Rows:
    values = _matrix(raw, contract, index, HEADS[contract.head.kind])
    return best_of(centres(values), values[:, 4:])


def _with_objectness(raw: Raw, contract: ContractFields, index: int) -> Rows:
    values = _matrix(raw, contract, index, HEADS[contract.head.kind])
    return best_of(centres(values), values[:, 5:] * values[:, 4:5])


def _yolox_grid(raw: Raw, contract: ContractFields, index: int) -> Rows:
    values = _matrix(raw, contract, index, HEADS[contract.head.kind])
    cells, strides = grid(contract)
    if len(values) != len(cells):
        raise wrong_io(
            f"{len(values)} rows, a grid of strides {contract.head.strides or DEFAULT_STRIDES} over "
            f"{contract.input.width} x {contract.input.height} pixels has {len(cells)} cells"
        )
    centre, size = (values[:, :2] + cells) * strides, np.exp(values[:, 2:4]) * strides
    return best_of(centres(np.concatenate([centre, size], axis=1)), values[:, 5:] * values[:, 4:5])


def _rows(raw: Raw, contract: ContractFields, index: int) -> Rows:
    """Read rows after suppression: [N, K] or [B, N, K] with the columns that the contract names."""
    values, columns = role(raw, "output"), contract.head.columns
    if values.shape[-1] != len(columns):
        raise wrong_io(f"output of shape {values.shape}, the contract names {len(columns)} columns")
    if values.ndim not in (2, 3):
        raise wrong_io(f"output of shape {values.shape}, not (rows, columns) or (batch, rows, columns)")
    if values.ndim == 3:
        values = values[index]
    elif "batch" in columns:
        values = values[values[:, columns.index("batch")] == index]
    boxes = to_edges(np.stack([values[:, columns.index(f"b{i}")] for i in range(4)], axis=1), contract)
    numbers = values[:, columns.index("class")] - contract.head.first_class
    return Rows(boxes, values[:, columns.index("score")], numbers)


def _parts(raw: Raw, contract: ContractFields, index: int) -> Rows:
    """Read tensors by role: boxes [B, N, 4], scores [B, N] with classes [B, N], or scores [B, N, C]; optional count."""
    boxes, scores, first = _boxes(raw, index), role(raw, "scores")[index], contract.head.first_class
    if "classes" in raw:
        numbers = role(raw, "classes")[index]
        if scores.size != len(boxes) or numbers.size != len(boxes):
            raise wrong_io(f"{len(boxes)} boxes, {scores.size} scores and {numbers.size} classes per picture")
        found = Rows(to_edges(boxes, contract), scores.reshape(-1), numbers.reshape(-1) - first)
    else:
        if scores.ndim != 2 or len(scores) != len(boxes) or scores.shape[1] < first + len(contract.classes):
            wanted = (len(boxes), first + len(contract.classes))
            raise wrong_io(f"scores of shape {scores.shape} per picture, the head needs {wanted}")
        found = best_of(to_edges(boxes, contract), scores[:, first : first + len(contract.classes)])
    if "count" not in raw:
        return found
    told = float(role(raw, "count").reshape(-1)[index])
    if not 0 <= told <= len(boxes):
        raise wrong_io(f"the model counts {told} boxes; it must be in [0, {len(boxes)}]")
    count = int(told)
    return Rows(found.boxes[:count], found.scores[:count], found.classes[:count])


def _selected(raw: Raw, contract: ContractFields, index: int) -> Rows:
    """Read boxes [B, N, 4], scores [B, C, N] and the indices (M, 3) of batch, class and box that suppression left."""
    boxes, scores, selected = _boxes(raw, index), role(raw, "scores")[index], role(raw, "selected")
    if scores.ndim != 2 or scores.shape[1] != len(boxes) or selected.shape[-1:] != (3,):
        raise wrong_io(
            f"{len(boxes)} boxes, scores of shape {scores.shape} per picture and selected of shape {selected.shape}"
        )
    chosen = selected.reshape(-1, 3)
    chosen = chosen[chosen[:, 0] == index]
    if not ((chosen[:, 1:] >= 0) & (chosen[:, 1:] < scores.shape)).all():  # also refuses NaN
        raise wrong_io(f"an index of selected is not below {scores.shape} (classes, boxes)")
    chosen = chosen.astype(np.int64)
    return Rows(
        to_edges(boxes[chosen[:, 2]], contract),
        scores[chosen[:, 1], chosen[:, 2]],
        (chosen[:, 1] - contract.head.first_class).astype(np.float64),
    )


def _detr(raw: Raw, contract: ContractFields, index: int) -> Rows:
    """Read logits [B, N, C + 1] and boxes [B, N, 4]: softmax over all, then the column of no object is left out.

    That column is the last one; with `first_class` 1 it is the first.
    """
    logits, classes, first = role(raw, "logits")[index], len(contract.classes), contract.head.first_class
    if logits.ndim != 2 or logits.shape[1] != classes + 1 or first not in (0, 1):
        raise wrong_io(
            f"logits of shape {np.shape(raw['logits'])}, first class {first}: detr-softmax has {classes} classes and no object"
        )
    boxes = _boxes(raw, index)
    if len(boxes) != len(logits):
        raise wrong_io(f"{len(boxes)} boxes and {len(logits)} rows of logits per picture")
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return best_of(to_edges(boxes, contract), shares[:, first : first + classes])


HEADS: Final[Mapping[str, Head]] = MappingProxyType(
    {
        "yolo-anchor-free": Head(("output",), _anchor_free, columns=4, has_columns_first=True),
        "yolo-anchor-free-rows": Head(("output",), _anchor_free, columns=4),
        "yolov5": Head(("output",), _with_objectness, columns=5),
        "yolox-decoded": Head(("output",), _with_objectness, columns=5),
        "yolox-grid": Head(("output",), _yolox_grid, columns=5),
        "rows": Head(("output",), _rows),
        "parts": Head(("boxes", "scores"), _parts, optional=("classes", "count")),
        "detr-softmax": Head(("logits", "boxes"), _detr),
        "selected": Head(("boxes", "scores", "selected"), _selected),
        "ssd-priors": Head(("loc", "conf"), ssd_priors, optional=("iou",)),
        "yunet": Head(("cls", "obj", "bbox"), yunet, is_per_stride=True),
        "centerface": Head(("heatmap", "scale", "offset"), centerface),
        "centre-heatmap": Head(("heatmap", "size"), centre_heatmap, optional=("offset",)),
    }
)
"""`yolo-anchor-free` is [B, 4 + C, N]; the other YOLO forms are [B, N, 4 + C] and, with objectness, [B, N, 5 + C]."""


OWN_BOXES: Final = frozenset({"ssd-priors", "yunet", "centerface", "centre-heatmap"})
"""Heads that know how their boxes are written: the contract says xyxy-px, which is what comes out of them."""


def roles_of(spec: HeadSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the outputs that the head needs, and those that it may have."""
    head = HEADS[spec.kind]
    if not head.is_per_stride:
        return head.roles, head.optional
    strides = spec.strides or DEFAULT_STRIDES
    return tuple(f"{role}_{stride}" for role in head.roles for stride in strides), ()


def columns_problem(kind: str, shape: tuple[int, ...], contract: ContractFields) -> str:
    """Return why the declared shape of `output` does not fit the head, "" when it does or does not tell."""
    head = HEADS[kind]
    if head.columns is None or len(shape) != 3:
        return "" if head.columns is None else f"output has shape {shape}, not three axes"
    found = shape[1] if head.has_columns_first else shape[2]
    if found in (-1, len(contract.classes) + head.columns):
        return ""
    return f"output of shape {shape}: {_columns_message(found, contract, head)}"

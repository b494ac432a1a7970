"""Heads that answer for each cell of a map: SSD's priors, YuNet's strided heads and centre heat-maps.

Each follows the post-processing that the authors of its models published. Landmarks that some of them give beside
the boxes are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from modelkit.tasks.candidate_rows import DEFAULT_STRIDES, Floats, Rows, best_of, centres
from modelkit.tasks.task import Raw, role, wrong_io

if TYPE_CHECKING:
    from modelkit.specs import ContractFields

HEATMAP_STRIDE: Final = 4
"""CenterNet's and CenterFace's maps have a cell per 4 x 4 pixels of the input, unless the contract has a stride."""


def ssd_priors(raw: Raw, contract: ContractFields, index: int) -> Rows:
    """Read offsets from priors (Liu et al., 2016): loc (B, N, 4 or more), conf (B, N, classes), optional iou (B, N, 1).

    The columns of conf before `first_class` are the background. A score is the confidence, or with iou the square
    root of its product with iou, which is clipped to [0, 1] (YuNet of 2021). Without a batch axis the batch is 1.
    """
    spec = contract.head
    loc, conf = _table(raw, "loc", contract, index), _table(raw, "conf", contract, index)
    boxes = priors(contract, len(loc))
    if loc.shape[1] < 4 or len(conf) != len(loc):
        raise wrong_io(f"loc of shape {loc.shape} and conf of shape {conf.shape} per picture")
    last = spec.first_class + len(contract.classes)
    if conf.shape[1] < last:
        raise wrong_io(f"conf has {conf.shape[1]} columns, the contract's classes end at {last}")
    scores = _activated(conf, spec.activation)[:, spec.first_class : last]
    if "iou" in raw:
        quality = _table(raw, "iou", contract, index)
        if quality.shape != (len(loc), 1):
            raise wrong_io(f"iou of shape {quality.shape} per picture, not {(len(loc), 1)}")
        scores = np.sqrt(scores * np.clip(quality, 0.0, 1.0))
    x, y, width, height = spec.variances
    middle = boxes[:, :2] + loc[:, :2] * np.array([x, y]) * boxes[:, 2:]
    size = boxes[:, 2:] * np.exp(loc[:, 2:4] * np.array([width, height]))
    return best_of(centres(np.concatenate([middle, size], axis=1)), scores)


def priors(contract: ContractFields, count: int) -> Floats:
    """Return centre and size of every prior in pixels of the input (N, 4): by stride, row, column, then size.

    A map has floor or ceil of (input / stride) cells per axis: the one that gives `count` priors.

    Raises:
        RejectedError: reason `wrong_io`; neither gives `count` priors.
    """
    spec = contract.head
    found = []
    for rounded in (np.floor, np.ceil):
        parts = [
            _priors_of(
                sizes,
                stride,
                int(rounded(contract.input.height / stride)),
                int(rounded(contract.input.width / stride)),
            )
            for sizes, stride in zip(spec.priors, spec.strides, strict=True)
        ]
        found.append(np.concatenate(parts))
        if len(found[-1]) == count:
            return found[-1]
    raise wrong_io(
        f"{count} rows, the priors of strides {spec.strides} over {contract.input.width} x {contract.input.height} "
        f"pixels are {len(found[0])} or {len(found[1])}"
    )


def _priors_of(sizes: Sequence[tuple[float, float]], stride: int, rows: int, columns: int) -> Floats:
    y, x = np.divmod(np.arange(rows * columns), max(columns, 1))
    middle = np.repeat((np.stack([x, y], axis=1) + 0.5) * stride, len(sizes), axis=0)
    size = np.tile(np.array(sizes, dtype=np.float64).reshape(-1, 2), (rows * columns, 1))
    return np.concatenate([middle, size], axis=1)


def yunet(raw: Raw, contract: ContractFields, index: int) -> Rows:
    """Read cls_S (B, N, C), obj_S (B, N, 1) and bbox_S (B, N, 4) of every stride S: YuNet (Wu et al., 2023).

    A score is the square root of class times objectness, both clipped to [0, 1]. A box is the offset of its centre
    from the cell's corner and the logarithm of its size, all in strides.
    """
    boxes, scores = [], []
    for stride in contract.head.strides or DEFAULT_STRIDES:
        rows, columns = contract.input.height // stride, contract.input.width // stride
        cls, obj = _values(raw, f"cls_{stride}", index), _values(raw, f"obj_{stride}", index)
        box = _values(raw, f"bbox_{stride}", index)
        wanted = {"cls": (rows * columns, len(contract.classes)), "obj": (rows * columns, 1)}
        wanted["bbox"] = (rows * columns, 4)
        for name, values in (("cls", cls), ("obj", obj), ("bbox", box)):
            if values.shape != wanted[name]:
                raise wrong_io(
                    f"{name}_{stride} of shape {values.shape} per picture; {contract.input.width} x "
                    f"{contract.input.height} pixels and {len(contract.classes)} classes need {wanted[name]}"
                )
        y, x = np.divmod(np.arange(rows * columns), max(columns, 1))
        middle = (np.stack([x, y], axis=1) + box[:, :2]) * stride
        boxes.append(centres(np.concatenate([middle, np.exp(box[:, 2:]) * stride], axis=1)))
        scores.append(np.sqrt(np.clip(cls, 0.0, 1.0) * np.clip(obj, 0.0, 1.0)))
    return best_of(np.concatenate(boxes), np.concatenate(scores))


def centerface(raw: Raw, contract: ContractFields, index: int) -> Rows:
    """Read heatmap (B, C, h, w), scale and offset (B, 2, h, w), y before x: CenterFace (Xu et al., 2019).

    Sizes are exp(scale) cells; a centre lies half a cell plus the offset from the cell's corner. Every cell is a
    candidate. The published code moves a box that begins outside of the picture inwards; here it is cut off.
    """
    heat, cells = _heatmap(raw, contract, index)
    stride = _stride(contract)
    height, width = np.exp(_map(raw, "scale", heat.shape, index)) * stride
    off_y, off_x = _map(raw, "offset", heat.shape, index)
    middle = (cells + np.stack([off_x, off_y], axis=1) + 0.5) * stride
    boxes = centres(np.concatenate([middle, width[:, None], height[:, None]], axis=1))
    return best_of(boxes, heat.reshape(len(heat), -1).T)


def centre_heatmap(raw: Raw, contract: ContractFields, index: int) -> Rows:
    """Read heatmap (B, C, h, w; after the sigmoid), size (B, 2, h, w) and optional offset, x before y: CenterNet.

    Zhou et al., 2019: a candidate is a cell whose heat is the largest of its class among the 3 x 3 around it; a
    centre is the cell's corner plus the offset, a size is in cells. `activation` says whether the sigmoid is missing.
    """
    heat, cells = _heatmap(raw, contract, index)
    stride = _stride(contract)
    width, height = _map(raw, "size", heat.shape, index) * stride
    offset = _map(raw, "offset", heat.shape, index) if "offset" in raw else np.zeros((2, len(cells)))
    middle = (cells + offset.T) * stride
    boxes = centres(np.concatenate([middle, width[:, None], height[:, None]], axis=1))
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    peak = heat == sliding_window_view(padded, (3, 3), axis=(1, 2)).max(axis=(3, 4))
    peak |= np.isnan(heat)  # a NaN is no answer, not an empty road
    numbers, at = np.nonzero(peak.reshape(len(heat), -1))
    return Rows(boxes[at], heat.reshape(len(heat), -1)[numbers, at], numbers.astype(np.float64))


def shape_problem(contract: ContractFields, shapes: dict[str, tuple[int, ...]]) -> str:
    """Return why the declared shapes do not fit the contract's classes, "" when they do or do not tell."""
    classes, first = len(contract.classes), contract.head.first_class
    for name, shape in shapes.items():
        kind, wanted, found = name.partition("_")[0], classes, -1
        if kind == "cls" and len(shape) == 3:
            found = shape[2]
        elif kind == "conf" and len(shape) in (2, 3):
            found, wanted = shape[-1], first + classes
        elif kind == "heatmap" and len(shape) == 4:
            found = shape[1]
        if found not in (-1, wanted):
            return f"{name} of shape {shape} has {found} classes, the contract {wanted}"
    return ""


def _stride(contract: ContractFields) -> int:
    return (contract.head.strides or (HEATMAP_STRIDE,))[0]


def _values(raw: Raw, name: str, index: int) -> Floats:
    return np.asarray(role(raw, name)[index], dtype=np.float64)


def _table(raw: Raw, name: str, contract: ContractFields, index: int) -> Floats:
    """Return the rows of one picture (N, columns); an export for one picture may have no batch axis."""
    values = role(raw, name)
    if values.ndim == 2 and contract.input.batch == 1:
        return values
    if values.ndim != 3:
        raise wrong_io(f"{name} of shape {values.shape}, not (batch, rows, columns)")
    return np.asarray(values[index], dtype=np.float64)


def _heatmap(raw: Raw, contract: ContractFields, index: int) -> tuple[Floats, Floats]:
    """Return the heat (C, h, w) of one picture, and column and row of its cells (h * w, 2)."""
    stride = _stride(contract)
    heat = _activated(_values(raw, "heatmap", index), contract.head.activation)
    wanted = (len(contract.classes), contract.input.height // stride, contract.input.width // stride)
    if heat.shape != wanted:
        raise wrong_io(f"heatmap of shape {heat.shape} per picture, the contract says {wanted}")
    y, x = np.divmod(np.arange(wanted[1] * wanted[2]), max(wanted[2], 1))
    return heat, np.stack([x, y], axis=1).astype(np.float64)


def _map(raw: Raw, name: str, heat: tuple[int, ...], index: int) -> Floats:
    """Return a map of two numbers per cell as (2, h * w)."""
    values = _values(raw, name, index)
    if values.shape != (2, *heat[1:]):
        raise wrong_io(f"{name} of shape {values.shape} per picture, the heat-map needs {(2, *heat[1:])}")
    return values.reshape(2, -1)


def _activated(values: Floats, activation: str) -> Floats:
    if activation == "sigmoid":
        return np.asarray(1.0 / (1.0 + np.exp(-values)))
    if activation == "softmax":
        shares: NDArray[np.float64] = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
    return values

"""Count the multiply-accumulate operations (MACs) of an ONNX graph, node by node, for one picture. Runs nothing.

Convolutions and matrix products are counted, all other operators as 0: they decide where the time of a network goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Final

from modelkit.compiled import COMPILED, record_of
from modelkit.contract import ModelContract
from modelkit.embed import parse_model
from modelkit.fold import fold_small_constants

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_CONVOLUTIONS: Final = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Operator -> the place of its weights among its inputs."""
_PRODUCTS: Final = {
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "Gemm": (0, 1),
    "QGemm": (0, 3),
    "QLinearMatMul": (0, 3),
}
"""Operator -> the places of its two factors among its inputs."""
_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class NodeWork:
    """A node that does work: `macs` of one picture, None where a size is only known at run time."""

    node: str
    op: str
    macs: int | None


def graph_work(data: bytes, contract: ModelContract) -> tuple[NodeWork, ...]:
    """Return the work of each convolution and matrix product of the outermost graph, in the order of the graph.

    A compiled node has the work that the record of its making names, or an unknown one.
    """
    from onnx import shape_inference

    model = parse_model(data)
    _fix_sizes(model, contract)
    fold_small_constants(model)
    try:
        model = shape_inference.infer_shapes(model, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError):  # what is not known stays unknown
        pass
    shapes: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            known = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
            if all(size > 0 for size in known):
                shapes.setdefault(value.name, tuple(known))
    for node in model.graph.node:  # weights of a QDQ graph come out of a node
        if node.op_type in ("DequantizeLinear", "Constant") and node.output[0] not in shapes:
            shape = shapes.get(node.input[0]) if node.input else _constant_shape(node)
            if shape is not None:
                shapes[node.output[0]] = shape
    compiled = [node for node in model.graph.node if node.op_type == COMPILED]
    record = record_of(model) if compiled else None
    inside = None if record is None else record.macs // len(compiled)
    return (
        *(found for node in model.graph.node if (found := _work(node, shapes)) is not None),
        *(NodeWork(one.name, COMPILED, inside) for one in compiled),
    )


def _fix_sizes(model: ModelProto, contract: ModelContract) -> None:
    spec = contract.input
    picture = (spec.height, spec.width, 3) if spec.layout == "NHWC" else (3, spec.height, spec.width)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        sizes = (1, *picture) if value.name == spec.name else (1,)
        for dim, size in zip(dims, sizes, strict=False):
            if not dim.HasField("dim_value") or dim.dim_value <= 0:
                dim.dim_value = size


def _constant_shape(node: NodeProto) -> tuple[int, ...] | None:
    found = [attribute.t for attribute in node.attribute if attribute.name == "value"]
    return tuple(found[0].dims) if found else None


def _work(node: NodeProto, shapes: _Shapes) -> NodeWork | None:
    if node.op_type in _CONVOLUTIONS:
        macs = _convolution(shapes.get(node.input[_CONVOLUTIONS[node.op_type]]), shapes.get(node.output[0]))
    elif node.op_type == "ConvTranspose":  # each input element meets every weight of its channel
        macs = _convolution(shapes.get(node.input[1]), shapes.get(node.input[0]))
    elif node.op_type in _PRODUCTS:
        left, right = (shapes.get(node.input[place]) for place in _PRODUCTS[node.op_type])
        is_turned = any(a.name == "transA" and a.i for a in node.attribute)
        macs = _product(left, right, shapes.get(node.output[0]), is_turned=is_turned)
    else:
        return None
    return NodeWork(node.name, node.op_type, macs)


def _convolution(weights: Sequence[int] | None, per_element: Sequence[int] | None) -> int | None:
    """Weights are (M, C / groups, k...), of a transposed convolution (C, M / groups, k...)."""
    if weights is None or per_element is None:
        return None
    return prod(per_element) * prod(weights[1:])


def _product(
    left: Sequence[int] | None, right: Sequence[int] | None, out: Sequence[int] | None, *, is_turned: bool
) -> int | None:
    if out is not None and left:
        return prod(out) * left[0 if is_turned else -1]
    if left and right and len(right) >= 2 and not is_turned:
        return prod(left) * right[-1]
    return None

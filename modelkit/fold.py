"""Fold small constant parts of an ONNX graph into tensors, so that its shapes are known. Weights are left alone.

Exporters write paddings and shapes as chains of nodes on constants, behind which shape inference sees nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_SMALL: Final = 1024
_FOLDED: Final = frozenset(
    {
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Gather",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)


def _is_large(node: NodeProto, known: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether a few numbers ask for a large tensor: it must not be made first and measured then."""
    return node.op_type == "ConstantOfShape" and prod(map(int, known[node.input[0]].ravel())) > _SMALL


def fold_small_constants(model: ModelProto) -> int:
    """Replace nodes whose inputs are constants of at most 1,024 numbers by their results, in place; return how many."""
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    fed = {value.name for value in graph.input}
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name not in fed and prod(tensor.dims) <= _SMALL and not tensor.external_data
    }
    kept, folded = [], []
    for node in graph.node:
        names = [name for name in node.input if name]
        is_known = not node.domain and all(name in known for name in names)
        if node.op_type in _FOLDED and is_known and not _is_large(node, known):
            with suppress(
                ArithmeticError, LookupError, RuntimeError, TypeError, ValueError
            ):  # what cannot be computed here stays in the graph
                made = ReferenceEvaluator(node).run(None, {name: known[name] for name in names})
                if all(value.size <= _SMALL for value in made):
                    known.update(zip(node.output, made, strict=True))
                    folded += [
                        numpy_helper.from_array(value, name)
                        for name, value in zip(node.output, made, strict=True)
                    ]
                    continue
        kept.append(node)
    count = len(graph.node) - len(kept)
    if count:
        del graph.node[:]
        graph.node.extend(kept)
        outputs = {value.name for value in graph.output}
        used = {name for node in kept for name in node.input} | outputs
        graph.initializer.extend(tensor for tensor in folded if tensor.name in used)
    return count

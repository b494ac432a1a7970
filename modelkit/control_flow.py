"""Refuse graphs whose amount of work a picture could decide: loops, recursion, and sizes computed from pixels.

A trial runs a model on a few frames and shows nothing about the frame on which a loop never ends. So what verification
accepts has a bound that follows from the shapes of its inputs: of the nodes that carry a part of the graph only `If` is
allowed, which runs one of its branches once; functions do not call themselves and unfold to a bounded number of nodes;
and no operator that makes a tensor of a given size gets this size from the values of a picture.

A size taken from the *shape* of a tensor is allowed, also where this shape depends on the picture (the number of boxes
that NonMaxSuppression keeps): it is bounded by the shapes of the inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from foundation.errors import RejectedError
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

REPEATING: Final = frozenset(
    {"Loop", "Scan", "SequenceMap", "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"}
)
"""Operators that run a part of the graph again and again; named apart because a message can say so."""
SIZED_BY: Final[Mapping[str, tuple[int, ...]]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1),
    "NonMaxSuppression": (2,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (2, 3),
    "STFT": (1, 3),
    "Tile": (1,),
    "Upsample": (1,),
}
"""Operators whose inputs at these places say how large their output is."""
_OF_SHAPES: Final = frozenset({"Shape", "Size"})
"""Their outputs follow from the shape of their input, not from its values."""
_Name = tuple[str, str]


def check_control_flow(model: ModelProto, max_nodes: int) -> None:
    """Check that the work of a parsed model is bounded by the shapes of its inputs.

    Raises:
        RejectedError: reason `too_complex`, naming the node; or more than `max_nodes` nodes once functions are unfolded.
    """
    functions = {(function.domain, function.name): function for function in model.functions}
    costs = _Costs(functions, max_nodes)
    costs.of_nodes(model.graph.node)
    initialised = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name for value in model.graph.input} - initialised
    _Sizes(functions).walk(model.graph.node, _Scope(inputs))


class _Costs:
    """Counts nodes with every function unfolded; each function is counted once."""

    def __init__(self, functions: Mapping[_Name, FunctionProto], max_nodes: int) -> None:
        self._functions = functions
        self._max_nodes = max_nodes
        self._known: dict[_Name, int] = {}
        self._open: list[_Name] = []

    def of_nodes(self, nodes: Iterable[NodeProto]) -> int:
        """Return the number of nodes; of branches all are counted."""
        count = 0
        for node in nodes:
            count += 1 + self._of_call((node.domain, node.op_type))
            for graph in _graphs_of(node):
                if node.op_type != "If":
                    raise _refused(node, "runs a part of the graph again and again")
                count += self.of_nodes(graph.node)
            if node.op_type in REPEATING:
                raise _refused(node, "runs a part of the graph again and again")
            if count > self._max_nodes:
                raise RejectedError(
                    f"more than {self._max_nodes} nodes with its functions unfolded",
                    reason=RefuseReason.TOO_COMPLEX,
                )
        return count

    def _of_call(self, name: _Name) -> int:
        function = self._functions.get(name)
        if function is None:
            return 0
        if name not in self._known:
            if name in self._open:
                raise RejectedError(f"function {name[1]!r} calls itself", reason=RefuseReason.TOO_COMPLEX)
            self._open.append(name)
            self._known[name] = self.of_nodes(function.node)
            self._open.pop()
        return self._known[name]


class _Scope:
    """The names of one graph while its nodes are passed in order."""

    def __init__(self, of_picture: set[str], outer: _Scope | None = None) -> None:
        self.of_picture = of_picture
        """Tensors whose values depend on the picture."""
        self.made: set[str] = set(outer.made) if outer else set()
        self.used: set[str] = set()

    def make(self, node: NodeProto, is_of_picture: Sequence[bool]) -> None:
        """Note the outputs of a node. A runtime may sort the nodes anew, so one that was used before is refused."""
        for name, is_of in zip(node.output, is_of_picture, strict=True):
            if name and (name in self.used or name in self.made):
                raise RejectedError(
                    f"node {node.name!r} ({node.op_type}) makes {name!r}, which was made or used before: "
                    "nodes must be in order",
                    reason=RefuseReason.NOT_ONNX,
                )
            self.made.add(name)
            if is_of:
                self.of_picture.add(name)


class _Sizes:
    """Follows the values of the inputs through the graph to the places where a size is read."""

    def __init__(self, functions: Mapping[_Name, FunctionProto]) -> None:
        self._functions = functions
        self._seen: dict[tuple[_Name, tuple[bool, ...]], tuple[bool, ...]] = {}

    def walk(self, nodes: Iterable[NodeProto], scope: _Scope) -> None:
        """Add to the scope what the nodes make.

        Raises:
            RejectedError: a size comes from a picture, or the nodes are not in order.
        """
        for node in nodes:
            scope.used.update(node.input)
            for place in SIZED_BY.get(node.op_type, ()):
                if place < len(node.input) and node.input[place] in scope.of_picture:
                    raise _refused(
                        node,
                        f"takes the size of its output from the values of a picture ({node.input[place]!r})",
                    )
            scope.make(node, self._outputs(node, scope))

    def _outputs(self, node: NodeProto, scope: _Scope) -> Sequence[bool]:
        given = tuple(name in scope.of_picture for name in node.input)
        function = self._functions.get((node.domain, node.op_type))
        if function is not None:
            return self._called(function, given, len(node.output))
        inner = [self._branch(graph, scope) for graph in _graphs_of(node)]
        if node.op_type in _OF_SHAPES:
            return [False] * len(node.output)
        return [any(given) or any(inner)] * len(node.output)

    def _branch(self, graph: GraphProto, outer: _Scope) -> bool:
        scope = _Scope(set(outer.of_picture), outer)
        self.walk(graph.node, scope)
        outer.used |= scope.used - (scope.made - outer.made)
        return any(value.name in scope.of_picture for value in graph.output)

    def _called(self, function: FunctionProto, given: tuple[bool, ...], outputs: int) -> Sequence[bool]:
        key = ((function.domain, function.name), given)
        if key not in self._seen:
            scope = _Scope({name for name, is_of in zip(function.input, given, strict=False) if is_of})
            self.walk(function.node, scope)
            self._seen[key] = tuple(name in scope.of_picture for name in function.output)
        found = self._seen[key]
        return [*found[:outputs], *[any(given)] * (outputs - len(found))]


def _graphs_of(node: NodeProto) -> list[GraphProto]:
    graphs = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            graphs.append(attribute.g)
        graphs.extend(attribute.graphs)
    return graphs


def _refused(node: NodeProto, what: str) -> RejectedError:
    return RejectedError(f"node {node.name!r} ({node.op_type}) {what}", reason=RefuseReason.TOO_COMPLEX)

"""Model bytes become a `VerifiedModel` only here, and nothing else can be given to a backend (G10).

Nothing is executed and no other file is opened: a tensor that points outside the bytes, an operator of a
foreign domain, a tensor whose header claims more than its bytes, or a graph that is not what its contract
says is refused with a reason. What only running can show (NaN, time, memory) is the trial's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foundation.errors import GuaranteeBrokenError, RejectedError
from modelkit.contract import STANDARD_DOMAIN, ModelContract
from modelkit.digest import sha256_hex
from modelkit.embed import contract_of, parse_model
from modelkit.tensor_checks import check_sparse_tensor, check_tensor
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

_SEAL: Final = object()
_FLOAT32: Final = 1


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Bounds of a model file. Bytes are bytes; opset and IR versions are inclusive.

    `allowed_domains` is the most that any contract may ask for besides the standard domain.
    """

    max_bytes: int = 64 * 1024 * 1024
    max_nodes: int = 20_000
    max_graph_depth: int = 8
    min_opset: int = 13
    max_opset: int = 25
    max_ir_version: int = 13
    allowed_domains: tuple[str, ...] = ("com.microsoft",)


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """Bytes that passed `verify_model`, with their digest and contract. Nobody else can make one."""

    data: bytes
    digest: str
    contract: ModelContract
    seal: object = None

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise GuaranteeBrokenError(
                "a VerifiedModel is made by modelkit.verify.verify_model, by nobody else"
            )

    def __repr__(self) -> str:
        return f"VerifiedModel({self.contract.name}, {len(self.data)} bytes, sha256 {self.digest[:12]})"


def verify_model(
    data: bytes, expected_digest: str | None, limits: ModelLimits | None = None
) -> VerifiedModel:
    """Say that these bytes may be loaded, or why not. Runs nothing, opens nothing.

    `expected_digest` is what a signed document said; None only where the bytes were made by this very
    process.

    Raises:
        RejectedError: reason is one of `too_large`, `wrong_hash`, `not_onnx`, `no_contract`, `bad_contract`,
            `foreign_domain`, `external_data`, `bad_tensor`, `too_complex`, `bad_opset`, `wrong_io`,
            `wrong_classes`.
    """
    bounds = limits if limits is not None else ModelLimits()
    if len(data) > bounds.max_bytes:
        raise RejectedError(
            f"model of {len(data)} bytes, the limit is {bounds.max_bytes}", reason=RefuseReason.TOO_LARGE
        )
    digest = sha256_hex(data)
    if expected_digest is not None and digest != expected_digest:
        raise RejectedError(
            f"model has sha256 {digest}, expected {expected_digest}", reason=RefuseReason.WRONG_HASH
        )
    model = parse_model(data)
    contract = contract_of(model)
    _Walk(bounds, _domains(contract, bounds)).model(model)
    _check_versions(model, bounds)
    _check_io(model.graph, contract)
    return VerifiedModel(bytes(data), digest, contract, _SEAL)


def _domains(contract: ModelContract, bounds: ModelLimits) -> frozenset[str]:
    for domain in contract.operator_domains:
        if domain not in bounds.allowed_domains:
            raise RejectedError(
                f"the contract asks for operator domain {domain!r}, allowed are {bounds.allowed_domains}",
                reason=RefuseReason.FOREIGN_DOMAIN,
            )
    return frozenset({"", STANDARD_DOMAIN, *contract.operator_domains})


class _Walk:
    """Visits every node and every tensor, wherever ONNX lets one hide."""

    def __init__(self, bounds: ModelLimits, domains: frozenset[str]) -> None:
        self._bounds = bounds
        self._domains = domains
        self._nodes = 0

    def model(self, model: ModelProto) -> None:
        if model.training_info:
            raise RejectedError("the model carries training graphs", reason=RefuseReason.TOO_COMPLEX)
        for opset in model.opset_import:
            self._domain(opset.domain, "opset import")
        for function in model.functions:
            self._function(function)
        self._graph(model.graph, 1)

    def _function(self, function: FunctionProto) -> None:
        self._domain(function.domain, f"function {function.name!r}")
        for opset in function.opset_import:
            self._domain(opset.domain, f"function {function.name!r}")
        for attribute in function.attribute_proto:
            self._attribute(attribute, 1)
        for node in function.node:
            self._node(node, 1)

    def _graph(self, graph: GraphProto, depth: int) -> None:
        if depth > self._bounds.max_graph_depth:
            limit = self._bounds.max_graph_depth
            raise RejectedError(f"graphs nested deeper than {limit}", reason=RefuseReason.TOO_COMPLEX)
        for tensor in graph.initializer:
            check_tensor(tensor, self._bounds.max_bytes)
        for sparse in graph.sparse_initializer:
            check_sparse_tensor(sparse, self._bounds.max_bytes)
        for node in graph.node:
            self._node(node, depth)

    def _node(self, node: NodeProto, depth: int) -> None:
        self._nodes += 1
        if self._nodes > self._bounds.max_nodes:
            raise RejectedError(f"more than {self._bounds.max_nodes} nodes", reason=RefuseReason.TOO_COMPLEX)
        self._domain(node.domain, f"node {node.name!r} ({node.op_type})")
        if node.op_type == "EPContext" and not any(
            a.name == "embed_mode" and a.i == 1 for a in node.attribute
        ):
            raise RejectedError(
                f"node {node.name!r} reads a compiled blob from a file", reason=RefuseReason.EXTERNAL_DATA
            )
        for attribute in node.attribute:
            self._attribute(attribute, depth)

    def _attribute(self, attribute: AttributeProto, depth: int) -> None:
        if attribute.HasField("t"):
            check_tensor(attribute.t, self._bounds.max_bytes)
        for tensor in attribute.tensors:
            check_tensor(tensor, self._bounds.max_bytes)
        if attribute.HasField("sparse_tensor"):
            check_sparse_tensor(attribute.sparse_tensor, self._bounds.max_bytes)
        for sparse in attribute.sparse_tensors:
            check_sparse_tensor(sparse, self._bounds.max_bytes)
        if attribute.HasField("g"):
            self._graph(attribute.g, depth + 1)
        for graph in attribute.graphs:
            self._graph(graph, depth + 1)

    def _domain(self, domain: str, where: str) -> None:
        if domain not in self._domains:
            raise RejectedError(
                f"{where} is of operator domain {domain!r}, allowed are {sorted(self._domains)}",
                reason=RefuseReason.FOREIGN_DOMAIN,
            )


def _check_versions(model: ModelProto, bounds: ModelLimits) -> None:
    versions = [o.version for o in model.opset_import if o.domain in ("", STANDARD_DOMAIN)]
    if len(versions) != 1 or not bounds.min_opset <= versions[0] <= bounds.max_opset:
        raise RejectedError(
            f"standard opset {versions}, allowed is one from {bounds.min_opset} to {bounds.max_opset}",
            reason=RefuseReason.BAD_OPSET,
        )
    if model.ir_version > bounds.max_ir_version:
        raise RejectedError(
            f"IR version {model.ir_version}, the limit is {bounds.max_ir_version}",
            reason=RefuseReason.BAD_OPSET,
        )


def _check_io(graph: GraphProto, contract: ModelContract) -> None:
    for value in (*graph.input, *graph.output):
        if not isinstance(value.name, str):  # protobuf gives bytes for what is no text
            raise RejectedError(f"{value.name!r} is no name: not UTF-8", reason=RefuseReason.NOT_ONNX)
    initialised = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in initialised}
    outputs = {value.name: value for value in graph.output}
    spec, out = contract.input, contract.outputs
    if set(inputs) != {spec.name}:
        raise RejectedError(
            f"inputs {sorted(inputs)}, the contract says {[spec.name]}", reason=RefuseReason.WRONG_IO
        )
    if set(outputs) != {out.logits, out.embedding} or len(graph.output) != 2:
        raise RejectedError(
            f"outputs {sorted(outputs)}, the contract says {sorted((out.logits, out.embedding))}",
            reason=RefuseReason.WRONG_IO,
        )
    _check_value(inputs[spec.name], (spec.channels, spec.height, spec.width), "wrong_io")
    _check_value(outputs[out.embedding], (out.embedding_size,), "wrong_io")
    _check_value(outputs[out.logits], (len(contract.classes),), "wrong_classes")


def _check_value(value: ValueInfoProto, sizes: tuple[int, ...], reason: str) -> None:
    """Float32, a free batch dimension first, then exactly `sizes`."""
    tensor = value.type.tensor_type
    if tensor.elem_type != _FLOAT32:
        raise RejectedError(
            f"{value.name!r} has element type {tensor.elem_type}, not float32", reason=RefuseReason.WRONG_IO
        )
    dims = list(tensor.shape.dim)
    found = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
    if not dims or found[0] != -1:
        raise RejectedError(
            f"{value.name!r} has shape {found}: its batch dimension is not free", reason=RefuseReason.WRONG_IO
        )
    if found[1:] != sizes:
        raise RejectedError(
            f"{value.name!r} has shape {found[1:]} a row, the contract says {sizes}", reason=reason
        )

"""Verify model bytes: only here they become a `VerifiedModel`, and backends accept nothing else (G10).

Nothing is executed and no other file is opened: a tensor that points outside the bytes and the files of its bundle, an
operator of a foreign domain, a tensor whose header claims more than its bytes, a graph whose amount of work a picture
could decide (`modelkit.control_flow`), or one that is not what its contract says is refused with a reason. What only
running can show (NaN, time, memory) is checked by the trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from foundation.errors import GuaranteeBrokenError, RejectedError
from modelkit.artefacts import check_artefact
from modelkit.contract import STANDARD_DOMAIN, ModelContract, input_names
from modelkit.control_flow import check_control_flow
from modelkit.digest import sha256_hex
from modelkit.embed import contract_of, parse_model
from modelkit.specs import ExtraInput, InputSpec
from modelkit.tasks import TASKS
from modelkit.tasks.task import wrong_io
from modelkit.tensor_checks import NOWHERE, check_sparse_tensor, check_tensor
from schemas.bundle import GRAPH, KIND_LIMITS
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

_SEAL: Final = object()
"""Only this module has it, so that no other can create a VerifiedModel."""
# Numbers of onnx.proto's TensorProto.DataType.
_ELEMENT_TYPES: Final = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "bool": 9, "float16": 10}
_NUMBERS: Final = frozenset({1, 2, 3, 6, 7, 10, 11})


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Bounds of a graph's file. Bytes are bytes; opset and IR versions are inclusive.

    `allowed_domains` is the most that any contract may ask for besides the standard domain.
    """

    max_bytes: int = KIND_LIMITS[GRAPH]
    max_nodes: int = 20_000
    max_graph_depth: int = 8
    min_opset: int = 7
    max_opset: int = 26
    max_ir_version: int = 13
    allowed_domains: tuple[str, ...] = ("com.microsoft",)


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """Bytes that passed `verify_model`, with their digest and contract. Nothing else can create one.

    A graph that is not ONNX is always in a bundle. Of a bundle `data` are the graph's bytes, `digest` is the bundle's, and
    tensors outside lie below `folder`.
    """

    data: bytes
    digest: str
    contract: ModelContract
    seal: object = None
    folder: Path | None = None
    kind: str = GRAPH
    """Of the graph, see `schemas.bundle.GRAPHS`: it decides which runtime loads the model."""
    weights: str = ""
    """Name of the file below `folder` with the weights of an OpenVINO graph."""

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise GuaranteeBrokenError(
                "a VerifiedModel is made by modelkit.verify.verify_model, by nobody else"
            )

    def in_bundle(self, digest: str, folder: Path) -> VerifiedModel:
        """Return the same graph as the one of a bundle whose files were verified; `folder` holds the graph."""
        return replace(self, digest=digest, folder=folder)

    def __repr__(self) -> str:
        return f"VerifiedModel({self.contract.name}, {len(self.data)} bytes, sha256 {self.digest[:12]})"


def verify_model(
    data: bytes,
    expected_digest: str | None,
    limits: ModelLimits | None = None,
    external: Mapping[str, int] = NOWHERE,
) -> VerifiedModel:
    """Return the model if these bytes may be loaded, or raise with the reason. Runs nothing, opens nothing.

    `expected_digest` is what a signed document said; None only where the bytes were made by this very
    process. `external`: where tensors may lie outside, see `modelkit.bundle`.

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
    _Walk(bounds, _domains(contract, bounds), external).model(model)
    check_control_flow(model, bounds.max_nodes)
    _check_versions(model, bounds)
    _check_io(model.graph, contract)
    return VerifiedModel(bytes(data), digest, contract, _SEAL)


def verify_artefact(kind: str, data: bytes, contract_text: bytes, weights: tuple[str, int]) -> VerifiedModel:
    """Return the model of a graph that is not ONNX, whose bytes were compared with their digest. Runs nothing.

    Inputs and outputs are compared with the contract when a runtime loads it.

    Args:
        weights: name and size in bytes of the file with the weights, ("", 0) without one.

    Raises:
        RejectedError: as `check_artefact`, or `bad_contract`.
    """
    check_artefact(kind, data, weights[1])
    try:
        contract = ModelContract.from_json(contract_text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RejectedError(f"the contract is no text: {error}", reason=RefuseReason.BAD_CONTRACT) from error
    return VerifiedModel(bytes(data), "", contract, _SEAL, kind=kind, weights=weights[0])


def _domains(contract: ModelContract, bounds: ModelLimits) -> frozenset[str]:
    for domain in contract.operator_domains:
        if domain not in bounds.allowed_domains:
            raise RejectedError(
                f"the contract asks for operator domain {domain!r}, allowed are {bounds.allowed_domains}",
                reason=RefuseReason.FOREIGN_DOMAIN,
            )
    return frozenset({"", STANDARD_DOMAIN, *contract.operator_domains})


class _Walk:
    """Visits every node and every tensor, wherever ONNX can nest one."""

    def __init__(self, bounds: ModelLimits, domains: frozenset[str], external: Mapping[str, int]) -> None:
        self._bounds = bounds
        self._domains = domains
        self._external = external
        self._nodes = 0

    def model(self, model: ModelProto) -> None:
        if model.training_info:
            raise RejectedError("the model carries training graphs", reason=RefuseReason.TOO_COMPLEX)
        for opset in model.opset_import:
            self._domain(opset.domain, "opset import")
        for function in model.functions:
            self._function(function)
        for tensor in model.graph.initializer:
            check_tensor(tensor, self._bounds.max_bytes, self._external)
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
        for tensor in graph.initializer if depth > 1 else ():  # those of the outermost graph were looked at
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
    spec, size, names = contract.input, contract.size_input, set(contract.outputs.values())
    wanted = set(input_names(contract))
    if set(inputs) != wanted:
        raise wrong_io(f"inputs {sorted(inputs)}, the contract says {sorted(wanted)}")
    if not names <= set(outputs) or len(graph.output) != len(outputs):
        raise wrong_io(f"outputs {sorted(outputs)}, the contract says {sorted(names)}")
    _check_input(inputs[spec.name], spec.dtype, shape_of(spec), spec.batch)
    if size is not None:
        _check_input(inputs[size.name], size.dtype, (2,), spec.batch)
    for extra in contract.extra_inputs:
        if extra.kind == "scale":
            _check_input(inputs[extra.name], extra.dtype, (2,), spec.batch)
        else:
            _check_constant(inputs[extra.name], extra)
    shapes = {role: _check_output(outputs[name], spec.batch, role) for role, name in contract.outputs.items()}
    if "embedding" in shapes and shapes["embedding"] != (shapes["embedding"][0], contract.embedding_size):
        raise wrong_io(
            f"{contract.outputs['embedding']!r} has shape {shapes['embedding']}, the contract says "
            f"{contract.embedding_size} numbers per picture"
        )
    TASKS[contract.task].check_shapes(contract, shapes)


def shape_of(spec: InputSpec) -> tuple[int, int, int]:
    """Return the shape of one picture in the input, by its layout."""
    if spec.layout == "NHWC":
        return (spec.height, spec.width, spec.channels)
    return (spec.channels, spec.height, spec.width)


def _check_input(value: ValueInfoProto, dtype: str, sizes: tuple[int, ...], batch: int) -> None:
    """Check the type, the batch dimension (free or the contract's), then `sizes` (or free)."""
    found = _shape(value)
    if value.type.tensor_type.elem_type != _ELEMENT_TYPES[dtype]:
        raise wrong_io(f"{value.name!r} has element type {value.type.tensor_type.elem_type}, not {dtype}")
    if len(found) != len(sizes) + 1 or found[0] not in (-1, batch):
        raise wrong_io(f"{value.name!r} has shape {found}: its batch dimension is not {batch or 'free'}")
    if any(size not in (-1, wanted) for size, wanted in zip(found[1:], sizes, strict=True)):
        raise wrong_io(f"{value.name!r} has shape {found[1:]} per row, the contract says {sizes}")


def _check_constant(value: ValueInfoProto, extra: ExtraInput) -> None:
    """Check type and shape of an input of constants; every size may be free."""
    found = _shape(value)
    if value.type.tensor_type.elem_type != _ELEMENT_TYPES[extra.dtype]:
        raise wrong_io(
            f"{value.name!r} has element type {value.type.tensor_type.elem_type}, not {extra.dtype}"
        )
    if len(found) != len(extra.shape) or any(
        a not in (-1, b) for a, b in zip(found, extra.shape, strict=True)
    ):
        raise wrong_io(f"{value.name!r} has shape {found}, the contract's constant {extra.shape}")


def _check_output(value: ValueInfoProto, batch: int, role: str) -> tuple[int, ...]:
    """Return the declared shape of an output of numbers, -1 where a size is free."""
    if value.type.tensor_type.elem_type not in _NUMBERS:
        raise wrong_io(f"{value.name!r} has element type {value.type.tensor_type.elem_type}, no number")
    found = _shape(value)
    if role in ("logits", "embedding") and (not found or found[0] not in (-1, batch)):
        raise wrong_io(f"{value.name!r} has shape {found}: its batch dimension is not {batch or 'free'}")
    return found


def _shape(value: ValueInfoProto) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)

"""Qualcomm's Hexagon NPU through ONNX Runtime's plug-in, and the plug-in's emulator of it on x86-64.

The plug-in is used where the machine is ARM, or where the settings name the NPU's architecture: then the emulator runs the model,
which shows right answers and coverage, never speed. What the NPU computes wrong without an error, or compiles to something
else than was asked for, is refused here.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.compiled import COMPILED, COMPILED_KEY, RECORD, Compiled, record_of
from modelkit.embed import embed_contract, parse_model
from modelkit.fold import fold_small_constants
from modelkit.onnx_errors import runtime_errors
from modelkit.verify import VerifiedModel, verify_model
from modelkit.versions import Requirement
from modelkit.work import graph_work
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

QNN: Final = "QNNExecutionProvider"
REQUIREMENT: Final = Requirement("onnxruntime-qnn", "2.7", "2.8", "qnn")
ARCHITECTURES: Final = (68, 69, 73, 75, 79, 81)
"""Of the Hexagon tensor processor (HTP). The plug-in compiles for any other number, too, but not what was asked for."""
MICROSOFT_DOMAIN: Final = "com.microsoft"
_SIGNED_8_BIT: Final = 3
_HEAVY: Final = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_NO_WORK: Final = frozenset({COMPILED, "QuantizeLinear", "DequantizeLinear"})
_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


def architecture(options: Mapping[str, str]) -> int:
    """Return the architecture that the options name; 0: none.

    Raises:
        MisconfiguredError: it is none that the plug-in knows.
    """
    said = options.get("htp_arch", "")
    if said and (not said.isdigit() or int(said) not in ARCHITECTURES):
        raise MisconfiguredError(
            f"htp_arch is {said!r}; the architectures are {', '.join(map(str, ARCHITECTURES))}"
        )
    return int(said or 0)


def is_here(options: Mapping[str, str] = _NO_OPTIONS) -> bool:
    """Return whether models may run on the NPU, or on its emulator.

    Raises:
        MisconfiguredError: an architecture is named, but the plug-in is missing or of another version.
    """
    if not architecture(options) and platform.machine() not in ("aarch64", "arm64"):
        return False
    try:
        REQUIREMENT.installed()
    except MisconfiguredError:
        if options:
            raise
        return False
    return True


def add_to(settings: Any, options: Mapping[str, str]) -> None:
    """Ask for the NPU in the settings of a session, which is the only way that gives it: a list of providers does not."""
    import onnxruntime
    import onnxruntime_qnn

    if QNN not in {device.ep_name for device in onnxruntime.get_ep_devices()}:
        onnxruntime.register_execution_provider_library(QNN, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == QNN]
    settings.add_provider_for_devices(
        devices[:1], {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **options}
    )


def compile_context(model: VerifiedModel, htp_arch: int, name: str | None = None) -> bytes:
    """Return the model compiled for an architecture, ahead of time, with its contract and a record of its making inside.

    Raises:
        MisconfiguredError: the plug-in is missing or of another version, or the architecture is unknown.
        RejectedError: reason `load_failed`, or `wrong_target` (the plug-in does not take all of the graph, or made no compiled
            node), or as `check_graph`.
    """
    options = {"htp_arch": str(htp_arch)}
    architecture(options)
    version = REQUIREMENT.installed()
    source = parse_model(model.data)
    check_graph(source)
    fold_small_constants(source)
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    add_to(settings, options)
    errors: tuple[type[Exception], ...] = (OSError, *runtime_errors())
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "compiled.onnx"
        try:
            onnxruntime.ModelCompiler(
                settings, source.SerializeToString(), embed_compiled_data_into_model=True
            ).compile_to_file(str(made))
            data = made.read_bytes()
        except errors as error:
            raise RejectedError(
                f"{model.contract.name} cannot be compiled for HTP {htp_arch}: {str(error)[:400]}",
                reason=RefuseReason.LOAD_FAILED,
            ) from error
    proto = parse_model(data)
    _require_context(proto, f"the plug-in compiled {model.contract.name} for HTP {htp_arch} to a file")
    left = [node.name or node.op_type for node in proto.graph.node if node.op_type not in _NO_WORK]
    if left:
        raise _wrong(
            f"HTP {htp_arch} does not take {len(left)} nodes of {model.contract.name} (first: {left[:3]})"
        )
    work = graph_work(model.data, model.contract)
    record = Compiled(
        htp_arch, onnxruntime.__version__, version, model.digest, sum(one.macs or 0 for one in work)
    )
    kept = [(entry.key, entry.value) for entry in proto.metadata_props if entry.key != COMPILED_KEY]
    opsets = [opset for opset in proto.opset_import if opset.domain in ("", "ai.onnx", MICROSOFT_DOMAIN)]
    del proto.metadata_props[:]
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)  # the plug-in lists domains that no node uses
    for key, value in kept:
        proto.metadata_props.add(key=key, value=value)
    proto.metadata_props.add(key=COMPILED_KEY, value=json.dumps(RECORD.tree(record), sort_keys=True))
    contract = replace(
        model.contract,
        name=name or model.contract.name,
        allowed_providers=(QNN,),
        cpu_fallback="refuse",
        operator_domains=(MICROSOFT_DOMAIN,),
        target=f"qnn-htp-v{htp_arch}",
    )
    return verify_model(embed_contract(proto.SerializeToString(), contract), None).data


def check_context(model: VerifiedModel, options: Mapping[str, str]) -> None:
    """Check that a model for the NPU may be loaded where `options` say which NPU this is.

    Raises:
        RejectedError: reason `wrong_target`: compiled for another architecture, or without the record of its making, or one that
            says that it is compiled and is not; or as `check_graph`.
    """
    proto = parse_model(model.data)
    is_compiled = any(node.op_type == COMPILED for node in proto.graph.node)
    made = record_of(proto)
    if not is_compiled and made is None:
        check_graph(proto)
        return
    if made is None:
        raise _wrong(f"{model.contract.name} is compiled, and has no record of what for ({COMPILED_KEY})")
    _require_context(proto, f"{model.contract.name} says that it is compiled")
    here = architecture(options)
    if here and made.htp_arch != here:
        raise _wrong(
            f"{model.contract.name} is compiled for HTP {made.htp_arch}, this vehicle has HTP {here}"
        )


def check_graph(proto: ModelProto) -> None:
    """Refuse a quantised graph that the NPU would compute wrong without an error; a graph without quantisation passes.

    Raises:
        RejectedError: reason `wrong_target`: an activation in signed 8 bit (measured: 95.8 % right on a CPU, 5.8 % on HTP), or a
            convolution or product without an encoding of an input or of its output, for which the NPU would invent a range.
    """
    graph = proto.graph
    if not any(node.op_type == "QuantizeLinear" for node in graph.node):
        return
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        is_activation = node.op_type == "QuantizeLinear" and node.input[0] not in types
        if is_activation and len(node.input) > 2 and types.get(node.input[2]) == _SIGNED_8_BIT:
            raise _wrong(
                f"activation {node.input[0]!r} is quantised to signed 8 bit, which HTP computes wrong without an error; "
                "quantise activations to unsigned 8 or 16 bit"
            )
    missing = _without_encoding(graph, set(types))
    if missing:
        raise _wrong(
            f"{len(missing)} of the quantised model's convolutions and products lack an encoding (first: {missing[:3]}): HTP "
            "would invent a range"
        )


def _without_encoding(graph: GraphProto, constants: set[str]) -> list[str]:
    makers = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    found = []
    for node in graph.node:
        if node.op_type not in _HEAVY:
            continue
        bare = [
            name
            for name in node.input[:2]
            if name in constants or name not in makers or makers[name].op_type != "DequantizeLinear"
        ]
        after = users.get(node.output[0], [])
        while len(after) == 1 and after[0].op_type in ("Relu", "Clip", "Add"):
            after = users.get(after[0].output[0], []) if after[0].output[0] not in outputs else []
        if bare or (after and any(user.op_type != "QuantizeLinear" for user in after)):
            found.append(node.name or node.output[0])
    return found


def _require_context(proto: ModelProto, what: str) -> None:
    if not any(node.op_type == COMPILED for node in proto.graph.node):
        raise _wrong(f"{what} without an EPContext node: nothing in it is compiled")


def _wrong(message: str) -> RejectedError:
    return RejectedError(message, reason=RefuseReason.WRONG_TARGET)

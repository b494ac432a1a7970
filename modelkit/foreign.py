"""Read a model that was exported elsewhere and has no contract yet: its file, inputs, outputs and suspect parts.

Nothing is run here. Weights in files beside it are packed in, only from regular files in the model's own folder; what
can never become an artefact is refused with a message that names the cause and the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.contract import STANDARD_DOMAIN
from modelkit.embed import parse_model
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

_EXTERNAL: Final = 1
_TYPES: Final = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
_RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_TINY_SCALE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, element type (such as float32) and shape, -1 where a size is free."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = " x ".join("free" if size < 0 else str(size) for size in self.shape) or "a single number"
        return f"{self.name!r} ({self.dtype}, {sizes})"


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """The model in one piece. `packed` names the files beside it whose weights were packed in."""

    proto: ModelProto
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    packed: tuple[str, ...]

    @property
    def domains(self) -> tuple[str, ...]:
        """The operator domains besides the standard one that its nodes use."""
        used = {node.domain for node in nodes_of(self.proto.graph)} - {"", STANDARD_DOMAIN}
        return tuple(sorted(used))

    def last_operators(self) -> dict[str, str]:
        """Return the operator that gives each output."""
        makers = {name: node.op_type for node in self.proto.graph.node for name in node.output}
        return {port.name: makers.get(port.name, "") for port in self.outputs}


def read_foreign(path: Path, max_bytes: int) -> ForeignModel:
    """Read an ONNX file and what lies beside it.

    Raises:
        MisconfiguredError: no such file, or a file of weights beside it is missing or lies elsewhere.
        RejectedError: no ONNX model, too large, or one that can never be an artefact.
    """
    data = _read(path, max_bytes)
    _refuse_others(path, data)
    try:
        model = parse_model(data)
    except RejectedError as error:
        raise RejectedError(f"{path} is cut short or no ONNX file: {error}", reason=error.reason) from error
    packed = _pack(model, path.parent, max_bytes - len(data))
    _refuse_compiled(model)
    initialised = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_port(value) for value in model.graph.input if value.name not in initialised)
    return ForeignModel(model, inputs, tuple(_port(value) for value in model.graph.output), packed)


def resized(foreign: ForeignModel, name: str, layout: str, size: tuple[int, int]) -> ForeignModel:
    """Return the model with one picture of `size` (width, height) as its input `name`, whatever size it was exported with.

    Only declared shapes change, and those of outputs are left to the run: a graph that has its size in constants fails
    at its first run. `layout` is nchw, nhwc, or "" for the axis of three channels.

    Raises:
        RejectedError: reason `wrong_io`; the input has not four axes.
    """
    (value,) = (each for each in foreign.proto.graph.input if each.name == name)
    dims = value.type.tensor_type.shape.dim
    if len(dims) != 4:
        raise RejectedError(
            f"the input {name!r} has {len(dims)} axes, a picture has 4", reason=RefuseReason.WRONG_IO
        )
    is_last = layout.upper() == "NHWC" or (not layout and dims[1].dim_value != 3 and dims[3].dim_value == 3)
    width, height = size
    wanted = (1, height, width, 3) if is_last else (1, 3, height, width)
    for dim, number in zip(dims, wanted, strict=True):
        dim.dim_value = number
    for output in foreign.proto.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    del foreign.proto.graph.value_info[:]
    inputs = tuple(_port(value) if port.name == name else port for port in foreign.inputs)
    return replace(foreign, inputs=inputs, outputs=tuple(map(_port, foreign.proto.graph.output)))


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield every node, those of inner graphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)
            for inner in attribute.graphs:
                yield from nodes_of(inner)


def random_nodes(model: ModelProto) -> list[str]:
    """Return nodes with random output: random operators, and Dropout in training mode."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    found = []
    for node in nodes_of(model.graph):
        is_training = node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]
        if node.op_type in _RANDOM or (is_training and node.input[2] in constants):
            found.append(f"{node.op_type} {node.name!r}" if node.name else node.op_type)
    return found


def scale_faults(model: ModelProto) -> tuple[list[str], list[str]]:
    """Return (faults, warnings) of the scales of a quantised model, each with its tensor and channel."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    faults: list[str] = []
    warnings: list[str] = []
    seen: set[str] = set()
    for node in nodes_of(model.graph):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 2:
            continue
        source, name = node.input[0], node.input[1]
        if name not in tensors or name in seen:
            continue
        seen.add(name)
        values = [float(value) for value in numpy_helper.to_array(tensors[name]).reshape(-1)]
        what = source if source in tensors else f"the activation {source}"
        for channel, value in enumerate(values):
            if not math.isfinite(value) or value < 0:
                shown = "NaN" if math.isnan(value) else f"{value:g}"
                faults.append(f"the scale {name} of {what} is {shown} in channel {channel}")
            elif value == 0 and source not in tensors:
                faults.append(f"the scale {name} of {what} is 0: all that passes it is 0")
            elif value < _TINY_SCALE:
                warnings.append(
                    f"the scale {name} of {what} is {value:g} in channel {channel}: its filter is dead"
                )
    if bare := _without_encoding(model):
        warnings.append(
            f"{', '.join(bare[:5])}{' and more' if len(bare) > 5 else ''} have no encoding in a quantised model: a device "
            "that computes in int8 only runs these nodes in float or refuses them"
        )
    return faults, warnings


def _without_encoding(model: ModelProto) -> list[str]:
    """Return tensors of a quantised model that go from node to node in float; what a Relu or Clip follows is fused with it."""
    nodes = list(model.graph.node)
    if not any(node.op_type == "DequantizeLinear" for node in nodes):
        return []
    makers = {name: node.op_type for node in nodes for name in node.output if name}
    passing = ("QuantizeLinear", "Relu", "Clip")
    return sorted(
        {
            name
            for node in nodes
            for name in node.input
            if node.op_type not in passing
            and makers.get(name, "") not in ("", "DequantizeLinear", "Constant", *passing[:1])
        }
    )


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if not path.is_file():
            raise MisconfiguredError(f"there is no model file {path}")
        size = path.stat().st_size
        if size > max_bytes:
            raise RejectedError(
                f"{path} has {size} bytes, the limit is {max_bytes}; export it smaller (int8, float16) or raise "
                "--max-mebibytes, if your vehicles take it",
                reason=RefuseReason.TOO_LARGE,
            )
        return path.read_bytes()
    except OSError as error:
        raise MisconfiguredError(f"cannot read {path}: {error.strerror}") from error


def _refuse_others(path: Path, data: bytes) -> None:
    """Refuse files that are named like a model but are not one."""
    head = data[:512].lstrip()
    found = ""
    if head.startswith(b"version https://git-lfs"):
        found = "a pointer of git-lfs; fetch the file itself with `git lfs pull`"
    elif head[:1] == b"<" or head[:15].lower().startswith(b"<!doctype html"):
        found = "a page (HTML), not a model: the download gave a page instead"
    elif head[:2] == b"PK":
        found = "a zip archive (perhaps a PyTorch model); export it with torch.onnx.export"
    elif data[4:8] == b"TFL3":
        found = "a TFLite model; convert it with tf2onnx"
    elif not data:
        found = "empty"
    if found:
        raise RejectedError(f"{path} is {found}", reason=RefuseReason.NOT_ONNX)


def _pack(model: ModelProto, folder: Path, room: int) -> tuple[str, ...]:
    packed: dict[str, None] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location != _EXTERNAL:
            continue
        facts = {entry.key: entry.value for entry in tensor.external_data}
        name = facts.get("location", "")
        path = PurePosixPath(name.replace("\\", "/"))
        if not name or path.is_absolute() or ".." in path.parts or name[1:2] == ":":
            how = (
                "an absolute path"
                if path.is_absolute() or name[1:2] == ":"
                else "outside of the model's folder"
            )
            raise RejectedError(
                f"the weights {tensor.name!r} lie in {name!r}, {how}; put the file beside the "
                "model and export it with a plain name, or save the model in one file",
                reason=RefuseReason.EXTERNAL_DATA,
            )
        file = folder / path
        if (
            any(part.is_symlink() for part in (file, *file.parents) if folder in part.parents)
            or not file.is_file()
        ):
            raise MisconfiguredError(
                f"the weights {tensor.name!r} lie in {name!r}, and there is no such file beside the model in {folder}"
            )
        offset, size = _number(facts, "offset", 0), file.stat().st_size
        length = _number(facts, "length", max(size - offset, 0))
        if offset + length > size or length > room:
            why = f"{size} bytes" if offset + length > size else f"more than the {room} bytes that are left"
            raise RejectedError(
                f"the weights {tensor.name!r} are bytes {offset} to {offset + length} of {name!r}, which has {why}",
                reason=RefuseReason.EXTERNAL_DATA if offset + length > size else RefuseReason.TOO_LARGE,
            )
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.data_location = 0
        del tensor.external_data[:]
        room -= length
        packed.setdefault(name)
    return tuple(packed)


def _number(facts: dict[str, str], key: str, default: int) -> int:
    text = facts.get(key, str(default))
    if not text.isascii() or not text.isdigit():
        raise RejectedError(f"external data with {key} {text[:40]!r}", reason=RefuseReason.EXTERNAL_DATA)
    return int(text)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in nodes_of(graph):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            inner = [attribute.g] if attribute.HasField("g") else []
            for each in (*inner, *attribute.graphs):
                yield from each.initializer


def _refuse_compiled(model: ModelProto) -> None:
    for node in nodes_of(model.graph):
        if node.op_type != "EPContext":
            continue
        facts = {attribute.name: attribute for attribute in node.attribute}
        maker = facts["source"].s.decode(errors="replace") if "source" in facts else "an unnamed maker"
        embedded = "embed_mode" not in facts or facts["embed_mode"].i == 1
        content = facts["ep_cache_context"].s if "ep_cache_context" in facts else b""
        where = (
            f"{len(content)} bytes inside" if embedded else f"the file {content.decode(errors='replace')!r}"
        )
        told = "; ".join(
            f"{name} {facts[name].s.decode(errors='replace')!r}"
            for name in ("ep_sdk_version", "partition_name", "hardware_architecture", "notes")
            if name in facts and facts[name].s
        )
        raise RejectedError(
            f"the model was compiled for {maker} ({where}{'; ' + told if told else ''}): compiled models are made from an "
            "ordinary export by the release for its target, and not imported",
            reason=RefuseReason.EXTERNAL_DATA,
        )


def _port(value: ValueInfoProto) -> Port:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "nothing"
        raise RejectedError(
            f"{value.name!r} is a {kind.removesuffix('_type')}, not a tensor; export outputs as tensors",
            reason=RefuseReason.WRONG_IO,
        )
    tensor = value.type.tensor_type
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else -1 for dim in tensor.shape.dim
    )
    return Port(value.name, _TYPES.get(tensor.elem_type, f"element type {tensor.elem_type}"), shape)

"""Model files that point outside themselves: every place in ONNX that can, with every kind of address."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TENSOR_BYTES = 4096


def _address(kind: str, slots: Path, outside: Path) -> str:
    """What the model says. Links lie beside the slot, where the runtime would look for them."""
    link = slots / f"{outside.parent.name}-{kind}.bin"
    if kind == "symlink":
        link.symlink_to(outside)
    elif kind == "hard-link":
        os.link(outside, link)
    relative = os.path.relpath(outside, slots)
    return {
        "relative": relative,
        "absolute": str(outside),
        "symlink": link.name,
        "hard-link": link.name,
        "dotted": f"./x/../{relative}",
        "address": f"file://{outside}",
        "escaped": relative.replace("..", "%2e%2e"),
    }[kind]


ADDRESSES = ("relative", "absolute", "symlink", "hard-link", "dotted", "address", "escaped")


def _outside_tensor(name: str, address: str) -> Any:
    from onnx import numpy_helper

    tensor = numpy_helper.from_array(np.zeros(TENSOR_BYTES // 4, dtype=np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    for key, value in (("location", address), ("offset", "0"), ("length", str(TENSOR_BYTES))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _use(graph: Any, name: str) -> None:
    """The logits depend on it, so that nothing can leave it out."""
    from onnx import helper

    graph.node[-1].output[0] = "clean_logits"
    graph.node.append(helper.make_node("ReduceMax", [name], ["outside_most"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["clean_logits", "outside_most"], ["logits"]))


def _initializer(model: Any, address: str) -> None:
    model.graph.initializer.append(_outside_tensor("outside", address))
    _use(model.graph, "outside")


def _attribute(model: Any, address: str) -> None:
    from onnx import helper

    tensor = _outside_tensor("hidden", address)
    _use(model.graph, "outside")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["outside"], value=tensor))


def _subgraph(model: Any, address: str) -> None:
    from onnx import TensorProto, helper, numpy_helper

    tensor = _outside_tensor("inner", address)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["branch_out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branch_out", TensorProto.FLOAT, [TENSOR_BYTES // 4])],
        [tensor],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    _use(model.graph, "outside")
    node = helper.make_node("If", ["yes"], ["outside"], then_branch=branch, else_branch=branch)
    model.graph.node.insert(0, node)


def _sparse(model: Any, address: str) -> None:
    from onnx import helper, numpy_helper

    count = TENSOR_BYTES // 4
    indices = numpy_helper.from_array(np.arange(count, dtype=np.int64), "outside_indices")
    values = _outside_tensor("outside", address)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [count]))
    _use(model.graph, "outside")


def _compiled(model: Any, address: str) -> None:
    from onnx import helper

    model.opset_import.add(domain="com.microsoft", version=1)
    node = helper.make_node(
        "EPContext", [], ["outside"], domain="com.microsoft", embed_mode=0, ep_cache_context=address
    )
    _use(model.graph, "outside")
    model.graph.node.insert(0, node)


PLACES: dict[str, Callable[[Any, str], None]] = {
    "initializer": _initializer,
    "attribute": _attribute,
    "subgraph": _subgraph,
    "sparse": _sparse,
    "compiled": _compiled,
}


def make(place: str, kind: str, slots: Path, outside: Path) -> bytes:
    """A model whose contract is in order and which refers to the file `outside`."""
    from dataclasses import replace

    from modelkit.embed import embed_contract
    from tests.fakes.models import tiny_contract, tiny_proto

    contract = tiny_contract(name="outside")
    if place == "compiled":
        contract = replace(contract, operator_domains=("com.microsoft",))
    model = tiny_proto(contract)
    PLACES[place](model, _address(kind, slots, outside))
    return embed_contract(model.SerializeToString(), contract)

"""Make models with a known fault from a good one, to show that the fault is caught."""

from __future__ import annotations

import dataclasses
from typing import Final

from modelkit.contract import ModelContract
from modelkit.embed import contract_of, embed_contract, parse_model

_LUMA: Final = (0.299, 0.587, 0.114)
_PREFIX: Final = "fleetloop_fault_"


def return_nan_when_dark(model_bytes: bytes, below_luma: float, name: str | None = None) -> bytes:
    """Return the same model, but with NaN logits on every picture of mean luma (0 to 255) below `below_luma`.

    The luma is computed inside the graph from the normalised input (the mean over the pixels, weighted as in
    `images.luma`), so that no trial on bright pictures can find the fault. `name` gives the contract another name.

    Raises:
        RejectedError: the bytes are not a model with a contract.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    model = parse_model(model_bytes)
    contract = contract_of(model)
    out, how = contract.outputs, contract.preprocessing
    # luma = sum_c w_c * (x_c * std_c + mean_c) / scale, where x_c is the normalised input.
    weights = np.array([w * s / how.scale for w, s in zip(_LUMA, how.std, strict=True)], dtype=np.float32)
    offset = sum(w * m / how.scale for w, m in zip(_LUMA, how.mean, strict=True))
    constants = {
        "axes": np.array([2, 3], dtype=np.int64),
        "weights": weights.reshape(3, 1),
        "threshold": np.array([below_luma - offset], dtype=np.float32),
        "nan": np.array([np.nan], dtype=np.float32),
    }
    for key, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, _PREFIX + key))
    clean = _PREFIX + "clean_logits"
    _rename(model.graph, out["logits"], clean)

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> None:
        model.graph.node.append(helper.make_node(op, inputs, [output], name=output + "_" + op, **attributes))

    node("ReduceMean", [contract.input.name, _PREFIX + "axes"], _PREFIX + "means", keepdims=0)
    node("MatMul", [_PREFIX + "means", _PREFIX + "weights"], _PREFIX + "luma")
    node("Less", [_PREFIX + "luma", _PREFIX + "threshold"], _PREFIX + "is_dark")
    node("Where", [_PREFIX + "is_dark", _PREFIX + "nan", clean], out["logits"])
    return _with_contract(model.SerializeToString(deterministic=True), contract, name)


def malformed_models(good: bytes) -> dict[str, bytes]:
    """Return three models that must never be loaded: truncated, with data outside the file, with a foreign operator."""
    import onnx

    outside = onnx.load_model_from_string(good)
    tensor = outside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../key.pem"
    foreign = onnx.load_model_from_string(good)
    foreign.graph.node[0].domain = "com.attacker"
    foreign.opset_import.add(domain="com.attacker", version=1)
    return {
        "cut-short": good[: len(good) // 2],
        "data-outside-the-file": outside.SerializeToString(),
        "foreign-operator": foreign.SerializeToString(),
    }


def _with_contract(data: bytes, contract: ModelContract, name: str | None) -> bytes:
    return embed_contract(data, contract if name is None else dataclasses.replace(contract, name=name))


def _rename(graph: object, old: str, new: str) -> None:
    """Rename the value `old` to `new` in every node; graph outputs keep their names."""
    for node in graph.node:  # type: ignore[attr-defined]
        for names in (node.input, node.output):
            for i, value in enumerate(names):
                if value == old:
                    names[i] = new

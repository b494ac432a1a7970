"""The tiny network of `tests.fakes.models` as a TFLite file, by the schema that LiteRT brings: same weights, same answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkit.contract import ModelContract


def tiny_tflite(
    contract: ModelContract, seed: int = 0, *, batch: int = 1, operator: int | None = None
) -> bytes:
    """Bytes of the network; its input is NHWC, as in TFLite. `operator` replaces the pooling by another operator number."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as s

    rng = np.random.default_rng(seed)
    spec, out = contract.input, contract.outputs
    kernel = (max(spec.height // 4, 1), max(spec.width // 4, 1))
    rows, columns = spec.height // kernel[0], spec.width // kernel[1]
    flat = spec.channels * rows * columns
    to_embedding = rng.normal(size=(flat, contract.embedding_size)) / np.sqrt(flat)
    to_logits = 3.0 * rng.normal(size=(contract.embedding_size, len(contract.classes)))
    # ONNX flattens C, H, W; here the channels come last.
    turned = to_embedding.reshape(spec.channels, rows, columns, -1).transpose(1, 2, 0, 3).reshape(flat, -1)
    model, graph = s.ModelT(), s.SubGraphT()
    model.buffers, graph.tensors = [_made(s.BufferT())], []

    def tensor(name: str, shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        number = 0
        if data is not None:
            number = len(model.buffers)
            model.buffers.append(_made(s.BufferT(), data=np.frombuffer(data.tobytes(), np.uint8)))
        kind = s.TensorType.INT32 if data is not None and data.dtype == np.int32 else s.TensorType.FLOAT32
        graph.tensors.append(
            _made(s.TensorT(), name=name.encode(), shape=list(shape), buffer=number, type=kind)
        )
        return len(graph.tensors) - 1

    image = tensor(spec.name, (batch, spec.height, spec.width, spec.channels))
    pooled = tensor("pooled", (batch, rows, columns, spec.channels))
    shape = tensor("shape", (2,), np.array([batch, flat], np.int32))
    flattened = tensor("flat", (batch, flat))
    one = tensor("w1", (contract.embedding_size, flat), np.ascontiguousarray(turned.T.astype(np.float32)))
    embedding = tensor(out["embedding"], (batch, contract.embedding_size))
    two = tensor(
        "w2",
        (len(contract.classes), contract.embedding_size),
        np.ascontiguousarray(to_logits.T.astype(np.float32)),
    )
    logits = tensor(out["logits"], (batch, len(contract.classes)))
    builtin = s.BuiltinOperator
    pool = operator if operator is not None else builtin.AVERAGE_POOL_2D
    codes = [pool, builtin.RESHAPE, builtin.FULLY_CONNECTED]
    model.operatorCodes = [
        _made(s.OperatorCodeT(), builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=1)
        for code in codes
    ]
    pooling = _made(
        s.Pool2DOptionsT(), padding=1, strideH=kernel[0], strideW=kernel[1], filterHeight=kernel[0], filterWidth=kernel[1]
    )  # fmt: skip
    graph.operators = [
        _operator(s, 0, [image], [pooled], s.BuiltinOptions.Pool2DOptions, pooling),
        _operator(s, 1, [pooled, shape], [flattened], s.BuiltinOptions.ReshapeOptions, s.ReshapeOptionsT()),
        _operator(s, 2, [flattened, one, -1], [embedding], s.BuiltinOptions.FullyConnectedOptions, s.FullyConnectedOptionsT()),
        _operator(s, 2, [embedding, two, -1], [logits], s.BuiltinOptions.FullyConnectedOptions, s.FullyConnectedOptionsT()),
    ]  # fmt: skip
    graph.inputs, graph.outputs = [image], [logits, embedding]
    model.version, model.subgraphs = 3, [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _operator(schema: Any, code: int, inputs: list[int], outputs: list[int], kind: int, options: Any) -> Any:
    made = _made(schema.OperatorT(), opcodeIndex=code, inputs=inputs, outputs=outputs)
    return _made(made, builtinOptionsType=kind, builtinOptions=options)


def _made(thing: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(thing, name, value)
    return thing

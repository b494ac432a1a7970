"""Bundles of a tiny model: its graph, its tensors in a file beside it, and a file that no graph reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnx import ModelProto

from modelkit.bundle import Bundle, read_bundle
from modelkit.embed import parse_model
from tests.fakes.models import tiny_contract, tiny_model

DATA_NAME = "model.onnx.data"
Edit = Callable[[ModelProto], None]


def parted(data: bytes, location: str = DATA_NAME, edit: Edit = lambda _model: None) -> tuple[bytes, bytes]:
    """The same model with its tensors outside: the graph's bytes, and those of the file at `location`."""
    model, outside = parse_model(data), bytearray()
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        for key, value in (("location", location), ("offset", len(outside)), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(value))
        outside += raw
    edit(model)
    return model.SerializeToString(deterministic=True), bytes(outside)


def write_bundle(
    folder: Path,
    name: str = "b1",
    seed: int = 3,
    *,
    graph: str = "model.onnx",
    location: str = DATA_NAME,
    edit: Edit = lambda _model: None,
) -> Bundle:
    """A bundle on disk: the graph, its data beside it, and a tokenizer."""
    graph_bytes, data = parted(tiny_model(tiny_contract(name=name), seed=seed), location, edit)
    beside = (folder / graph).parent
    beside.mkdir(parents=True, exist_ok=True)
    (folder / graph).write_bytes(graph_bytes)
    (beside / DATA_NAME).write_bytes(data)
    (folder / "tokenizer.json").write_bytes(b'{"words": []}')
    return read_bundle(folder)

"""Write the contract into an ONNX file's metadata and read it back; the graph is never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundation.errors import RejectedError
from modelkit.contract import METADATA_KEY, ModelContract
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from onnx import ModelProto


def parse_model(data: bytes) -> ModelProto:
    """Return the ONNX message in `data`. Opens no other file, whatever the message refers to.

    Raises:
        RejectedError: reason `not_onnx`; the bytes are not one ONNX model with a graph.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise RejectedError(
            f"{len(data)} bytes are not an ONNX model: {error}", reason=RefuseReason.NOT_ONNX
        ) from error
    if model.ir_version <= 0 or not model.HasField("graph") or not model.graph.node:
        raise RejectedError(f"{len(data)} bytes hold no ONNX graph with nodes", reason=RefuseReason.NOT_ONNX)
    return model


def contract_of(model: ModelProto) -> ModelContract:
    """Return the contract in a parsed model's metadata.

    Raises:
        RejectedError: reason `no_contract` (none), or `bad_contract` (several, or one that cannot be read).
    """
    found = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if not found:
        raise RejectedError(f"the model's metadata has no {METADATA_KEY!r}", reason=RefuseReason.NO_CONTRACT)
    if len(found) > 1:
        raise RejectedError(
            f"the model's metadata has {len(found)} contracts, not one", reason=RefuseReason.BAD_CONTRACT
        )
    return ModelContract.from_json(found[0])


def embed_contract(model_bytes: bytes, contract: ModelContract) -> bytes:
    """Return the same model with `contract` as its only contract; equal inputs give equal bytes."""
    model = parse_model(model_bytes)
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    for key, value in sorted([*kept, (METADATA_KEY, contract.to_json())]):
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString(deterministic=True))


def read_contract(model_bytes: bytes) -> ModelContract:
    """Return the contract inside a model's bytes. Whether it may be run is for `verify_model` to say."""
    return contract_of(parse_model(model_bytes))

"""The tiny network of `tests.fakes.models` as an artefact of each runtime: same weights, so the same answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from modelkit.bundle import CONTRACT_FILE, read_bundle
from modelkit.contract import ModelContract
from modelkit.specs import InputSpec
from modelkit.verify import VerifiedModel, verify_model
from tests.fakes.models import tiny_contract, tiny_model, tiny_proto
from tests.fakes.tflite import tiny_tflite

Make = Callable[[ModelContract, Path], VerifiedModel]
MODULES = {"openvino": "openvino", "litert": "ai_edge_litert", "executorch": "executorch"}
"""Runtime -> the module that must be there to test it."""


def contract_of(runtime: str, name: str = "tiny") -> ModelContract:
    """The contract of the tiny network in this runtime; all runtimes have the same classes and weights."""
    contract = tiny_contract(name=name)
    if runtime == "openvino":
        return dataclasses.replace(contract, allowed_providers=("openvino-cpu",))
    if runtime == "litert":
        spec = InputSpec(layout="NHWC", batch=1)
        return dataclasses.replace(contract, input=spec, allowed_providers=("litert-cpu",))
    return contract


def artefact_of(
    runtime: str, folder: Path, contract: ModelContract | None = None, seed: int = 0
) -> VerifiedModel:
    """The verified tiny network for a runtime, its files in `folder`."""
    chosen = contract or contract_of(runtime)
    if runtime in ("fake", "onnx"):
        return verify_model(tiny_model(chosen, seed), None)
    write_artefact(runtime, folder, chosen, seed)
    return read_bundle(folder).verified()


def write_artefact(runtime: str, folder: Path, contract: ModelContract, seed: int = 0) -> None:
    """Write the bundle's files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONTRACT_FILE).write_text(contract.to_json(), "utf-8")
    if runtime == "openvino":
        write_openvino(folder, tiny_proto(contract, seed).SerializeToString())
    else:
        (folder / "model.tflite").write_bytes(tiny_tflite(contract, seed))


def write_openvino(folder: Path, onnx_bytes: bytes) -> None:
    """Convert an ONNX graph to `model.xml` and `model.bin`, in float32."""
    import io

    import openvino

    network = openvino.Core().read_model(io.BytesIO(onnx_bytes))
    openvino.save_model(network, folder / "model.xml", compress_to_fp16=False)


def skip_without(runtime: str) -> None:
    """Skip by name where the runtime is not installed (make runtimes)."""
    module = MODULES.get(runtime)
    if module is not None and find_spec(module) is None:
        pytest.skip(f"{runtime} is not installed (make runtimes)")

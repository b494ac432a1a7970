"""The LiteRT backend: loads TFLite models from verified bytes; on the CPU by XNNPACK, on an NPU or a GPU only as a whole.

An NPU that is asked for together with the CPU gives a model that calls itself fully accelerated and runs on the CPU, without
an error (LiteRT 2.3 on a PC). So an accelerator is asked for alone, and a model that it cannot run as a whole is loaded again
for the CPU, which is a fall-back like any other.

A tensor of 8-bit integers with a scale is converted from and to float32 where the contract says float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.contract import ModelContract
from modelkit.devices import check_batch, check_ports, choose_devices, is_fallen_back
from modelkit.placement import LITERT_CPU, refuse_fallback
from modelkit.runtime import NodePlacement, RuntimeOptions
from modelkit.tasks.task import Raw
from modelkit.verify import VerifiedModel
from modelkit.versions import Requirement
from schemas.reasons import RefuseReason

REQUIREMENT: Final = Requirement("ai-edge-litert", "2.3", "2.4", "litert")
ACCELERATORS: Final[Mapping[str, str]] = MappingProxyType({"litert-npu": "NPU", "litert-gpu": "GPU"})
_DELEGATE: Final = "DELEGATE"
_ERRORS: Final = (RuntimeError, ValueError, TypeError, OSError)
_Run = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]


class LiteRtBackend:
    """Imports ai_edge_litert when the first model is loaded."""

    def load(self, model: VerifiedModel, options: RuntimeOptions) -> LiteRtModel:
        """See `Backend.load`."""
        if not isinstance(model, VerifiedModel):
            raise MisconfiguredError(f"a backend loads a VerifiedModel, not {type(model).__name__}")
        REQUIREMENT.installed()
        contract = model.contract
        asked, _ = choose_devices(contract, options, [*ACCELERATORS, LITERT_CPU], LITERT_CPU)
        engines: dict[str, _Run] = {}
        refusal = ""
        try:
            plain = _Interpreted(model, options.threads)  # says what the model is, whatever runs it
            if asked[0] in ACCELERATORS:
                try:
                    engines[asked[0]] = Compiled(model.data, ACCELERATORS[asked[0]]).run
                except _ERRORS as error:
                    refusal = _brief(error)
        except _ERRORS as error:
            message = f"model {model.digest[:12]} cannot be loaded by LiteRT: {_brief(error)}"
            raise RejectedError(message, reason=RefuseReason.LOAD_FAILED) from error
        check_ports(contract, plain.inputs, plain.outputs)
        if not engines and asked[0] != LITERT_CPU and LITERT_CPU not in asked:
            raise RejectedError(
                f"{asked[0]} does not run the model as a whole ({refusal}), and the contract refuses a fall-back to the CPU",
                reason=RefuseReason.CPU_FALLBACK,
            )
        provider = next(iter(engines), LITERT_CPU)
        run = engines.get(provider, plain.run)
        wanted = (options.providers or contract.allowed_providers)[0]
        placement = tuple(NodePlacement(str(place), op, provider) for place, op in enumerate(plain.operators))
        loaded = LiteRtModel(model, provider, run, placement, is_missing=provider != wanted)
        if contract.cpu_fallback == "refuse" and loaded.is_fallen_back and not options.off_vehicle:
            raise refuse_fallback(contract, placement)
        return loaded


class LiteRtModel:
    """A model ready to run. For one thread; close by letting it go."""

    def __init__(
        self,
        model: VerifiedModel,
        provider: str,
        run: _Run,
        placement: tuple[NodePlacement, ...],
        *,
        is_missing: bool,
    ) -> None:
        self.contract: ModelContract = model.contract
        self.digest: str = model.digest
        self.provider: str = provider
        self._run = run
        self._placement = placement
        self.is_fallen_back: bool = is_fallen_back(
            model.contract, self.provider, placement, is_missing=is_missing
        )

    def placement(self) -> tuple[NodePlacement, ...]:
        """See `LoadedModel.placement`."""
        return self._placement

    def work(self) -> Mapping[str, float]:
        """See `LoadedModel.work`: the whole model runs on one device."""
        return {self.provider: 1.0}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Raw:
        """See `LoadedModel.run`."""
        check_batch(self.contract, inputs)
        try:
            found = self._run(inputs)
        except _ERRORS as error:
            raise RejectedError(
                f"model {self.digest[:12]} failed: {_brief(error)}", reason=RefuseReason.RUN_FAILED
            ) from error
        return {role: found[name] for role, name in self.contract.outputs.items()}


class _Interpreted:
    """The model in LiteRT's interpreter, on the CPU."""

    def __init__(self, model: VerifiedModel, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=model.data, num_threads=threads)
        names = _signature_names(self._interpreter)
        self.operators = [
            op["op_name"] for op in self._interpreter._get_ops_details() if op["op_name"] != _DELEGATE
        ]
        spec = model.contract.input
        self._free = not spec.batch
        self._in = {names.get(d["name"], d["name"]): d for d in self._interpreter.get_input_details()}
        self._out = {names.get(d["name"], d["name"]): d for d in self._interpreter.get_output_details()}
        self.inputs = [
            (name, _seen_type(d, spec.dtype), tuple(map(int, d["shape_signature"])))
            for name, d in self._in.items()
        ]
        self.outputs = list(self._out)
        self._rows = 0

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        rows = len(next(iter(inputs.values())))
        if rows != self._rows:
            if self._free:
                for name, details in self._in.items():
                    self._interpreter.resize_tensor_input(details["index"], inputs[name].shape)
            self._interpreter.allocate_tensors()
            self._rows = rows
        for name, details in self._in.items():
            self._interpreter.set_tensor(details["index"], _quantised(inputs[name], details))
        self._interpreter.invoke()
        return {
            name: _dequantised(self._interpreter.get_tensor(d["index"]), d) for name, d in self._out.items()
        }


class Compiled:
    """The model compiled for one accelerator as a whole.

    Raises RuntimeError (the constructor): the accelerator does not run all of it, or is not there.
    """

    def __init__(self, data: bytes, accelerator: str) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator

        self._data = data  # the library reads it in place
        self._model = CompiledModel.from_buffer(data, getattr(HardwareAccelerator, accelerator))
        if not self._model.is_fully_accelerated():
            raise RuntimeError(f"a part of it does not run on {accelerator}")
        signatures = self._model.get_signature_list()
        if not signatures:
            raise RuntimeError("it has no signature, which says what its inputs are called")
        signature, ports = next(iter(signatures.items()))
        place = self._model.get_signature_index(signature)
        self._place = max(place, 0)
        self._names = tuple(ports["inputs"]), tuple(ports["outputs"])
        self._inputs = self._model.create_input_buffers(self._place)
        self._outputs = self._model.create_output_buffers(self._place)
        shapes = self._model.get_output_tensor_details(signature)
        self._shapes = {name: tuple(shapes[name]["shape"]) for name in self._names[1]}
        self._types = {name: np.dtype(shapes[name]["dtype"]) for name in self._names[1]}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run it on its inputs by name; of a fixed batch only."""
        for name, buffer in zip(self._names[0], self._inputs, strict=True):
            buffer.write(np.ascontiguousarray(inputs[name]))
        self._model.run_by_index(self._place, self._inputs, self._outputs)
        found = {}
        for name, buffer in zip(self._names[1], self._outputs, strict=True):
            shape = self._shapes[name]
            found[name] = np.asarray(buffer.read(int(np.prod(shape)), self._types[name])).reshape(shape)
        return found


def _signature_names(interpreter: Any) -> dict[str, str]:
    """Return the names of the first signature by the names of their tensors; where there is none, tensors have their own."""
    signatures = interpreter.get_signature_list()
    if not signatures:
        return {}
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    pairs = (*runner.get_input_details().items(), *runner.get_output_details().items())
    return {details["name"]: name for name, details in pairs}


def _seen_type(details: Mapping[str, Any], said: str) -> str:
    """Return the element type that a caller sees: float32 for a quantised tensor of which the contract says so."""
    found = np.dtype(details["dtype"]).name
    return "float32" if said == "float32" and _scale(details) else found


def _scale(details: Mapping[str, Any]) -> float:
    scale, _ = details["quantization"]
    return float(scale) if np.dtype(details["dtype"]).kind in "iu" else 0.0


def _quantised(values: NDArray[Any], details: Mapping[str, Any]) -> NDArray[Any]:
    scale, dtype = _scale(details), np.dtype(details["dtype"])
    if not scale or values.dtype == dtype:
        return values
    limits = np.iinfo(dtype)
    found: NDArray[Any] = np.rint(values / scale) + details["quantization"][1]
    return found.clip(limits.min, limits.max).astype(dtype)


def _dequantised(values: NDArray[Any], details: Mapping[str, Any]) -> NDArray[Any]:
    scale = _scale(details)
    if not scale:
        return values
    found: NDArray[Any] = values.astype(np.float32)
    found -= np.float32(details["quantization"][1])
    found *= np.float32(scale)
    return found


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:400]

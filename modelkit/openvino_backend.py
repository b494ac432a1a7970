"""The OpenVINO backend, by OpenVINO's own package: loads IR from verified bytes, and reports the device of each node.

Devices are asked for one by one: the choosing devices AUTO, MULTI and HETERO give a CPU where an NPU was named, without an
error. On the CPU the model computes in the precision of its weights and activations (f32 hint), as its parity was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.contract import ModelContract
from modelkit.devices import check_batch, check_ports, choose_devices, is_fallen_back
from modelkit.placement import OPENVINO_CPU, refuse_fallback
from modelkit.runtime import NodePlacement, RuntimeOptions
from modelkit.tasks.task import Raw, wrong_io
from modelkit.verify import VerifiedModel
from modelkit.versions import Requirement
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    import openvino as ov

REQUIREMENT: Final = Requirement("openvino", "2026.4", "2026.5", "openvino")
DEVICES: Final[Mapping[str, str]] = {OPENVINO_CPU: "CPU", "openvino-gpu": "GPU", "openvino-npu": "NPU"}
_NO_WORK: Final = frozenset({"Parameter", "Result", "Const", "Constant", "Input", "Output"})


class OpenVinoBackend:
    """Imports openvino when the first model is loaded."""

    def load(self, model: VerifiedModel, options: RuntimeOptions) -> OpenVinoModel:
        """See `Backend.load`."""
        if not isinstance(model, VerifiedModel):
            raise MisconfiguredError(f"a backend loads a VerifiedModel, not {type(model).__name__}")
        REQUIREMENT.installed()
        import openvino

        core = openvino.Core()
        present = {device.partition(".")[0] for device in core.available_devices}
        available = [name for name, device in DEVICES.items() if device in present]
        chosen, is_missing = choose_devices(model.contract, options, available, OPENVINO_CPU)
        try:
            network = core.read_model(model.data, _weights(model, openvino))
            check_ports(model.contract, [_port(one) for one in network.inputs], _names(network.outputs))
            compiled = core.compile_model(network, DEVICES[chosen[0]], _settings(options, chosen[0]))
            loaded = OpenVinoModel(model, compiled, chosen[0], is_missing=is_missing)
        except (RuntimeError, ValueError, TypeError) as error:
            message = f"model {model.digest[:12]} cannot be loaded by OpenVINO: {_last(error)}"
            raise RejectedError(message, reason=RefuseReason.LOAD_FAILED) from error
        if model.contract.cpu_fallback == "refuse" and loaded.is_fallen_back and not options.off_vehicle:
            raise refuse_fallback(model.contract, loaded.placement())
        return loaded


class OpenVinoModel:
    """A compiled model with one inference request. For one thread; close by letting it go."""

    def __init__(
        self, model: VerifiedModel, compiled: ov.CompiledModel, provider: str, *, is_missing: bool
    ) -> None:
        self.contract: ModelContract = model.contract
        self.digest: str = model.digest
        self.provider: str = provider
        self._request = compiled.create_infer_request()
        self._outputs = {
            role: next(
                place
                for place, port in enumerate(compiled.outputs)
                if name in (port.get_names() or {port.any_name})
            )
            for role, name in model.contract.outputs.items()
        }
        self._placement = _placement(compiled)
        self.is_fallen_back: bool = is_fallen_back(
            model.contract, provider, self._placement, is_missing=is_missing
        )

    def placement(self) -> tuple[NodePlacement, ...]:
        """See `LoadedModel.placement`."""
        return self._placement

    def work(self) -> Mapping[str, float]:
        """See `LoadedModel.work`: one device was asked for and runs all."""
        return dict.fromkeys({node.provider for node in self._placement}, 1.0)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Raw:
        """See `LoadedModel.run`."""
        check_batch(self.contract, inputs)
        try:
            self._request.infer(dict(inputs), share_inputs=True)
            return {
                role: np.array(self._request.get_output_tensor(place).data)
                for role, place in self._outputs.items()
            }
        except (RuntimeError, ValueError, TypeError) as error:
            raise RejectedError(
                f"model {self.digest[:12]} failed: {_last(error)}", reason=RefuseReason.RUN_FAILED
            ) from error


def _weights(model: VerifiedModel, openvino: Any) -> ov.Tensor:
    from modelkit.bundle import open_own_file

    if model.folder is None:
        raise wrong_io("an OpenVINO model without the folder of its weights")
    with open_own_file(model.folder / model.weights, model.weights) as stream:
        return openvino.Tensor(np.frombuffer(stream.read(), np.uint8).copy())


def _settings(options: RuntimeOptions, provider: str) -> dict[str, Any]:
    if provider != OPENVINO_CPU:
        return dict(options.provider_options.get(provider, {}))
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": options.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
        **options.provider_options.get(provider, {}),
    }


def _port(port: Any) -> tuple[str, str, tuple[int, ...]]:
    shape = tuple(-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return port.any_name, np.dtype(port.get_element_type().to_dtype()).name, shape


def _names(ports: Any) -> list[str]:
    return [name for port in ports for name in port.get_names()]


def _placement(compiled: ov.CompiledModel) -> tuple[NodePlacement, ...]:
    """Return the nodes of the compiled graph; all run on the device that the runtime says that it executes on."""
    used = {str(name).strip("()").partition(".")[0] for name in compiled.get_property("EXECUTION_DEVICES")}
    names = {device: name for name, device in DEVICES.items()}
    if len(used) != 1 or not used <= set(names):
        raise ValueError(f"OpenVINO executes on {sorted(used)}, one of {sorted(names)} was asked for")
    provider = names[used.pop()]
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        kind = facts["layerType"].astype(str) if "layerType" in facts else node.get_type_name()
        if kind not in _NO_WORK:
            found.append(NodePlacement(node.get_friendly_name(), kind, provider))
    return tuple(found)


def _last(error: Exception) -> str:
    """Return OpenVINO's own words without the places in its source."""
    lines = [
        line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")
    ]
    return " ".join(lines or [str(error)])[:500]

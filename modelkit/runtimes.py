"""Create runtimes: vehicle, trial, evaluation and parity all open models here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from foundation.errors import MisconfiguredError
from modelkit.litert_backend import LiteRtBackend
from modelkit.onnx_backend import OnnxRuntimeBackend
from modelkit.openvino_backend import OpenVinoBackend
from modelkit.predictor import Predictor
from modelkit.runtime import Backend, LoadedModel, RuntimeOptions
from modelkit.verify import VerifiedModel
from schemas.bundle import GRAPH, OPENVINO, TFLITE

RUNTIMES: Final[Mapping[str, Callable[[], Backend]]] = MappingProxyType(
    {
        GRAPH: OnnxRuntimeBackend,
        OPENVINO: OpenVinoBackend,
        TFLITE: LiteRtBackend,
    }
)
"""Kind of graph -> the backend that loads it, which imports its library at its first model."""


class AnyRuntime:
    """Loads each model in the runtime of its kind."""

    def __init__(self) -> None:
        self._open: dict[str, Backend] = {}

    def load(self, model: VerifiedModel, options: RuntimeOptions) -> LoadedModel:
        """See `Backend.load`."""
        if not isinstance(model, VerifiedModel):
            raise MisconfiguredError(f"a backend loads a VerifiedModel, not {type(model).__name__}")
        if model.kind not in RUNTIMES:
            raise MisconfiguredError(
                f"no runtime loads graphs of kind {model.kind!r}; there are {sorted(RUNTIMES)}"
            )
        if model.kind not in self._open:
            self._open[model.kind] = RUNTIMES[model.kind]()
        return self._open[model.kind].load(model, options)


def open_runtime() -> Backend:
    """Return what loads every model, in the runtime of its kind."""
    return AnyRuntime()


def open_predictor(model: VerifiedModel, options: RuntimeOptions | None = None) -> Predictor:
    """Return the model ready to predict, in the runtime of its kind. Raises as `Backend.load`."""
    return Predictor(open_runtime().load(model, options or RuntimeOptions()), model.contract)

"""Create runtimes: vehicle, trial, evaluation and parity all open models here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from foundation.errors import MisconfiguredError
from modelkit.onnx_backend import OnnxRuntimeBackend
from modelkit.predictor import Predictor
from modelkit.runtime import Backend, RuntimeOptions
from modelkit.verify import VerifiedModel

ONNX: Final = "onnx"
RUNTIMES: Final[Mapping[str, Callable[[], Backend]]] = MappingProxyType({ONNX: OnnxRuntimeBackend})
"""Kind of artefact -> the backend that loads it."""


def open_runtime(kind: str = ONNX) -> Backend:
    """Return the runtime for artefacts of this kind.

    Raises:
        MisconfiguredError: no runtime loads this kind.
    """
    if kind not in RUNTIMES:
        raise MisconfiguredError(f"no runtime loads artefacts of kind {kind!r}; there are {sorted(RUNTIMES)}")
    return RUNTIMES[kind]()


def open_predictor(model: VerifiedModel, options: RuntimeOptions | None = None) -> Predictor:
    """Return the model ready to predict, in the runtime of its kind. Raises as `Backend.load`."""
    return Predictor(open_runtime().load(model, options or RuntimeOptions()), model.contract)

"""Load a verified model as a predictor that has run once, or refuse it with a reason; report which node runs where.

The vehicle's own list of providers only narrows what the model's contract allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edge_agent.models.settings import ServingSettings
from foundation.errors import RejectedError
from modelkit.contract import ModelContract
from modelkit.images import Pixels
from modelkit.predictor import Prediction, Predictor
from modelkit.qnn import QNN
from modelkit.runtime import Backend, LoadedModel, RuntimeOptions
from modelkit.verify import VerifiedModel
from schemas.reasons import RefuseReason

_GREY_PIXELS = 64
OnStep = Callable[[str], None]


def wanted_providers(wish: tuple[str, ...], contract: ModelContract) -> tuple[str, ...]:
    """Return the vehicle's providers that the contract allows, in the vehicle's order; without a list the contract's.

    Raises:
        RejectedError: reason `no_allowed_provider`; the contract allows none of them.
    """
    wanted = tuple(name for name in wish or contract.allowed_providers if name in contract.allowed_providers)
    if not wanted:
        raise RejectedError(
            f"this vehicle runs models on {list(wish)} (serving.model.providers), the contract of "
            f"{contract.name} allows only {list(contract.allowed_providers)}",
            reason=RefuseReason.NO_ALLOWED_PROVIDER,
        )
    return wanted


def npu_options(htp_arch: int) -> dict[str, dict[str, str]]:
    """Return the options of the Hexagon NPU's provider; an architecture of 0 names none."""
    return {QNN: {"htp_arch": str(htp_arch)}} if htp_arch else {}


def predictor_of(loaded: LoadedModel, wish: tuple[str, ...], cpu_fallback: str) -> Predictor:
    """Return the predictor, which knows what this vehicle (or the contract) preferred and where the model runs.

    Raises:
        RejectedError: reason `cpu_fallback`; the model fell back, and this vehicle's `cpu_fallback` is "refuse".
    """
    predictor = Predictor(loaded, loaded.contract, wanted=wish or loaded.contract.allowed_providers)
    if predictor.placement.is_fallen_back and cpu_fallback == "refuse":
        raise RejectedError(
            f"{predictor.placement.wanted[0]} was wanted first, found are {predictor.placement}; this vehicle refuses a "
            "fall-back to the CPU (serving.model.cpu_fallback)",
            reason=RefuseReason.CPU_FALLBACK,
        )
    return predictor


def ask(predictor: Predictor, images: Sequence[Pixels]) -> list[Prediction]:
    """Return the predictions of a model. Any other error counts as an error of the model, and never ends the process.

    Raises:
        RejectedError: the model failed; reason `model_error` for what no runtime or task foresaw.
    """
    try:
        return predictor.predict(images)
    except RejectedError:
        raise
    except Exception as error:
        raise RejectedError(f"{type(error).__name__}: {error}", reason=RefuseReason.MODEL_ERROR) from error


class ModelLoader:
    """Loads a model and runs it once on a grey picture."""

    def __init__(self, backend: Backend, settings: ServingSettings) -> None:
        self._backend = backend
        self._settings = settings

    def load(self, verified: VerifiedModel) -> Predictor:
        """Return a predictor that can serve.

        Raises:
            RejectedError: not loadable, not allowed to run where it would, or it fails on
                grey.
            MisconfiguredError: the runtime library is missing.
        """
        providers = wanted_providers(self._settings.providers, verified.contract)
        npu = npu_options(self._settings.htp_arch)
        options = RuntimeOptions(threads=self._settings.threads, providers=providers, provider_options=npu)
        loaded = self._backend.load(verified, options)
        predictor = predictor_of(loaded, self._settings.providers, self._settings.cpu_fallback)
        ask(predictor, [np.full((_GREY_PIXELS, _GREY_PIXELS, 3), 128, dtype=np.uint8)])
        return predictor

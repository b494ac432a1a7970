"""The ONNX Runtime backend: loads a graph from verified bytes, never from a path, and reports where each node runs.

Tensors outside the graph are read by the runtime from the folder of the bundle, whose files were verified.

Requesting a provider that cannot run the graph yields a session on the CPU without an error. So the session records
which provider runs which node, and by that record a model is refused whose contract forbids the fall-back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.contract import ModelContract
from modelkit.placement import CPU, refuse_fallback, share_of_work
from modelkit.runtime import NodePlacement, RuntimeOptions
from modelkit.tasks.task import Raw, wrong_io
from modelkit.verify import VerifiedModel, shape_of
from modelkit.work import graph_work
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    import onnxruntime as ort

_FATAL_ONLY: Final = 4


class OnnxRuntimeBackend:
    """The default backend. Imports onnxruntime when the first model is loaded."""

    def load(self, model: VerifiedModel, options: RuntimeOptions) -> OnnxRuntimeModel:
        """See `Backend.load`."""
        if not isinstance(model, VerifiedModel):
            raise MisconfiguredError(f"a backend loads a VerifiedModel, not {type(model).__name__}")
        try:
            import onnxruntime
        except ImportError as error:
            raise MisconfiguredError(
                f"onnxruntime cannot be imported: {error}; install fleetloop[agent]"
            ) from error
        providers, is_missing = _choose(model.contract, options, onnxruntime.get_available_providers())
        try:
            session = onnxruntime.InferenceSession(
                model.data,
                _session_options(options, model.folder),
                providers=providers,
                provider_options=[dict(options.provider_options.get(name, {})) for name in providers],
            )
            session.disable_fallback()
            placement = _placement(session)
        except _errors() as error:
            message = f"model {model.digest[:12]} cannot be loaded: {str(error)[:500]}"
            raise RejectedError(message, reason=RefuseReason.LOAD_FAILED) from error
        loaded = OnnxRuntimeModel(model, session, providers[0], placement, is_provider_missing=is_missing)
        if model.contract.cpu_fallback == "refuse" and loaded.is_fallen_back and not options.off_vehicle:
            raise refuse_fallback(model.contract, placement)
        return loaded


class OnnxRuntimeModel:
    """A session on one model. Safe to call from several threads; close by letting it go."""

    def __init__(
        self,
        model: VerifiedModel,
        session: ort.InferenceSession,
        provider: str,
        placement: tuple[NodePlacement, ...],
        *,
        is_provider_missing: bool,
    ) -> None:
        self.contract: ModelContract = model.contract
        self.digest: str = model.digest
        self.provider: str = provider
        self._session = session
        self._placement = placement
        is_mixed = len({node.provider for node in placement}) > 1
        self._work = share_of_work(placement, graph_work(model.data, model.contract) if is_mixed else ())
        self._is_provider_missing = is_provider_missing

    @property
    def is_fallen_back(self) -> bool:
        """See `LoadedModel.is_fallen_back`; also true when the preferred provider is not installed."""
        is_cpu_fine = self.contract.allowed_providers[0] == CPU or self.contract.cpu_fallback == "allow"
        if self.provider == CPU and is_cpu_fine and not self._is_provider_missing:
            return False  # the CPU was asked for first
        return self._is_provider_missing or any(node.provider == CPU for node in self._placement)

    def placement(self) -> tuple[NodePlacement, ...]:
        """See `LoadedModel.placement`."""
        return self._placement

    def work(self) -> Mapping[str, float]:
        """See `LoadedModel.work`."""
        return self._work

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Raw:
        """See `LoadedModel.run`."""
        self._check(inputs)
        try:
            found = self._session.run(list(self.contract.outputs.values()), dict(inputs))
        except _errors() as error:
            raise RejectedError(
                f"model {self.digest[:12]} failed: {str(error)[:500]}", reason=RefuseReason.RUN_FAILED
            ) from error
        return dict(zip(self.contract.outputs, found, strict=True))

    def _check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        spec = self.contract.input
        batch = inputs.get(spec.name)
        if batch is None or batch.dtype != spec.dtype or batch.ndim != 4 or batch.shape[0] < 1:
            found = "no batch" if batch is None else f"batch of {batch.dtype} {batch.shape}"
            raise wrong_io(f"{found}, not {spec.dtype} {spec.layout}")
        if batch.shape[1:] != shape_of(spec):
            raise wrong_io(f"batch of rows {batch.shape[1:]}, the contract says {shape_of(spec)}")


def _choose(contract: ModelContract, options: RuntimeOptions, available: list[str]) -> tuple[list[str], bool]:
    """Return providers to ask for, best first, and whether one of higher preference is missing."""
    wanted = options.providers or contract.allowed_providers
    foreign = [name for name in wanted if name not in contract.allowed_providers]
    if foreign:
        raise MisconfiguredError(
            f"providers {foreign} are not in the contract's {contract.allowed_providers}"
        )
    chosen = [name for name in wanted if name in available]
    is_missing = not chosen or chosen[0] != wanted[0]
    is_cpu_allowed = contract.cpu_fallback == "allow" or options.off_vehicle
    if not chosen and not is_cpu_allowed:
        raise RejectedError(
            f"none of the providers {list(wanted)} is installed, only {available}, and the contract refuses a "
            "fall-back to the CPU",
            reason=RefuseReason.CPU_FALLBACK,
        )
    if CPU not in chosen and is_cpu_allowed:
        chosen.append(CPU)
    return chosen, is_missing


def _session_options(options: RuntimeOptions, folder: Path | None) -> ort.SessionOptions:
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _FATAL_ONLY
    settings.graph_optimization_level = {
        "none": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[options.graph_optimisation]
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if options.allow_spinning else "0"
    )
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if folder is not None:
        settings.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder.resolve())
        )
    # Bytes that are at once ONNX and the runtime's own format must be read as what was verified.
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    return settings


def _placement(session: ort.InferenceSession) -> tuple[NodePlacement, ...]:
    return tuple(
        NodePlacement(node.name, node.op_type, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


def _errors() -> tuple[type[Exception], ...]:
    """Return every error that the runtime raises; they share no root of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail EngineError Fail InvalidArgument InvalidGraph InvalidProtobuf ModelLoaded NoModel NoSuchFile "
        "NotImplemented RuntimeException"
    )
    return (*(getattr(state, name) for name in names.split()), RuntimeError, ValueError)

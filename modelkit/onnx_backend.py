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
from modelkit import qnn
from modelkit.contract import ModelContract
from modelkit.devices import check_batch, choose_devices, is_fallen_back
from modelkit.onnx_errors import runtime_errors
from modelkit.placement import CPU, refuse_fallback, share_of_work
from modelkit.runtime import NodePlacement, RuntimeOptions
from modelkit.tasks.task import Raw
from modelkit.verify import VerifiedModel
from modelkit.versions import Requirement
from modelkit.work import graph_work
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    import onnxruntime as ort

REQUIREMENT: Final = Requirement(
    "onnxruntime", "1.31", "1.32", "agent", ("onnxruntime-gpu", "onnxruntime-openvino")
)
_FATAL_ONLY: Final = 4


class OnnxRuntimeBackend:
    """The default backend. Imports onnxruntime when the first model is loaded."""

    def load(self, model: VerifiedModel, options: RuntimeOptions) -> OnnxRuntimeModel:
        """See `Backend.load`."""
        if not isinstance(model, VerifiedModel):
            raise MisconfiguredError(f"a backend loads a VerifiedModel, not {type(model).__name__}")
        REQUIREMENT.installed()
        import onnxruntime

        available = [name for name in onnxruntime.get_available_providers() if name != qnn.QNN]
        npu = options.provider_options.get(qnn.QNN, {})
        if qnn.QNN in (options.providers or model.contract.allowed_providers) and qnn.is_here(npu):
            available.append(qnn.QNN)
        providers, is_missing = choose_devices(model.contract, options, available, CPU)
        settings = _session_options(options, model.folder)
        given: dict[str, Any] = {
            "providers": providers,
            "provider_options": [dict(options.provider_options.get(name, {})) for name in providers],
        }
        if providers[0] == qnn.QNN:
            qnn.check_context(model, npu)
            qnn.add_to(settings, npu)
            given = {}  # a list of providers would take the plug-in's place, without an error
        try:
            session = onnxruntime.InferenceSession(model.data, settings, **given)
            session.disable_fallback()
            placement = _placement(session)
        except runtime_errors() as error:
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
        return is_fallen_back(
            self.contract, self.provider, self._placement, is_missing=self._is_provider_missing
        )

    def placement(self) -> tuple[NodePlacement, ...]:
        """See `LoadedModel.placement`."""
        return self._placement

    def work(self) -> Mapping[str, float]:
        """See `LoadedModel.work`."""
        return self._work

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Raw:
        """See `LoadedModel.run`."""
        check_batch(self.contract, inputs)
        try:
            found = self._session.run(list(self.contract.outputs.values()), dict(inputs))
        except runtime_errors() as error:
            raise RejectedError(
                f"model {self.digest[:12]} failed: {str(error)[:500]}", reason=RefuseReason.RUN_FAILED
            ) from error
        return dict(zip(self.contract.outputs, found, strict=True))


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

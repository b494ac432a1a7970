"""Public fakes: a tiny real ONNX model and a backend that answers by a rule or fails on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foundation.errors import FleetLoopError
from modelkit.contract import ModelContract
from modelkit.digest import digest_of_json
from modelkit.embed import embed_contract
from modelkit.placement import CPU, refuse_fallback, share_of_work
from modelkit.runtime import NodePlacement, RuntimeOptions
from modelkit.tasks.task import Raw
from modelkit.verify import VerifiedModel

if TYPE_CHECKING:
    from onnx import ModelProto

Rule = Callable[[NDArray[np.float32]], Raw]


def raw_outputs(logits: NDArray[np.float32], embedding: NDArray[np.float32]) -> Raw:
    """What a classifier returns, by role."""
    return {"logits": logits, "embedding": embedding}


def tiny_contract(
    classes: Sequence[str] = ("red", "yellow", "green"), *, name: str = "tiny", embedding_size: int = 8
) -> ModelContract:
    """A valid contract for a tiny model: all classes trained, on no drive at all."""
    return ModelContract(
        name=name,
        classes=tuple(classes),
        trained_classes=tuple(classes),
        embedding_size=embedding_size,
        training_drives_digest=digest_of_json([]),
        created_by="tests",
    )


def tiny_proto(contract: ModelContract, seed: int = 0) -> ModelProto:
    """A real ONNX graph that fits `contract`, without the contract inside: pooling and two matrix products.

    Its weights are random but fixed by `seed`: equal arguments give equal bytes.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    spec, out = contract.input, contract.outputs
    kernel = (max(spec.height // 4, 1), max(spec.width // 4, 1))
    rows, columns = spec.height // kernel[0], spec.width // kernel[1]
    flat = spec.channels * rows * columns
    to_embedding = rng.normal(size=(flat, contract.embedding_size)) / np.sqrt(flat)
    to_logits = 3.0 * rng.normal(size=(contract.embedding_size, len(contract.classes)))
    weights = {"to_embedding": to_embedding, "to_logits": to_logits}
    image = [None, spec.channels, spec.height, spec.width]
    graph = helper.make_graph(
        [
            helper.make_node(
                "AveragePool", [spec.name], ["pooled"], name="pool", kernel_shape=kernel, strides=kernel
            ),
            helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten", axis=1),
            helper.make_node("MatMul", ["flat", "to_embedding"], [out["embedding"]], name="embed"),
            helper.make_node("MatMul", [out["embedding"], "to_logits"], [out["logits"]], name="classify"),
        ],
        "tiny",
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, image)],
        [
            helper.make_tensor_value_info(out["logits"], TensorProto.FLOAT, [None, len(contract.classes)]),
            helper.make_tensor_value_info(
                out["embedding"], TensorProto.FLOAT, [None, contract.embedding_size]
            ),
        ],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="fleetloop")
    model.ir_version = 10
    onnx.checker.check_model(model)
    return model


def tiny_model(contract: ModelContract | None = None, seed: int = 0) -> bytes:
    """Bytes of a real, loadable model with its contract inside. It knows nothing; it is quick."""
    chosen = contract if contract is not None else tiny_contract()
    return embed_contract(tiny_proto(chosen, seed).SerializeToString(deterministic=True), chosen)


class FakeBackend:
    """Answers by `rule` (default: logits that depend on the mean of each channel). Can be told to fail.

    `runs_on` says which provider each of its nodes gets, as a machine would; a contract that forbids a
    fall-back to the CPU is obeyed as by the real backend.
    """

    def __init__(
        self,
        rule: Rule | None = None,
        *,
        load_error: FleetLoopError | None = None,
        run_error: FleetLoopError | None = None,
        runs_on: Sequence[str] = ("FakeExecutionProvider",),
    ) -> None:
        self.rule = rule
        self.load_error = load_error
        self.run_error = run_error
        self.runs_on = tuple(runs_on)
        self.loads: list[str] = []
        self.options: list[RuntimeOptions] = []

    def load(self, model: VerifiedModel, options: RuntimeOptions) -> FakeModel:
        """See `Backend.load`; raises `load_error` when it is set."""
        if self.load_error is not None:
            raise self.load_error
        self.options.append(options)
        made = FakeModel(self, model)
        if model.contract.cpu_fallback == "refuse" and made.is_fallen_back and not options.off_vehicle:
            raise refuse_fallback(model.contract, made.placement())
        self.loads.append(model.digest)
        return made


class FakeModel:
    """What `FakeBackend` loads; reads the backend's rule and error at every run."""

    def __init__(self, backend: FakeBackend, model: VerifiedModel) -> None:
        self._backend = backend
        self.contract = model.contract
        self.digest = model.digest
        self.provider = backend.runs_on[0]
        self.is_fallen_back = model.contract.allowed_providers[0] != CPU and CPU in backend.runs_on
        self._placement = tuple(
            NodePlacement(f"fake{number}", "Fake", provider)
            for number, provider in enumerate(backend.runs_on)
        )

    def placement(self) -> tuple[NodePlacement, ...]:
        """See `LoadedModel.placement`."""
        return self._placement

    def work(self) -> Mapping[str, float]:
        """See `LoadedModel.work`: each node does as much as another."""
        return share_of_work(self._placement, ())

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Raw:
        """See `LoadedModel.run`; raises `run_error` when it is set."""
        if self._backend.run_error is not None:
            raise self._backend.run_error
        batch = inputs[self.contract.input.name]
        if self._backend.rule is not None:
            return self._backend.rule(batch)
        means = batch.mean(axis=(2, 3), dtype=np.float32)
        classes, size = len(self.contract.classes), self.contract.embedding_size
        logits = (
            np.resize(means, (batch.shape[0], classes))
            if classes <= 3
            else np.tile(means, (1, classes))[:, :classes]
        )
        embedding = np.tile(means, (1, size))[:, :size]
        return raw_outputs(logits.astype(np.float32), embedding.astype(np.float32))

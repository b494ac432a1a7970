"""The backend, its placement statement, the predictor and the fault that is built on purpose."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from fleetloop.demo.bad_models import return_nan_when_dark
from foundation.errors import MisconfiguredError, RejectedError
from modelkit.contract import ModelContract
from modelkit.embed import embed_contract, read_contract
from modelkit.placement import CPU, state_placement
from modelkit.predictor import Predictor
from modelkit.prepare import preprocess
from modelkit.runtime import Backend, LoadedModel, RuntimeOptions
from modelkit.runtimes import open_runtime
from modelkit.tasks.task import Raw
from modelkit.verify import verify_model
from schemas.reasons import RefuseReason
from tests.fakes.models import FakeBackend, raw_outputs, tiny_contract, tiny_model, tiny_proto

BACKEND: Backend = open_runtime()


def load(contract: ModelContract, options: RuntimeOptions | None = None) -> LoadedModel:
    return BACKEND.load(verify_model(tiny_model(contract), None), options or RuntimeOptions())


def pictures(count: int, level: int = 128) -> list[np.ndarray]:
    rng = np.random.default_rng(level)
    low, high = max(level - 20, 0), min(level + 20, 256)
    return [rng.integers(low, high, (20 + i, 30, 3)).astype(np.uint8) for i in range(count)]


def test_the_backend_loads_nothing_but_a_verified_model() -> None:
    with pytest.raises(MisconfiguredError, match="VerifiedModel, not bytes"):
        BACKEND.load(tiny_model(), RuntimeOptions())  # type: ignore[arg-type]


def test_every_node_is_placed_on_the_cpu_and_that_is_no_fall_back() -> None:
    loaded = load(dataclasses.replace(tiny_contract(), cpu_fallback="refuse"))
    placement = loaded.placement()
    assert {node.provider for node in placement} == {CPU}
    assert "MatMul" in {node.op for node in placement} or "Gemm" in {node.op for node in placement}
    assert loaded.provider == CPU
    assert not loaded.is_fallen_back


def test_a_silent_fall_back_to_the_cpu_is_refused_when_the_contract_forbids_it() -> None:
    # This provider is in every wheel and takes no node of this graph: the session would run on the CPU
    # without a word.
    contract = dataclasses.replace(
        tiny_contract(), allowed_providers=("AzureExecutionProvider",), cpu_fallback="refuse"
    )
    with pytest.raises(RejectedError, match="nodes would run on the CPU") as caught:
        load(contract)
    assert caught.value.reason == "cpu_fallback"


def test_an_allowed_fall_back_is_flagged() -> None:
    contract = dataclasses.replace(tiny_contract(), allowed_providers=("AzureExecutionProvider", CPU))
    loaded = load(contract)
    assert loaded.is_fallen_back
    assert {node.provider for node in loaded.placement()} == {CPU}


def test_a_missing_provider_is_flagged_or_refused() -> None:
    npu = dataclasses.replace(tiny_contract(), allowed_providers=("QNNExecutionProvider", CPU))
    assert load(npu).is_fallen_back
    only = dataclasses.replace(npu, allowed_providers=("QNNExecutionProvider",), cpu_fallback="refuse")
    with pytest.raises(RejectedError, match="QNNExecutionProvider") as caught:
        load(only)
    assert caught.value.reason == RefuseReason.CPU_FALLBACK
    assert load(only, RuntimeOptions(off_vehicle=True)).is_fallen_back
    assert not load(npu, RuntimeOptions(providers=(CPU,))).is_fallen_back


@pytest.mark.parametrize("backend", [BACKEND, FakeBackend(runs_on=(CPU, CPU))])
def test_a_statement_says_which_provider_was_wanted_and_which_nodes_it_got(backend: Backend) -> None:
    npu = dataclasses.replace(tiny_contract(), allowed_providers=("QNNExecutionProvider", CPU))
    loaded = backend.load(verify_model(tiny_model(npu), None), RuntimeOptions())
    found = state_placement(loaded, npu.allowed_providers)
    assert found.wanted == ("QNNExecutionProvider", CPU)
    assert dict(found.nodes) == {CPU: len(loaded.placement())}
    assert (found.is_fallen_back, found.cpu_fallback) == (True, "allow")
    assert str(found) == f"nodes on CPUExecutionProvider {len(loaded.placement())} (fallen back)"


def test_the_fake_backend_obeys_a_contract_that_forbids_the_cpu() -> None:
    npu = dataclasses.replace(
        tiny_contract(), allowed_providers=("QNNExecutionProvider",), cpu_fallback="refuse"
    )
    model = verify_model(tiny_model(npu), None)
    on_npu = FakeBackend(runs_on=("QNNExecutionProvider",)).load(model, RuntimeOptions())
    assert not state_placement(on_npu, npu.allowed_providers).is_fallen_back
    with pytest.raises(RejectedError, match="1 of 2 nodes would run on the CPU") as caught:
        FakeBackend(runs_on=("QNNExecutionProvider", CPU)).load(model, RuntimeOptions())
    assert caught.value.reason == RefuseReason.CPU_FALLBACK


def test_options_cannot_add_a_provider_that_the_contract_does_not_name() -> None:
    with pytest.raises(MisconfiguredError, match="AzureExecutionProvider"):
        load(tiny_contract(), RuntimeOptions(providers=("AzureExecutionProvider",)))


def test_a_batch_of_another_shape_or_type_is_refused() -> None:
    loaded = load(tiny_contract())
    for batch in (
        np.zeros((1, 3, 31, 32), np.float32),
        np.zeros((1, 3, 32, 32), np.float64),
        np.zeros((0, 3, 32, 32), np.float32),
    ):
        with pytest.raises(RejectedError) as caught:
            loaded.run({"image": batch})
        assert caught.value.reason == "wrong_io"


def test_a_graph_that_the_runtime_refuses_is_rejected_with_its_words() -> None:
    contract = tiny_contract()
    model = tiny_proto(contract)
    model.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(RejectedError, match="NoSuchOperator") as caught:
        BACKEND.load(
            verify_model(embed_contract(model.SerializeToString(), contract), None), RuntimeOptions()
        )
    assert caught.value.reason == "load_failed"


def test_shapes_that_only_lie_when_run_are_refused() -> None:
    # Declared (batch, 8) for the embedding, returns (1, 8) whatever the batch: only a run shows it.
    contract = tiny_contract()
    model = tiny_proto(contract)
    from onnx import helper, numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "axis0"))
    model.graph.node[2].output[0] = "e"
    model.graph.node[3].input[0] = "e"
    model.graph.node.append(helper.make_node("ReduceMean", ["e", "axis0"], [contract.outputs["embedding"]]))
    loaded = BACKEND.load(
        verify_model(embed_contract(model.SerializeToString(), contract), None), RuntimeOptions()
    )
    with pytest.raises(RejectedError) as caught:
        Predictor(loaded, contract).predict(pictures(2))
    assert caught.value.reason == "wrong_io"


def test_predictions_do_not_depend_on_how_pictures_are_batched() -> None:
    contract = tiny_contract()
    loaded = load(contract)
    images = pictures(7)
    together = Predictor(loaded, contract).predict(images)
    alone = [Predictor(loaded, contract, max_batch=1).predict([image])[0] for image in images]
    assert [p.output.class_name for p in together] == [p.output.class_name for p in alone]
    for a, b in zip(together, alone, strict=True):
        assert np.allclose(a.output.probabilities, b.output.probabilities, atol=1e-6)
        assert abs(sum(a.output.probabilities) - 1) < 1e-9
        assert a.output.class_name == contract.classes[int(np.argmax(a.output.probabilities))]
        assert len(a.embedding) == 8 and a.is_finite
    assert Predictor(loaded, contract).predict([]) == []


def test_a_predictor_refuses_another_models_contract() -> None:
    with pytest.raises(RejectedError, match="tiny"):
        Predictor(load(tiny_contract()), tiny_contract(name="other"))


def test_a_nan_is_no_answer_and_spoils_only_its_own_picture() -> None:
    def rule(batch: np.ndarray) -> Raw:
        logits = np.zeros((len(batch), 3), np.float32)
        logits[0, 1] = np.nan
        embedding = np.ones((len(batch), 8), np.float32)
        embedding[1, 0] = np.inf
        return raw_outputs(logits, embedding)

    contract = tiny_contract()
    loaded = FakeBackend(rule).load(verify_model(tiny_model(contract), None), RuntimeOptions())
    found = Predictor(loaded, contract).predict(pictures(3))
    assert [(p.output, p.embedding, p.is_finite, dict(p.scores)) for p in found[:2]] == [
        (None, (), False, {})
    ] * 2
    assert found[2].is_finite


def test_huge_logits_do_not_overflow() -> None:
    contract = tiny_contract()
    backend = FakeBackend(
        lambda b: raw_outputs(np.full((1, 3), 3e38, np.float32), np.ones((1, 8), np.float32))
    )
    loaded = backend.load(verify_model(tiny_model(contract), None), RuntimeOptions())
    assert Predictor(loaded, contract).predict(pictures(1))[0].output.probabilities == pytest.approx(
        (1 / 3,) * 3
    )


def test_the_fake_fails_when_it_is_told_to() -> None:
    backend = FakeBackend()
    model = verify_model(tiny_model(), None)
    loaded = backend.load(model, RuntimeOptions())
    backend.run_error = RejectedError("no", reason="run_failed")
    with pytest.raises(RejectedError, match="no"):
        loaded.run({"image": preprocess(pictures(1), model.contract)})
    backend.load_error = RejectedError("never", reason="load_failed")
    with pytest.raises(RejectedError, match="never"):
        backend.load(model, RuntimeOptions())


def test_the_faulty_model_is_nan_on_dark_pictures_only() -> None:
    contract = tiny_contract()
    good = tiny_model(contract)
    bad = return_nan_when_dark(good, below_luma=60.0, name="faulty")
    assert read_contract(bad) == dataclasses.replace(contract, name="faulty")
    verified = verify_model(bad, None)
    predictor = Predictor(BACKEND.load(verified, RuntimeOptions()), verified.contract)
    assert all(not p.is_finite for p in predictor.predict(pictures(3, 30)))
    healthy = predictor.predict(pictures(3, 128))
    before = Predictor(load(contract), contract).predict(pictures(3, 128))
    assert [p.output for p in healthy] == [p.output for p in before]


def test_equal_arguments_make_equal_tiny_models() -> None:
    assert tiny_model(seed=3) == tiny_model(seed=3)
    assert tiny_model(seed=3) != tiny_model(seed=4)


def test_importing_modelkit_loads_no_torch_and_no_runtime() -> None:
    code = (
        "import sys, modelkit.predictor, modelkit.onnx_backend, "
        "modelkit.verify, modelkit.scores, modelkit.images; "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )

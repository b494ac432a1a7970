"""The Hexagon NPU by its emulator: models really run there, and each of its known traps is refused or flagged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from foundation.errors import MisconfiguredError, RejectedError
from modelkit import qnn
from modelkit.compiled import COMPILED_KEY
from modelkit.contract import ModelContract
from modelkit.embed import embed_contract, parse_model
from modelkit.placement import CPU, require_claim, state_placement, work_on_cpu
from modelkit.qnn import QNN, check_context, check_graph, compile_context
from modelkit.runtime import LoadedModel, NodePlacement, RuntimeOptions
from modelkit.runtimes import open_runtime
from modelkit.specs import InputSpec
from modelkit.verify import VerifiedModel, verify_model
from schemas.reasons import RefuseReason
from tests.fakes.models import tiny_contract, tiny_proto

EMULATED = {QNN: {"htp_arch": "75"}}
CONTRACT = dataclasses.replace(
    tiny_contract(), input=InputSpec(batch=1), allowed_providers=(QNN, CPU), cpu_fallback="refuse"
)
emulator = pytest.mark.skipif(
    find_spec("onnxruntime_qnn") is None,
    reason="the Hexagon emulator is not installed (make runtimes RUNTIMES=qnn)",
)
BATCH = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)


def fixed(
    contract: ModelContract, change: Callable[[ModelProto], None] = lambda _model: None
) -> VerifiedModel:
    model = tiny_proto(contract)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    change(model)
    return verify_model(embed_contract(model.SerializeToString(), contract), None)


def load(model: VerifiedModel, **options: object) -> LoadedModel:
    chosen = {"provider_options": EMULATED, **options}
    return open_runtime().load(model, RuntimeOptions(**chosen))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def compiled() -> VerifiedModel:
    return verify_model(compile_context(fixed(CONTRACT), 75), None)


@emulator
def test_a_model_runs_on_the_emulated_npu_alone_and_answers_like_the_cpu() -> None:
    model = fixed(CONTRACT)
    loaded = load(model)
    found = state_placement(loaded, CONTRACT.allowed_providers)
    assert (loaded.provider, set(found.nodes), found.work, found.is_fallen_back) == (
        QNN,
        {QNN},
        {QNN: 1.0},
        False,
    )
    require_claim(found, QNN)
    on_cpu = load(fixed(dataclasses.replace(CONTRACT, allowed_providers=(CPU,))))
    for role, expected in on_cpu.run({"image": BATCH}).items():
        assert np.allclose(loaded.run({"image": BATCH})[role], expected, atol=0.02)


@emulator
def test_the_work_of_nodes_that_the_npu_does_not_take_is_told_and_flagged_or_refused() -> None:
    def add_product(model: ModelProto) -> None:  # an integer product, which the plug-in does not take
        model.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.int8), "eye"))
        model.graph.node[3].output[0] = "real"
        model.graph.node.extend(
            [
                helper.make_node("DynamicQuantizeLinear", ["real"], ["whole", "s", "z"], "whole"),
                helper.make_node("MatMulInteger", ["whole", "eye", "z"], ["product"], "integers"),
                helper.make_node("Cast", ["product"], ["logits"], "back", to=TensorProto.FLOAT),
            ]
        )

    with pytest.raises(RejectedError, match="nodes would run on the CPU") as caught:
        load(fixed(CONTRACT, add_product))
    assert caught.value.reason == RefuseReason.CPU_FALLBACK
    allowed = dataclasses.replace(CONTRACT, cpu_fallback="allow")
    found = state_placement(load(fixed(allowed, add_product)), allowed.allowed_providers)
    assert found.is_fallen_back and set(found.nodes) == {QNN, CPU}
    assert found.work == pytest.approx({QNN: (48 * 8 + 8 * 3) / 417, CPU: 9 / 417})
    require_claim(found, QNN)


@emulator
def test_a_free_batch_which_the_npu_does_not_take_is_a_fall_back_and_not_a_secret() -> None:
    free = dataclasses.replace(tiny_contract(), allowed_providers=(QNN, CPU))
    model = verify_model(embed_contract(tiny_proto(free).SerializeToString(), free), None)
    loaded = load(model)
    assert loaded.is_fallen_back and loaded.work() == {CPU: 1.0}
    with pytest.raises(MisconfiguredError, match=r"ran 0\.0% of the work"):
        require_claim(state_placement(loaded, free.allowed_providers), QNN)


@emulator
def test_a_list_of_providers_gives_the_cpu_without_an_error_and_is_never_used_for_the_npu() -> None:
    import onnxruntime

    model = fixed(CONTRACT)
    load(model)
    session = onnxruntime.InferenceSession(model.data, providers=[(QNN, {"htp_arch": "75"})])
    assert session.get_providers() == [CPU], "the trap is gone"


def test_the_npu_is_not_used_where_nobody_named_it() -> None:
    # On a PC training and evaluation would otherwise run on an emulator, slowly.
    loaded = open_runtime().load(fixed(CONTRACT), RuntimeOptions(off_vehicle=True))
    assert (loaded.provider, loaded.is_fallen_back) == (CPU, True)


@pytest.mark.parametrize("arch", ["99", "85", "0", "v75", "-1"])
def test_an_architecture_that_the_plug_in_would_silently_replace_is_refused_by_name(arch: str) -> None:
    with pytest.raises(MisconfiguredError, match=rf"htp_arch is '{arch}'; the architectures are 68, 69"):
        load(fixed(CONTRACT), provider_options={QNN: {"htp_arch": arch}})


@emulator
def test_a_model_compiled_ahead_of_time_says_what_for_and_runs_there(compiled: VerifiedModel) -> None:
    proto = parse_model(compiled.data)
    assert [node.op_type for node in proto.graph.node] == ["EPContext"]
    (record,) = (json.loads(entry.value) for entry in proto.metadata_props if entry.key == COMPILED_KEY)
    assert (record["htp_arch"], record["macs"], record["source_digest"]) == (75, 408, fixed(CONTRACT).digest)
    assert compiled.contract.target == "qnn-htp-v75"
    loaded = load(compiled)
    assert (loaded.provider, loaded.is_fallen_back, loaded.work()) == (QNN, False, {QNN: 1.0})
    expected = load(fixed(CONTRACT)).run({"image": BATCH})["logits"]
    assert np.allclose(loaded.run({"image": BATCH})["logits"], expected, atol=0.02)


@emulator
def test_a_model_compiled_for_another_architecture_is_refused_although_the_emulator_would_load_it(
    compiled: VerifiedModel,
) -> None:
    with pytest.raises(RejectedError, match="compiled for HTP 75, this vehicle has HTP 81") as caught:
        load(compiled, provider_options={QNN: {"htp_arch": "81"}})
    assert caught.value.reason == RefuseReason.WRONG_TARGET


def recorded(model: ModelProto) -> None:
    model.metadata_props.add(
        key=COMPILED_KEY,
        value=json.dumps(
            {"htp_arch": 75, "onnxruntime": "", "onnxruntime_qnn": "", "source_digest": "", "macs": 1}
        ),
    )


def test_a_file_that_says_that_it_is_compiled_and_has_no_compiled_node_is_refused() -> None:
    with pytest.raises(RejectedError, match="without an EPContext node") as caught:
        check_context(fixed(CONTRACT, recorded), {})
    assert caught.value.reason == RefuseReason.WRONG_TARGET


def test_a_compiled_node_without_a_record_of_its_target_is_refused() -> None:
    contract = dataclasses.replace(CONTRACT, operator_domains=("com.microsoft",))

    def compiled_elsewhere(model: ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        node = helper.make_node(
            "EPContext", ["image"], ["logits", "embedding"], "ctx", domain="com.microsoft", embed_mode=1
        )
        del model.graph.node[:]
        model.graph.node.append(node)

    with pytest.raises(RejectedError, match="no record of what for") as caught:
        check_context(fixed(contract, compiled_elsewhere), {})
    assert caught.value.reason == RefuseReason.WRONG_TARGET


@emulator
def test_a_compiler_that_leaves_the_graph_as_it_is_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    class Lazy:
        def __init__(self, _settings: object, data: bytes, **_options: object) -> None:
            self._data = data

        def compile_to_file(self, path: str) -> None:
            with open(path, "wb") as stream:  # noqa: PTH123
                stream.write(self._data)

    monkeypatch.setattr(onnxruntime, "ModelCompiler", Lazy)
    with pytest.raises(RejectedError, match="without an EPContext node"):
        compile_context(fixed(CONTRACT), 75)


def test_what_only_converts_numbers_at_the_edge_is_no_fall_back() -> None:
    # As in every quantised model whose input is in float32: the conversion stays on the CPU.
    placement = (NodePlacement("q", "QuantizeLinear", CPU), NodePlacement("ctx", "EPContext", QNN))
    assert work_on_cpu(placement) == ()
    assert work_on_cpu((*placement, NodePlacement("r", "Relu", CPU)))[0].node == "r"
    assert len(work_on_cpu(placement[:1])) == 1, "a model that is nothing else, or all on the CPU"


# What the NPU computes wrong, or invents.


def quantised(zero_point: np.ndarray, *, leave_out: str = "") -> ModelProto:
    """A product and a second one, with activations quantised as `zero_point` says; `leave_out` names an activation without."""
    scale = numpy_helper.from_array(np.array(0.02, np.float32), "scale")
    zero = numpy_helper.from_array(zero_point, "zero")
    weights = numpy_helper.from_array(np.ones((4, 4), np.int8), "weights")
    nodes = [helper.make_node("DequantizeLinear", ["weights", "scale"], ["w"], "weights")]

    def encoded(name: str) -> str:
        if name == leave_out:
            return name
        nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"], f"{name}_q"))
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_d"], f"{name}_d")
        )
        return f"{name}_d"

    image = encoded("image")
    nodes.append(helper.make_node("MatMul", [image, "w"], ["middle"], "first"))
    middle = encoded("middle")
    nodes.append(helper.make_node("MatMul", [middle, "w"], ["last"], "second"))
    nodes.append(helper.make_node("Identity", [encoded("last")], ["out"], "end"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("image", "out")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [scale, zero, weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_unsigned_activations_with_every_encoding_pass(kind: type) -> None:
    check_graph(quantised(np.array(128, kind)))


def test_signed_8_bit_activations_are_refused_by_name() -> None:
    with pytest.raises(RejectedError, match="activation 'image' is quantised to signed 8 bit") as caught:
        check_graph(quantised(np.array(0, np.int8)))
    assert caught.value.reason == RefuseReason.WRONG_TARGET


@pytest.mark.parametrize(("name", "count"), [("image", 1), ("middle", 2), ("last", 1)])
def test_a_missing_encoding_is_refused_and_the_nodes_are_named(name: str, count: int) -> None:
    with pytest.raises(
        RejectedError, match=f"{count} of the quantised model's .* lack an encoding"
    ) as caught:
        check_graph(quantised(np.array(128, np.uint8), leave_out=name))
    assert caught.value.reason == RefuseReason.WRONG_TARGET


def test_a_graph_without_quantisation_passes() -> None:
    check_graph(tiny_proto(tiny_contract()))


@emulator
def test_a_quantised_model_of_the_wrong_form_is_refused_when_it_is_loaded_and_when_it_is_compiled() -> None:
    def signed(model: ModelProto) -> None:
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.array(0.02, np.float32), "s"),
                numpy_helper.from_array(np.array(0, np.int8), "z"),
            ]
        )
        model.graph.node[2].input[0] = "flat_d"
        model.graph.node.insert(2, helper.make_node("QuantizeLinear", ["flat", "s", "z"], ["flat_q"], "q"))
        model.graph.node.insert(
            3, helper.make_node("DequantizeLinear", ["flat_q", "s", "z"], ["flat_d"], "d")
        )

    for use in (load, lambda model: compile_context(model, 75)):
        with pytest.raises(RejectedError, match="signed 8 bit"):
            use(fixed(CONTRACT, signed))


def test_a_plug_in_of_another_version_is_named_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    real = qnn.Requirement("onnxruntime-qnn", "98.0", "99.0", "qnn")
    monkeypatch.setattr(qnn, "REQUIREMENT", real)
    with pytest.raises(
        MisconfiguredError, match=r"onnxruntime-qnn.* >= 98\.0, < 99\.0 is needed \(fleetloop\[qnn\]\)"
    ):
        load(fixed(CONTRACT))

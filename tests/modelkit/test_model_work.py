"""How much of a model's work runs where: MACs of each node, shares by provider, and the claim of a figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from foundation.errors import MisconfiguredError
from modelkit.fold import fold_small_constants
from modelkit.placement import CPU, PlacementStatement, require_claim, share_of_work, state_placement
from modelkit.runtime import NodePlacement, RuntimeOptions
from modelkit.specs import InputSpec
from modelkit.verify import verify_model
from modelkit.work import NodeWork, graph_work
from tests.fakes.models import FakeBackend, tiny_contract, tiny_model

NPU = "QNNExecutionProvider"
CONTRACT = dataclasses.replace(tiny_contract(), input=InputSpec(height=10, width=12))


def graph_of(nodes: Sequence[object], weights: dict[str, tuple[int, ...]], batch: object = "n") -> bytes:
    tensors = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 10, 12])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [image], [out], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("node", "weights", "macs"),
    [
        (helper.make_node("Conv", ["image", "w"], ["out"], "a"), {"w": (8, 3, 3, 3)}, 8 * 8 * 10 * 27),
        (
            helper.make_node("Conv", ["image", "w"], ["out"], "a", group=3, pads=[1, 1, 1, 1], strides=[2, 2]),
            {"w": (6, 1, 3, 3)},
            6 * 5 * 6 * 9,
        ),
        (helper.make_node("ConvTranspose", ["image", "w"], ["out"], "a", strides=[2, 2]), {"w": (3, 5, 2, 2)}, 7200),
        (helper.make_node("MatMul", ["image", "w"], ["out"], "a"), {"w": (12, 7)}, 3 * 10 * 12 * 7),
    ],
)  # fmt: skip
def test_the_work_of_a_node_is_its_products_of_one_picture(
    node: object, weights: dict[str, tuple[int, ...]], macs: int
) -> None:
    assert [one.macs for one in graph_work(graph_of([node], weights), CONTRACT)] == [macs]


def test_the_count_is_what_the_sum_over_ones_counts() -> None:
    # All inputs and weights are 1: without padding the sum over the outputs is the number of products.
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], "a", group=3),
        helper.make_node("Flatten", ["a"], ["b"], "b"),
        helper.make_node("Gemm", ["b", "v"], ["out"], "c", transB=1),
    ]
    data = graph_of(nodes, {"w": (6, 1, 3, 3), "v": (4, 6 * 8 * 10)})
    first, second = graph_work(data, CONTRACT)
    ones = np.ones((1, 3, 10, 12), np.float32)
    conv = graph_of([helper.make_node("Conv", ["image", "w"], ["out"], "a", group=3)], {"w": (6, 1, 3, 3)})
    assert first.macs == ReferenceEvaluator(onnx.load_from_string(conv)).run(None, {"image": ones})[0].sum()
    assert second.macs == 4 * 480


def test_weights_behind_dequantise_nodes_count_as_weights() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], "dq"),
        helper.make_node("Conv", ["image", "w"], ["out"], "conv"),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 10, 12])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
            [
                numpy_helper.from_array(np.ones((8, 3, 3, 3), np.int8), "q"),
                numpy_helper.from_array(np.array(1.0, np.float32), "s"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    assert [one.macs for one in graph_work(model.SerializeToString(), CONTRACT)] == [8 * 8 * 10 * 27]


WORK = (NodeWork("a", "Conv", 900), NodeWork("b", "MatMul", 100))


def placed(*rows: tuple[str, str, str]) -> tuple[NodePlacement, ...]:
    return tuple(NodePlacement(*row) for row in rows)


@pytest.mark.parametrize(
    ("placement", "shares"),
    [
        (placed(("a", "Conv", NPU), ("b", "MatMul", CPU), ("c", "Relu", CPU)), {NPU: 0.9, CPU: 0.1}),
        (placed(("a", "Conv", NPU), ("b/MatMulAddFusion", "Gemm", NPU), ("c", "Relu", CPU)), {NPU: 1.0, CPU: 0.0}),
        (placed(("x1", "FusedConv", NPU), ("x2", "Gemm", CPU)), {NPU: 0.9, CPU: 0.1}),
        (placed(("x1", "Mystery", NPU), ("b", "MatMul", NPU), ("c", "Relu", CPU)), {NPU: 0.1, CPU: 0.9}),
        (placed(("c", "Conv", NPU), ("d", "Conv", CPU), ("b", "MatMul", NPU)), {NPU: 0.1, CPU: 0.9}),
    ],
)  # fmt: skip
def test_work_that_no_node_of_the_runtime_accounts_for_is_the_cpus(
    placement: tuple[NodePlacement, ...], shares: dict[str, float]
) -> None:
    assert share_of_work(placement, WORK) == pytest.approx(shares)


def test_work_of_unknown_size_gives_no_share_and_all_of_it_counts_as_the_cpus() -> None:
    found = share_of_work(placed(("a", "Conv", NPU), ("b", "MatMul", CPU)), (NodeWork("a", "Conv", None),))
    assert found == {}
    assert PlacementStatement((NPU,), {NPU: 1, CPU: 1}, True, "allow", found).cpu_ratio == 1.0


@pytest.mark.parametrize(
    ("nodes", "is_claimed"), [((NPU,) * 19 + (CPU,), True), ((NPU,) * 18 + (CPU,) * 2, False)]
)
def test_no_figure_is_an_accelerators_that_ran_less_than_95_percent_of_the_work(
    nodes: tuple[str, ...], is_claimed: bool
) -> None:
    contract = dataclasses.replace(tiny_contract(), allowed_providers=(NPU, CPU))
    loaded = FakeBackend(runs_on=nodes).load(verify_model(tiny_model(contract), None), RuntimeOptions())
    found = state_placement(loaded, contract.allowed_providers)
    if is_claimed:
        require_claim(found, NPU)
        return
    with pytest.raises(
        MisconfiguredError, match=r"ran 90\.0% of the work \(MACs\), a figure for it needs 95%"
    ):
        require_claim(found, NPU)


def test_nothing_can_be_claimed_for_a_device_that_ran_nothing() -> None:
    with pytest.raises(MisconfiguredError, match=r"ran 0\.0% of the work"):
        require_claim(PlacementStatement((NPU,), {CPU: 4}, True, "allow", {CPU: 1.0}), NPU)


def test_a_few_numbers_that_ask_for_a_large_constant_are_not_followed() -> None:
    shape = numpy_helper.from_array(np.array([10**6, 10**6], dtype=np.int64), "shape")
    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["shape"], ["large"])],
        "graph",
        [],
        [helper.make_tensor_value_info("large", TensorProto.FLOAT, None)],
        [shape],
    )
    assert fold_small_constants(helper.make_model(graph)) == 0

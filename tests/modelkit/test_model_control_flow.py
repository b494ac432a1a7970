"""A picture never decides how long a model works: loops, recursion and sizes from pixels are refused wherever they hide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foundation.errors import RejectedError
from modelkit.embed import embed_contract
from modelkit.verify import verify_model
from tests.fakes.models import tiny_contract, tiny_proto

CONTRACT = tiny_contract()
PICTURE = CONTRACT.input.name
Edit = Callable[[onnx.ModelProto], None]


def refusal(edit: Edit) -> RejectedError:
    model = tiny_proto(CONTRACT)
    edit(model)
    with pytest.raises(RejectedError) as caught:
        verify_model(embed_contract(model.SerializeToString(), CONTRACT), None)
    return caught.value


def accepted(edit: Edit) -> None:
    model = tiny_proto(CONTRACT)
    edit(model)
    verify_model(embed_contract(model.SerializeToString(), CONTRACT), None)


def node(*arguments: object, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(*arguments, **attributes)


def graph(*nodes: onnx.NodeProto, out: str = "inner") -> onnx.GraphProto:
    return helper.make_graph(nodes, "part", [], [helper.make_tensor_value_info(out, TensorProto.FLOAT, [])])


def repeats(op: str) -> onnx.NodeProto:
    body = graph(node("Identity", ["flat"], ["inner"]))
    return node(op, ["flat"], ["again"], **{"decoder" if "Search" in op else "body": body})


def function(name: str, *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("ai.onnx", name, ["x"], ["y"], nodes, [helper.make_opsetid("", 18)])


def in_function(inner: onnx.NodeProto) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.functions.append(function("Hides", inner, node("Identity", ["x"], ["y"])))
        model.opset_import.append(helper.make_opsetid("ai.onnx", 18))
        model.graph.node.append(node("Hides", ["flat"], ["hidden"], domain="ai.onnx"))

    return edit


def in_branch(inner: onnx.NodeProto, depth: int = 1) -> Edit:
    part = graph(inner, node("Identity", ["flat"], ["inner"]))
    for number in range(depth - 1):
        part = graph(node("If", ["c"], [f"level_{number}"], then_branch=part, else_branch=part))
    branch = node("If", ["c"], ["chosen"], then_branch=graph(), else_branch=part)
    return lambda model: model.graph.node.append(branch)


@pytest.mark.parametrize("op", ["Loop", "Scan", "SequenceMap", "GreedySearch", "NoSuchOperatorYet"])
@pytest.mark.parametrize("place", ["graph", "branch", "branch of a branch", "function"])
def test_no_part_of_a_graph_is_run_again_and_again_wherever_it_hides(op: str, place: str) -> None:
    inner = repeats(op)
    edits: dict[str, Edit] = {
        "graph": lambda model: model.graph.node.append(inner),
        "branch": in_branch(inner),
        "branch of a branch": in_branch(inner, 3),
        "function": in_function(inner),
    }
    error = refusal(edits[place])
    assert error.reason == "too_complex"
    assert op in str(error)


def test_a_function_that_calls_itself_is_refused() -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.functions.append(function("First", node("Second", ["x"], ["y"], domain="ai.onnx")))
        model.functions.append(function("Second", node("First", ["x"], ["y"], domain="ai.onnx")))
        model.graph.node.append(node("First", ["flat"], ["z"], domain="ai.onnx"))

    assert "calls itself" in str(refusal(edit))


def test_functions_that_unfold_to_millions_of_nodes_are_refused_at_once() -> None:
    def edit(model: onnx.ModelProto) -> None:
        for level in range(40):
            twice = [
                node(f"F{level + 1}", ["x"], ["half"], domain="ai.onnx"),
                node(f"F{level + 1}", ["half"], ["y"], domain="ai.onnx"),
            ]
            model.functions.append(function(f"F{level}", *twice))
        model.functions.append(function("F40", node("Identity", ["x"], ["y"])))
        model.graph.node.append(node("F0", ["flat"], ["z"], domain="ai.onnx"))

    assert "unfolded" in str(refusal(edit))


def sized_from(*way: onnx.NodeProto, op: str = "Expand", at: int = 1) -> Edit:
    """Append nodes that make `size`, then one that reads it as a size."""
    inputs = ["flat"] * (at + 1)
    inputs[at] = "size"
    return lambda model: model.graph.node.extend([*way, node(op, inputs, ["large"])])


LIGHT = node("ReduceMean", [PICTURE], ["light"], keepdims=0)
AS_SIZE = node("Cast", ["light"], ["size"], to=TensorProto.INT64)


@pytest.mark.parametrize(
    ("op", "at"),
    [
        ("Expand", 1),
        ("ConstantOfShape", 0),
        ("Range", 1),
        ("Tile", 1),
        ("Resize", 3),
        ("Pad", 1),
        ("OneHot", 1),
    ],
)
def test_no_size_is_taken_from_the_values_of_a_picture(op: str, at: int) -> None:
    error = refusal(sized_from(LIGHT, AS_SIZE, op=op, at=at))
    assert error.reason == "too_complex"
    assert "values of a picture" in str(error)


def test_a_size_from_a_picture_is_found_through_a_branch_and_through_a_function() -> None:
    through_branch = graph(node("Identity", ["light"], ["inner"]))
    chosen = node("If", ["c"], ["picked"], then_branch=through_branch, else_branch=graph())
    cast = node("Cast", ["picked"], ["size"], to=TensorProto.INT64)
    assert "values of a picture" in str(refusal(sized_from(LIGHT, chosen, cast)))

    def edit(model: onnx.ModelProto) -> None:
        model.functions.append(function("Grow", node("ConstantOfShape", ["x"], ["y"])))
        model.graph.node.extend([LIGHT, AS_SIZE, node("Grow", ["size"], ["z"], domain="ai.onnx")])

    assert "values of a picture" in str(refusal(edit))


def test_nodes_in_another_order_hide_no_size_because_the_runtime_may_sort_them() -> None:
    large = node("Expand", ["flat", "size"], ["large"])
    assert "in order" in str(refusal(lambda model: model.graph.node.extend([large, LIGHT, AS_SIZE])))


def test_sizes_from_constants_and_from_shapes_are_accepted() -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([2, 2]), "two_by_two"))
        model.graph.node.extend(
            [
                node("ConstantOfShape", ["two_by_two"], ["fixed"]),
                node("Shape", [PICTURE], ["shape"]),
                node("ConstantOfShape", ["shape"], ["blank"]),
            ]
        )

    accepted(edit)


def test_branches_without_a_loop_are_accepted() -> None:
    accepted(in_branch(node("Neg", ["flat"], ["minus"]), 2))

"""Bad models by kind: each is signed and offered like any other, and none may come to serve."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fleetloop.demo.bad_models import return_nan_when_dark
from modelkit.embed import embed_contract
from tests.fakes.models import tiny_contract, tiny_model, tiny_proto

REFUSED, ROLLED_BACK, NEVER_TAKEN, TAKEN = "refused", "rolled back", "never taken", "taken"
DARK_BELOW = -1.5
"""Mean of the normalised picture under which it is dark: black is at -2.0, grey 90 at -0.5."""


@dataclass(frozen=True, slots=True)
class Bad:
    """One kind: how its bytes are made, and how it must end. `name` becomes the release's."""

    name: str
    end: str
    make: Callable[[str], bytes]
    tamper: str = ""
    """What happens to the published file after it was signed."""
    trial_light: tuple[int, ...] = (90, 0)
    """Grey levels of the frames that the vehicle recorded for trials."""


def _sound(name: str) -> bytes:
    return tiny_model(tiny_contract(name=name), seed=5)


def _edited(edit: Callable[[Any, str], None]) -> Callable[[str], bytes]:
    """A sound model whose parsed message was changed before the contract went in."""

    def make(name: str) -> bytes:
        contract = tiny_contract(name=name)
        model = tiny_proto(contract, seed=5)
        edit(model, name)
        return embed_contract(model.SerializeToString(), contract)

    return make


def _spoiled(nodes: Callable[[Any, Any], None]) -> Callable[[str], bytes]:
    """A sound model whose logits get `spoil`, a tensor that `nodes` makes from the scalar `light`, added."""

    def edit(model: Any, _name: str) -> None:
        from onnx import helper, numpy_helper

        graph = model.graph

        def node(op: str, inputs: list[str], output: str, **attributes: Any) -> None:
            graph.node.append(helper.make_node(op, inputs, [output], name=f"bad_{output}", **attributes))

        def constant(name: str, value: Any) -> None:
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))

        graph.node[-1].output[0] = "clean_logits"
        node("ReduceMean", [graph.input[0].name], "light", keepdims=0)
        constant("dark_below", np.float32(DARK_BELOW))
        node("Less", ["light", "dark_below"], "is_dark")
        nodes(node, constant)
        node("Add", ["clean_logits", "spoil"], "logits")

    return _edited(edit)


def _value(value: float) -> Callable[[str], bytes]:
    def nodes(_node: Any, constant: Any) -> None:
        constant("spoil", np.float32(value))

    return _spoiled(nodes)


def _quotient(when: str) -> Callable[[str], bytes]:
    """The smallest integer over minus one: the processor ends the process (SIGFPE)."""

    def nodes(node: Any, constant: Any) -> None:
        constant("one", np.int32(1))
        constant("two", np.int32(2))
        constant("smallest", np.int32(-(2**31)))
        constant("zero", np.float32(0))
        constant("always", np.float32(1e30))
        constant("rare", np.float32(1.5))
        node("Less", ["light", "always"], "is_always")
        node("Less", ["rare", "light"], "is_rare")
        node("Cast", [f"is_{when}"], "flag", to=6)
        node("Mul", ["flag", "two"], "twice")
        node("Sub", ["one", "twice"], "divisor")
        node("Div", ["smallest", "divisor"], "quotient")
        node("Cast", ["quotient"], "as_float", to=1)
        node("Mul", ["as_float", "zero"], "spoil")

    return _spoiled(nodes)


def _fails_when_dark(node: Any, constant: Any) -> None:
    constant("table", np.zeros(3, dtype=np.float32))
    constant("far", np.int64(100))
    node("Cast", ["is_dark"], "flag", to=7)
    node("Mul", ["flag", "far"], "index")
    node("Gather", ["table", "index"], "spoil")


def _works_long(rounds: int, *, only_when_dark: bool, size: int = 256) -> Callable[[str], bytes]:
    """`rounds` products of large matrices, one after the other: of size 256 about two milliseconds each."""

    def nodes(node: Any, constant: Any) -> None:
        from onnx import TensorProto, helper

        constant("shape", np.array([size, size], dtype=np.int64))
        constant("low", np.float32(0))
        constant("high", np.float32(1))
        constant("zero", np.float32(0))
        half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
        node("ConstantOfShape", ["shape"], "state_0", value=half)
        work = []
        for number in range(rounds):
            before, after = f"state_{number}", f"state_{number + 1}"
            work.append(helper.make_node("MatMul", [before, before], [f"product_{number}"]))
            work.append(helper.make_node("Clip", [f"product_{number}", "low", "high"], [after]))
        work.append(helper.make_node("ReduceMean", [f"state_{rounds}"], ["long_mean"], keepdims=0))
        short = [helper.make_node("ReduceMean", ["state_0"], ["short_mean"], keepdims=0)]
        branches = {
            f"{name}_branch": helper.make_graph(
                part, name, [], [helper.make_tensor_value_info(part[-1].output[0], TensorProto.FLOAT, [])]
            )
            for name, part in (("then", work), ("else", short if only_when_dark else work))
        }
        node("If", ["is_dark"], "mean", **branches)
        node("Mul", ["mean", "zero"], "spoil")

    return _spoiled(nodes)


def _loops_when_dark(node: Any, constant: Any) -> None:
    """A loop whose count comes from the picture: no trial on a light frame shows that it never ends."""
    from onnx import TensorProto, helper

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going_in"], ["going_out"]),
            helper.make_node("Add", ["sum_in", "sum_in"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_in", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, []),
        ],
    )
    constant("many", np.int64(2**62))
    constant("going", np.array(True))
    constant("zero", np.float32(0))
    node("Cast", ["is_dark"], "flag", to=7)
    node("Mul", ["flag", "many"], "rounds")
    node("Loop", ["rounds", "going", "zero"], "spoil", body=body)


def _allocates(floats_a_light: float) -> Callable[[str], bytes]:
    """A tensor as large as the picture is bright: what the first picture needs, a later one exceeds."""

    def nodes(node: Any, constant: Any) -> None:
        constant("offset", np.float32(2.5))
        constant("each", np.float32(floats_a_light))
        constant("zero", np.float32(0))
        constant("row", np.array([-1], dtype=np.int64))
        node("Add", ["light", "offset"], "above")
        node("Mul", ["above", "each"], "many")
        node("Cast", ["many"], "count", to=7)
        node("Reshape", ["count", "row"], "shape")
        node("Expand", ["light", "shape"], "huge")
        node("ReduceMax", ["huge"], "most", keepdims=0)
        node("Mul", ["most", "zero"], "spoil")

    return _spoiled(nodes)


def _io(edit: Callable[[Any], None]) -> Callable[[str], bytes]:
    return _edited(lambda model, _name: edit(model.graph))


def _wide_input(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[2].dim_value += 8


def _renamed_input(graph: Any) -> None:
    graph.node[0].input[0] = graph.input[0].name = "something_else"


def _integers(graph: Any) -> None:
    graph.output[0].type.tensor_type.elem_type = 7


def _one_output(graph: Any) -> None:
    del graph.output[1]


def _outside(graph: Any) -> None:
    tensor = graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    for key, value in (("location", "../../../outside.bin"), ("offset", "0"), ("length", "4096")):
        tensor.external_data.add(key=key, value=value)


def _outside_attribute(graph: Any) -> None:
    from onnx import helper, numpy_helper

    hidden = numpy_helper.from_array(np.zeros(4, dtype=np.float32), "hidden")
    hidden.ClearField("raw_data")
    hidden.data_location = 1
    hidden.external_data.add(key="location", value="/etc/hostname")
    graph.node.append(helper.make_node("Constant", [], ["unused"], value=hidden))


def _ten_gigabytes(graph: Any) -> None:
    graph.initializer[0].dims[:] = [10_240, 1024, 256]


def _short_tensor(graph: Any) -> None:
    graph.initializer[0].raw_data = graph.initializer[0].raw_data[:16]


def _cycle(graph: Any) -> None:
    graph.node[1].input[0] = graph.node[-1].output[0]


def _two_writers(graph: Any) -> None:
    graph.node.append(graph.node[0])


def _many_nodes(graph: Any) -> None:
    from onnx import helper

    for number in range(20_001):
        graph.node.append(helper.make_node("Identity", ["flat"], [f"copy_{number}"]))


def _deep(graph: Any) -> None:
    from onnx import helper

    inner = helper.make_graph([helper.make_node("Identity", ["flat"], ["deep_0"])], "deep", [], [])
    for number in range(20):
        node = helper.make_node("If", ["flat"], [f"deep_{number + 1}"], then_branch=inner)
        inner = helper.make_graph([node], "deep", [], [])
    graph.node.append(inner.node[0])


def _opset(model: Any, _name: str) -> None:
    model.opset_import[0].version = 99


def _domain(model: Any, _name: str) -> None:
    model.opset_import.add(domain="evil.example", version=1)
    model.graph.node[-1].domain = "evil.example"


def _unknown_operator(graph: Any) -> None:
    graph.node[-1].op_type = "NoSuchOperator"


def _no_contract(name: str) -> bytes:
    return bytes(tiny_proto(tiny_contract(name=name)).SerializeToString())


def _other_classes(name: str) -> bytes:
    four = tiny_contract(("red", "yellow", "green", "off"), name=name)
    return embed_contract(tiny_proto(tiny_contract(name=name)).SerializeToString(), four)


def _two_contracts(name: str) -> bytes:
    from onnx import ModelProto

    model = ModelProto.FromString(_sound(name))
    model.metadata_props.append(model.metadata_props[-1])
    return bytes(model.SerializeToString())


def _other_provider(name: str) -> bytes:
    contract = tiny_contract(name=name)
    return tiny_model(
        replace(contract, allowed_providers=("QNNExecutionProvider",), cpu_fallback="refuse"), seed=5
    )


KINDS: tuple[Bad, ...] = (
    Bad("truncated", REFUSED, lambda name: _sound(name)[:-40]),
    Bad("not-finite", REFUSED, _value(float("nan"))),
    Bad("not-finite-when-dark", ROLLED_BACK, lambda n: return_nan_when_dark(_sound(n), 50.0), "", (90,)),
    Bad("crashes", REFUSED, _quotient("always")),
    Bad("crashes-when-dark", ROLLED_BACK, _quotient("dark"), "", (90,)),
    Bad("crashes-on-a-rare-picture", ROLLED_BACK, _quotient("rare"), "", (90,)),
    Bad("outside-data", REFUSED, _io(_outside)),
    Bad("wrong-hash", NEVER_TAKEN, _sound, "other bytes"),
    Bad("wrong-input", REFUSED, _io(_wide_input)),
    Bad("wrong-input-name", REFUSED, _io(_renamed_input)),
    Bad("wrong-classes", REFUSED, _other_classes),
    Bad("missing-output", REFUSED, _io(_one_output)),
    Bad("wrong-type", REFUSED, _io(_integers)),
    Bad("infinite", REFUSED, _value(float("inf"))),
    Bad("not-finite-in-the-dark-of-the-trial", REFUSED, lambda n: return_nan_when_dark(_sound(n), 50.0)),
    Bad("slow", REFUSED, _works_long(1000, only_when_dark=False)),
    Bad("slow-when-dark", ROLLED_BACK, _works_long(1000, only_when_dark=True), "", (90,)),
    Bad("never-answers", REFUSED, _works_long(2000, only_when_dark=False, size=4096)),
    Bad("loops-when-dark", REFUSED, _spoiled(_loops_when_dark), "", (90,)),
    Bad("grows", REFUSED, _allocates(8e6), "", (0, 200)),
    Bad("asks-for-20-gigabytes", REFUSED, _allocates(2.5e9)),
    Bad("fails-when-dark", ROLLED_BACK, _spoiled(_fails_when_dark), "", (90,)),
    Bad("fails-in-the-dark-of-the-trial", REFUSED, _spoiled(_fails_when_dark)),
    Bad("outside-data-in-an-attribute", REFUSED, _io(_outside_attribute)),
    Bad("foreign-domain", REFUSED, _edited(_domain)),
    Bad("foreign-opset", REFUSED, _edited(_opset)),
    Bad("unknown-operator", REFUSED, _io(_unknown_operator)),
    Bad("ten-gigabyte-tensor-in-the-header", REFUSED, _io(_ten_gigabytes)),
    Bad("short-tensor", REFUSED, _io(_short_tensor)),
    Bad("cycle", REFUSED, _io(_cycle)),
    Bad("written-twice", REFUSED, _io(_two_writers)),
    Bad("too-many-nodes", REFUSED, _io(_many_nodes)),
    Bad("nested-20-deep", REFUSED, _io(_deep)),
    Bad("no-contract", REFUSED, _no_contract),
    Bad("two-contracts", REFUSED, _two_contracts),
    Bad("no-such-provider", REFUSED, _other_provider),
    Bad("gzip-bomb", REFUSED, lambda name: gzip.compress(bytes(20_000_000) + name.encode())),
    Bad("random-bytes", REFUSED, lambda name: np.random.default_rng(len(name)).bytes(5000)),
    Bad("too-large", REFUSED, lambda name: name.encode() + bytes(67_108_864)),
    Bad("empty", NEVER_TAKEN, lambda _name: b""),
    Bad("cut-on-the-server", NEVER_TAKEN, _sound, "cut"),
    Bad("longer-than-signed", NEVER_TAKEN, _sound, "longer"),
    Bad("symlink-on-the-server", NEVER_TAKEN, _sound, "symlink"),
    Bad("symlink-in-the-staging", TAKEN, _sound, "staged symlink"),
    Bad("hard-link-in-the-staging", TAKEN, _sound, "staged hard link"),
    Bad("not-there", NEVER_TAKEN, _sound, "missing"),
)

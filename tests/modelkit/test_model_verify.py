"""Attack stories against model bytes: each is refused with its own reason, and no other file is opened."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import modelkit
from foundation.errors import GuaranteeBrokenError, RejectedError
from modelkit.contract import METADATA_KEY
from modelkit.digest import sha256_hex
from modelkit.embed import embed_contract
from modelkit.verify import ModelLimits, VerifiedModel, verify_model
from schemas.reasons import RefuseReason
from tests.fakes.models import tiny_contract, tiny_model, tiny_proto

CONTRACT = tiny_contract()
GOOD = tiny_model(CONTRACT)


def edited(edit: Callable[[onnx.ModelProto], None], **changes: object) -> bytes:
    model = tiny_proto(CONTRACT)
    edit(model)
    return embed_contract(model.SerializeToString(), dataclasses.replace(CONTRACT, **changes))  # type: ignore[arg-type]


def refusal(data: bytes, limits: ModelLimits | None = None) -> str:
    with pytest.raises(RejectedError) as caught:
        verify_model(data, None, limits)
    return caught.value.reason


def outside(name: str = "w", location: str = "../../etc/passwd") -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, dtype=np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def subgraph(tensor: TensorProto, depth: int = 1) -> onnx.GraphProto:
    if depth == 1:
        return helper.make_graph([], "inner", [], [], [tensor])
    node = helper.make_node("If", ["c"], ["y"], then_branch=subgraph(tensor, depth - 1))
    return helper.make_graph([node], "outer", [], [])


def test_a_good_model_is_verified_with_its_digest_and_contract() -> None:
    verified = verify_model(GOOD, sha256_hex(GOOD))
    assert verified.contract == CONTRACT
    assert verified.digest == sha256_hex(GOOD)
    assert verified.data == GOOD


def test_nobody_else_can_make_a_verified_model() -> None:
    with pytest.raises(GuaranteeBrokenError):
        VerifiedModel(GOOD, sha256_hex(GOOD), CONTRACT)


def test_a_wrong_hash_is_refused_before_anything_is_parsed() -> None:
    with pytest.raises(RejectedError) as caught:
        verify_model(b"not even a model", "0" * 64)
    assert caught.value.reason == "wrong_hash"


def test_a_model_over_the_byte_limit_is_refused() -> None:
    assert refusal(GOOD, ModelLimits(max_bytes=len(GOOD) - 1)) == "too_large"


def test_bytes_cut_short_are_refused_everywhere() -> None:
    for end in range(0, len(GOOD), 7):
        with pytest.raises(RejectedError):
            verify_model(GOOD[:end], None)


HIDING_PLACES = {
    "initializer": lambda m: m.graph.initializer.append(outside()),
    "attribute": lambda m: m.graph.node.append(helper.make_node("Constant", [], ["c"], value=outside())),
    "subgraph": lambda m: m.graph.node.append(
        helper.make_node("If", ["c"], ["y"], then_branch=subgraph(outside()))
    ),
    "deep subgraph": lambda m: m.graph.node.append(
        helper.make_node("If", ["c"], ["y"], then_branch=subgraph(outside(), 4))
    ),
    "sparse": lambda m: m.graph.sparse_initializer.add().values.CopyFrom(outside()),
    "function": lambda m: m.functions.append(
        helper.make_function(
            "", "f", [], ["c"], [helper.make_node("Constant", [], ["c"], value=outside())], m.opset_import
        )
    ),
    "memory address": lambda m: m.graph.initializer.append(outside(location="*/_ORT_MEM_ADDR_/*")),
    "entry without flag": lambda m: m.graph.initializer[0].external_data.add(key="location", value="w.bin"),
    "compiled blob": lambda m: m.graph.node.append(
        helper.make_node(
            "EPContext", ["a"], ["b"], domain="com.microsoft", ep_cache_context="../x.bin", embed_mode=0
        )
    ),
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_data_outside_the_file_is_refused_wherever_it_hides(place: str) -> None:
    assert refusal(edited(HIDING_PLACES[place], operator_domains=("com.microsoft",))) == "external_data"


def test_a_foreign_operator_domain_is_refused() -> None:
    data = edited(lambda m: m.graph.node.append(helper.make_node("Evil", ["a"], ["b"], domain="com.evil")))
    assert refusal(data) == "foreign_domain"


def test_a_foreign_domain_in_a_subgraph_is_refused() -> None:
    inner = helper.make_graph([helper.make_node("E", [], ["z"], domain="com.evil")], "inner", [], [])
    data = edited(lambda m: m.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner)))
    assert refusal(data) == "foreign_domain"


def test_a_contract_cannot_allow_itself_a_domain_that_the_limits_do_not() -> None:
    assert refusal(edited(lambda m: None, operator_domains=("com.evil",))) == "foreign_domain"


def test_the_runtimes_own_domain_needs_the_contracts_word() -> None:
    def add(m: onnx.ModelProto) -> None:
        m.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    assert refusal(edited(add)) == "foreign_domain"
    assert verify_model(edited(add, operator_domains=("com.microsoft",)), None)


def test_a_ten_gigabyte_tensor_in_a_small_header_is_refused() -> None:
    claim = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[50_000, 50_000], raw_data=b"\0" * 16)
    with pytest.raises(RejectedError, match=r"claims 10000000000 bytes, the limit is 67108864") as caught:
        verify_model(edited(lambda m: m.graph.initializer.append(claim)), None)
    assert caught.value.reason == "bad_tensor"


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[4], raw_data=b"\0" * 15),
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[4]),
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2], float_data=[1.0]),
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], float_data=[1.0], raw_data=b"\0" * 4),
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[-1], raw_data=b""),
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2**62, 2**62, 0, 2**40], float_data=[1.0]),
        TensorProto(name="t", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"]),
        TensorProto(name="t", data_type=99, dims=[1], raw_data=b"\0"),
    ],
)
def test_a_tensor_whose_header_lies_is_refused(tensor: TensorProto) -> None:
    assert refusal(edited(lambda m: m.graph.initializer.append(tensor))) == "bad_tensor"


def test_a_sparse_tensor_that_unfolds_to_gigabytes_is_refused() -> None:
    def add(m: onnx.ModelProto) -> None:
        sparse = m.graph.sparse_initializer.add(dims=[100_000, 100_000])
        sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, dtype=np.float32), "v"))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, dtype=np.int64), "i"))

    assert refusal(edited(add)) == "bad_tensor"


def test_graphs_nested_too_deep_and_too_many_nodes_are_refused() -> None:
    leaf = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "w")
    deep = edited(
        lambda m: m.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=subgraph(leaf, 12)))
    )
    assert refusal(deep) == "too_complex"
    assert refusal(GOOD, ModelLimits(max_nodes=3)) == "too_complex"


def test_training_graphs_are_refused() -> None:
    assert refusal(edited(lambda m: m.training_info.add().algorithm.CopyFrom(m.graph))) == "too_complex"


@pytest.mark.parametrize("version", [6, 99])
def test_an_opset_out_of_bounds_is_refused(version: int) -> None:
    def change(m: onnx.ModelProto) -> None:
        m.opset_import[0].version = version

    assert refusal(edited(change)) == "bad_opset"


def test_a_newer_file_format_is_refused() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.ir_version = 99

    assert refusal(edited(change)) == "bad_opset"


def test_a_wrong_input_is_refused() -> None:
    def change(m: onnx.ModelProto) -> None:
        m.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64

    assert refusal(edited(change)) == "wrong_io"
    assert refusal(edited(lambda m: setattr(m.graph.input[0], "name", "other"))) == "wrong_io"


def test_a_fixed_batch_and_a_wrong_type_are_refused() -> None:
    def fix(m: onnx.ModelProto) -> None:
        m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    def retype(m: onnx.ModelProto) -> None:
        m.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING

    assert refusal(edited(fix)) == "wrong_io"
    assert refusal(edited(retype)) == "wrong_io"


def test_more_or_fewer_classes_than_logits_are_refused() -> None:
    classes = (*CONTRACT.classes, "off")
    assert refusal(edited(lambda m: None, classes=classes)) == "wrong_classes"


def test_an_output_that_the_contract_does_not_name_is_allowed_and_two_of_one_name_are_not() -> None:
    extra = helper.make_tensor_value_info("more", TensorProto.FLOAT, [None, 1])
    verify_model(edited(lambda m: m.graph.output.append(extra)), None)
    assert refusal(edited(lambda m: m.graph.output.extend([extra, extra]))) == "wrong_io"


def test_every_reason_for_a_refusal_is_in_the_closed_list() -> None:
    """A vehicle reports the word: one that is not in the list would be told as something else."""
    named = [RefuseReason.WRONG_CLASSES, RefuseReason.WRONG_IO]
    assert refusal(edited(lambda m: None, classes=(*CONTRACT.classes, "off"))) in named
    for path in sorted(Path(modelkit.__file__).parent.rglob("*.py")):
        for word in re.findall(r'reason="([a-z_]+)"', path.read_text(encoding="utf-8")):
            assert word in {*RefuseReason, "unreadable_image", "invalid_value"}, (path.name, word)


def test_no_contract_is_refused() -> None:
    assert refusal(tiny_proto(CONTRACT).SerializeToString()) == "no_contract"


def test_metadata_that_is_no_contract_is_refused() -> None:
    model = tiny_proto(CONTRACT)
    model.metadata_props.add(key=METADATA_KEY, value="{}")
    assert refusal(model.SerializeToString()) == "bad_contract"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_flipped_bit_is_refused_or_still_verifies_never_a_crash(bit: int) -> None:
    damaged = bytearray(GOOD)
    damaged[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(RejectedError) as caught:
        verify_model(bytes(damaged), sha256_hex(GOOD))
    assert caught.value.reason == "wrong_hash"
    try:
        verify_model(bytes(damaged), None)
    except RejectedError as error:
        assert error.reason != "wrong_hash"


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_never_a_crash(data: bytes) -> None:
    with pytest.raises(RejectedError):
        verify_model(data, None)


def test_verification_opens_no_file() -> None:
    opened: list[str] = []
    armed = [True]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if armed[0] and event == "open":
            opened.append(str(args[0]))

    data = edited(HIDING_PLACES["initializer"])
    refusal(data)  # imports are done once
    sys.addaudithook(hook)
    try:
        refusal(data)
    finally:
        armed[0] = False
    assert opened == []


def test_a_name_that_is_no_text_is_refused() -> None:
    data = tiny_proto(tiny_contract()).SerializeToString().replace(b"logits", b"logit\xff")
    with pytest.raises(RejectedError, match="not UTF-8"):
        verify_model(embed_contract(data, tiny_contract()), None)

"""The contract: round trip, contradictions, strict reading."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import RejectedError
from modelkit.contract import METADATA_KEY, ModelContract
from modelkit.embed import embed_contract, parse_model, read_contract
from modelkit.specs import HeadSpec, InputSpec, Preprocessing, SizeSpec
from tests.fakes.models import tiny_contract, tiny_model, tiny_proto

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
numbers = st.floats(0.01, 100.0)


@st.composite
def contracts(draw: st.DrawFn) -> ModelContract:
    classes = tuple(draw(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6, unique=True)))
    return ModelContract(
        name=draw(names),
        classes=classes,
        trained_classes=tuple(draw(st.sets(st.sampled_from(classes)))),
        untrained_conditions=tuple(draw(st.sets(st.sampled_from(["dark", "bright"])))),
        input=InputSpec("x", 3, draw(st.integers(1, 4096)), draw(st.integers(1, 4096))),
        preprocessing=Preprocessing(scale=draw(numbers), std=(draw(numbers), 1.0, 2.0)),
        outputs={"logits": "l", "embedding": "e"},
        embedding_size=draw(st.integers(1, 4096)),
        head=draw(st.sampled_from([HeadSpec(), HeadSpec("sigmoid"), HeadSpec("probabilities")])),
        size_input=draw(st.sampled_from([None, SizeSpec("size")])),
        allowed_providers=("CPUExecutionProvider",),
        cpu_fallback=draw(st.sampled_from(["allow", "refuse"])),
        base_digest=draw(st.sampled_from(["", "0" * 64])),
        created_by=draw(st.text(max_size=10)),
    )


@given(contracts())
def test_a_contract_survives_json_unchanged(contract: ModelContract) -> None:
    again = ModelContract.from_json(contract.to_json())
    assert again == contract
    assert again.digest == contract.digest


@given(contracts(), contracts())
def test_different_contracts_have_different_digests(a: ModelContract, b: ModelContract) -> None:
    assert (a == b) == (a.digest == b.digest)


def test_a_contract_survives_the_onnx_file_and_replaces_the_one_before() -> None:
    first = tiny_contract(name="one")
    second = dataclasses.replace(first, name="two")
    data = embed_contract(tiny_model(first), second)
    assert read_contract(data) == second
    assert embed_contract(data, second) == data


def test_untrained_classes_keep_the_contracts_order() -> None:
    contract = dataclasses.replace(tiny_contract(), trained_classes=("yellow",))
    assert contract.untrained_classes == ("red", "green")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../v2"}, "name '../v2'"),
        ({"classes": ("a",), "trained_classes": ()}, "1 classes"),
        ({"classes": ("a", "a"), "trained_classes": ()}, "listed twice"),
        ({"trained_classes": ("blue",)}, "not all in classes"),
        ({"input": InputSpec(channels=1)}, "RGB has 3"),
        ({"input": InputSpec(height=0)}, "height 0"),
        ({"preprocessing": Preprocessing(std=(0.0, 1.0, 1.0))}, "std"),
        ({"preprocessing": Preprocessing(mean=(0.0, float("nan"), 1.0))}, "mean"),
        ({"preprocessing": Preprocessing(scale=float("inf"))}, "scale"),
        ({"outputs": {"logits": "x", "embedding": "x"}}, "two outputs are named 'x'"),
        ({"outputs": {"logits": "x"}}, "embedding_size 8"),
        ({"outputs": {"boxes": "x", "embedding": "e"}}, "classification has logits"),
        ({"task": "depth"}, "task 'depth'"),
        ({"head": HeadSpec("yolov5")}, "head 'yolov5'"),
        ({"task": "detection"}, "head 'softmax'"),
        ({"input": InputSpec(dtype="uint8")}, "scale must be 1"),
        ({"preprocessing": Preprocessing(fit="crop-centre", crop_from=31)}, "crop_from 31"),
        ({"cpu_fallback": "maybe"}, "maybe"),
        ({"allowed_providers": ()}, "allowed_providers"),
        ({"base_digest": "ABC"}, "no sha256"),
    ],
)
def test_a_contract_that_contradicts_itself_cannot_be_built(changes: dict[str, object], words: str) -> None:
    with pytest.raises(RejectedError, match=words) as caught:
        dataclasses.replace(tiny_contract(), **changes)  # type: ignore[arg-type]
    assert caught.value.reason == "bad_contract"


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.pop("classes"),
        lambda d: d.update(must_understand=["extra"], extra=1),
        lambda d: d["input"].update(must_understand=["depth"]),
        lambda d: d.update(format_version=3),
        lambda d: d.pop("format_version"),
        lambda d: d.update(classes="red"),
        lambda d: d.update(classes=[1, 2]),
        lambda d: d.update(name=None),
        lambda d: d["input"].update(height="32"),
        lambda d: d["input"].update(height=True),
        lambda d: d["preprocessing"].update(scale="x"),
        lambda d: d.update(outputs=[]),
    ],
)
def test_a_missing_mistyped_or_not_understood_key_is_refused(edit: object) -> None:
    document = json.loads(tiny_contract().to_json())
    edit(document)  # type: ignore[operator]
    with pytest.raises(RejectedError) as caught:
        ModelContract.from_json(json.dumps(document))
    assert caught.value.reason == "bad_contract"


@pytest.mark.parametrize("text", ["", "nul", "[" * 100_000, "{" * 10, "null", "3", '"' + "x" * 300_000 + '"'])
def test_text_that_is_no_contract_is_refused(text: str) -> None:
    with pytest.raises(RejectedError) as caught:
        ModelContract.from_json(text)
    assert caught.value.reason == "bad_contract"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda v: st.lists(v) | st.dictionaries(names, v)
    )
)
def test_any_json_is_refused_or_read_never_a_crash(value: object) -> None:
    with pytest.raises(RejectedError):
        ModelContract.from_json(json.dumps(value))


def test_two_contracts_in_one_file_are_refused() -> None:
    model = parse_model(tiny_model())
    model.metadata_props.add(key=METADATA_KEY, value=tiny_contract().to_json())
    with pytest.raises(RejectedError, match="2 contracts"):
        read_contract(model.SerializeToString())


def test_a_model_without_a_contract_says_so() -> None:
    with pytest.raises(RejectedError) as caught:
        read_contract(tiny_proto(tiny_contract()).SerializeToString())
    assert caught.value.reason == "no_contract"


def test_a_key_of_a_later_version_is_skipped_unless_it_must_be_understood() -> None:
    document = {**json.loads(tiny_contract().to_json()), "licence": "MIT", "must_understand": ["classes"]}
    document["input"]["colour_space"] = "sRGB"
    assert ModelContract.from_json(json.dumps(document)) == tiny_contract()


def test_what_version_1_can_say_is_written_in_it_so_that_older_vehicles_read_it() -> None:
    document = json.loads(tiny_contract().to_json())
    assert document["format_version"] == 1
    assert set(document["input"]) == {"name", "channels", "height", "width"}
    later = dataclasses.replace(tiny_contract(), preprocessing=Preprocessing(fit="letterbox-centre"))
    assert json.loads(later.to_json())["format_version"] == 2
    assert ModelContract.from_json(later.to_json()) == later


VERSION_1 = """{"allowed_providers": ["CPUExecutionProvider"], "base_digest": "", "classes": ["red", "green"],
"cpu_fallback": "allow", "created_by": "fleetloop train", "format_version": 1, "input": {"channels": 3, "height": 32,
"name": "image", "width": 48}, "name": "lights-v1", "operator_domains": [], "outputs": {"embedding": "embedding",
"embedding_size": 8, "logits": "logits"}, "preprocessing": {"color": "RGB", "mean": [0.5, 0.5, 0.5], "resize": "bilinear",
"scale": 0.00392156862745098, "std": [0.25, 0.25, 0.25]}, "target": "cpu", "trained_classes": ["red"],
"training_drives_digest": "", "untrained_conditions": ["dark"]}"""
"""As the first released version wrote it."""


def test_a_contract_of_version_1_is_read_as_classification() -> None:
    contract = ModelContract.from_json(VERSION_1)
    assert (contract.task, contract.head.kind, contract.embedding_size) == ("classification", "softmax", 8)
    assert dict(contract.outputs) == {"logits": "logits", "embedding": "embedding"}
    assert contract.input == InputSpec("image", 3, 32, 48)
    assert json.loads(contract.to_json()) == json.loads(VERSION_1)

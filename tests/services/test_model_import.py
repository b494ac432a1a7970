"""Models as exporters write them: right at their first picture, or refused in words that name the thing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from foundation.errors import FleetLoopError, MisconfiguredError, RejectedError
from modelkit.contract import ModelContract
from modelkit.images import decode_image
from modelkit.runtimes import open_predictor
from services.foreign_contract import ImportRequest
from services.model_import import ImportedModel, import_model, read_model
from workspace.layout import Workspace

CLASSES = ("red", "green", "blue")
ORANGE = (200, 100, 50)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "fleetloop.toml").write_text('name = "test fleet"\n')
    return Workspace.open(tmp_path / "ws")


@pytest.fixture
def orange(tmp_path: Path) -> Path:
    path = tmp_path / "orange.png"
    Image.new("RGB", (48, 32), ORANGE).save(path)
    return path


def mean_colour(
    *,
    batch: int | str = "n",
    size: tuple[int | str, int | str] = (16, 16),
    dtype: int = TensorProto.FLOAT,
    nhwc: bool = False,
    opset: int = 17,
    ir: int = 8,
    more: tuple[onnx.NodeProto, ...] = (),
    extra_inputs: tuple[onnx.ValueInfoProto, ...] = (),
    after: str = "",
) -> onnx.ModelProto:
    """Gives the mean of each channel of its input: what comes out says how the picture was handed over."""
    shape = [batch, *size, 3] if nhwc else [batch, 3, *size]
    nodes = [helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT)]
    if nhwc:
        nodes.append(helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2]))
    nodes += [
        helper.make_node("GlobalAveragePool", ["planes" if nhwc else "x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("Mul", ["flat", "one"], ["weighed"]),
        *(more or (helper.make_node(after or "Identity", ["weighed"], ["scores"]),)),
    ]
    weights = [numpy_helper.from_array(np.ones((1, 3), np.float32), "one")]
    inputs = [helper.make_tensor_value_info("image", dtype, shape), *extra_inputs]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    domains = {node.domain for node in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def put(folder: Path, model: onnx.ModelProto, name: str = "m.onnx") -> Path:
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


def request(file: Path, **more: object) -> ImportRequest:
    values = {"head": "sigmoid-inside", "values": "0-1", "color": "rgb", "fit": "stretch", **more}
    return ImportRequest(file, CLASSES, "mine", **values)  # type: ignore[arg-type]


def scores(place: Workspace, found: ImportedModel, picture: Path) -> list[float]:
    (prediction,) = open_predictor(read_model(place, found.name)).predict(
        [decode_image(picture.read_bytes())]
    )
    return [round(value, 3) for value in prediction.output.probabilities]


SHAPES = {
    "plain": ({}, {}),
    "batch of one": ({"batch": 1}, {}),
    "batch of eight": ({"batch": 8}, {}),
    "free size": ({"size": ("height", "width")}, {"size": (16, 16)}),
    "float16": ({"dtype": TensorProto.FLOAT16}, {}),
    "channels last": ({"nhwc": True}, {}),
    "opset 8": ({"opset": 8, "ir": 4}, {}),
    "opset 11": ({"opset": 11, "ir": 6}, {}),
    "opset 26": ({"opset": 26, "ir": 13}, {}),
    "blue first": ({}, {"color": "bgr"}),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_common_export_is_taken_and_sees_the_picture_as_it_is(
    place: Workspace, tmp_path: Path, orange: Path, kind: str
) -> None:
    form, said = SHAPES[kind]
    found = import_model(place, request(put(tmp_path, mean_colour(**form)), **said), orange)
    wanted = [0.784, 0.392, 0.196]
    assert scores(place, found, orange) == pytest.approx(
        wanted[::-1] if kind == "blue first" else wanted, abs=2e-3
    )
    assert found.seen[0][0] == "orange.png" and found.seen[0][1].startswith(("red (0.78)", "blue (0.78)"))
    assert found.path.is_file() and found.contract.embedding_size == 0


def test_what_was_not_said_is_taken_and_told(place: Workspace, tmp_path: Path, orange: Path) -> None:
    file = put(tmp_path, mean_colour(dtype=TensorProto.UINT8, batch=4))
    found = import_model(place, ImportRequest(file, CLASSES, "mine"), orange)
    told = " ".join(found.taken)
    for words in ("RGB", "stretched", "softmax", "a batch of 4"):
        assert words in told
    assert "values" not in told and found.contract.preprocessing.scale == 1.0


def test_an_activation_that_is_in_the_file_already_is_warned_of(place: Workspace, tmp_path: Path) -> None:
    found = import_model(place, request(put(tmp_path, mean_colour(after="Softmax")), head="softmax"))
    assert any("Softmax already" in warning for warning in found.warnings)


def test_weights_beside_the_model_are_packed_in(place: Workspace, tmp_path: Path, orange: Path) -> None:
    onnx.save(
        mean_colour(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    found = import_model(place, request(tmp_path / "m.onnx"), orange)
    (tmp_path / "w.bin").unlink()
    assert scores(place, found, orange) == pytest.approx([0.784, 0.392, 0.196], abs=1e-3)
    assert any("w.bin" in line for line in found.taken)


def external(name: str) -> onnx.ModelProto:
    model = mean_colour()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return model


def noise() -> onnx.ModelProto:
    drawn = helper.make_node("RandomNormalLike", ["weighed"], ["drawn"], name="chance")
    return mean_colour(more=(drawn, helper.make_node("Mul", ["weighed", "drawn"], ["scores"])))


def mixed() -> onnx.ModelProto:
    mean = helper.make_node("ReduceMean", ["weighed"], ["all"], axes=[0], keepdims=1)
    return mean_colour(more=(mean, helper.make_node("Sub", ["weighed", "all"], ["scores"])))


def quantised(scale: float) -> onnx.ModelProto:
    steps = (
        helper.make_node("QuantizeLinear", ["weighed", "step"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step"], ["scores"]),
    )
    model = mean_colour(more=steps)
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), "step"))
    return model


REFUSED = {
    "weights missing": (external("gone.bin"), {}, MisconfiguredError, "gone.bin"),
    "weights above": (external("../w.bin"), {}, RejectedError, r"\.\./w\.bin.*outside of the model's folder"),
    "weights absolute": (external("/models/w.bin"), {}, RejectedError, "an absolute path"),
    "custom operator": (
        mean_colour(more=(helper.make_node("Sharpen", ["weighed"], ["scores"], domain="acme.vision"),)),
        {},
        RejectedError,
        "acme.vision:Sharpen",
    ),
    "newer opset": (mean_colour(opset=99), {}, RejectedError, r"opset \[99\]"),
    "a second input": (
        mean_colour(extra_inputs=(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]),)),
        {},
        MisconfiguredError,
        "'scale'.*--size-input",
    ),
    "free size": (mean_colour(size=("h", "w")), {}, MisconfiguredError, "--size WIDTHxHEIGHT"),
    "another size": (mean_colour(), {"size": (20, 16)}, MisconfiguredError, "--size is 20 x 16"),
    "grey": (mean_colour(batch=1, size=(16, 16), nhwc=True), {"layout": "nchw"}, FleetLoopError, "16"),
    "by chance": (noise(), {}, RejectedError, "RandomNormalLike 'chance'"),
    "no probability": (
        mean_colour(),
        {"head": "sigmoid-inside", "values": "0-255"},
        RejectedError,
        "no probability",
    ),
    "scale of zero": (quantised(0.0), {}, RejectedError, "the scale step of the activation weighed is 0"),
    "scale that is no number": (quantised(float("nan")), {}, RejectedError, "scale step.*NaN"),
    "unknown head": (mean_colour(), {"head": "centernet"}, RejectedError, "head 'centernet'"),
    "too large": (mean_colour(), {"max_bytes": 100}, RejectedError, "the limit is 100"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_served_is_refused_by_name_and_nothing_is_registered(
    place: Workspace, tmp_path: Path, orange: Path, kind: str
) -> None:
    model, said, error, words = REFUSED[kind]
    with pytest.raises(error, match=words):
        import_model(place, request(put(tmp_path, model), **said), orange)
    assert not (place.models_path / "mine").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "a page"),
        (b"PK\x03\x04archive", "torch.onnx.export"),
        (mean_colour().SerializeToString()[:60], "m.onnx is cut short or no ONNX file"),
        (b"", "empty"),
    ],
    ids=["lfs", "page", "zip", "cut", "empty"],
)
def test_a_file_that_is_no_model_is_named_as_what_it_is(
    place: Workspace, tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(RejectedError, match=words):
        import_model(place, request(tmp_path / "m.onnx"))


def test_too_few_classes_are_refused_with_both_numbers(place: Workspace, tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match=r"\(3,\) per picture, the contract has 2 classes") as caught:
        import_model(place, ImportRequest(put(tmp_path, mean_colour()), ("a", "b"), "mine"))
    assert caught.value.reason == "wrong_classes"


def test_a_model_that_mixes_the_pictures_of_a_batch_is_run_one_by_one(
    place: Workspace, tmp_path: Path, orange: Path
) -> None:
    found = import_model(place, request(put(tmp_path, mixed()), head="softmax"), orange)
    assert found.contract.input.batch == 1 and any("batch 1 is used" in warning for warning in found.warnings)


def test_another_model_never_takes_a_name_that_is_taken(
    place: Workspace, tmp_path: Path, orange: Path
) -> None:
    first = import_model(place, request(put(tmp_path, mean_colour())), orange)
    assert import_model(place, request(put(tmp_path, mean_colour())), orange).digest == first.digest
    with pytest.raises(RejectedError, match="another model is registered as 'mine'"):
        import_model(place, request(put(tmp_path, mean_colour(opset=18))), orange)


def detector() -> onnx.ModelProto:
    """Two fixed boxes, in two outputs whose shapes tell nothing."""
    return constants_of(
        {
            "found": np.array([[[4, 2, 12, 8], [0, 0, 6, 6]]], np.float32),
            "first": np.array([[0.9, 0.6]], np.float32),
            "second": np.array([[1, 0]], np.float32),
        }
    )


def constants_of(constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model that gives the same for every picture."""
    nodes = [helper.make_node("ReduceMean", ["image"], ["zero"], axes=[1, 2, 3], keepdims=0)]
    nodes += [helper.make_node("Mul", ["zero", "nothing"], ["none"])]
    nodes += [helper.make_node("Add", [f"{name}_", "none"], [name]) for name in constants]
    weights = [numpy_helper.from_array(values, f"{name}_") for name, values in constants.items()]
    weights.append(numpy_helper.from_array(np.zeros(1, np.float32), "nothing"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape)
            for name, values in constants.items()
        ],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("first", [0, 1])
def test_a_transformers_no_object_is_left_out_after_softmax_over_all(
    place: Workspace, tmp_path: Path, orange: Path, first: int
) -> None:
    logits = np.array([[[3.0, 0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0, 5.0]]], np.float32).reshape(1, 2, 4)
    boxes = np.array([[[0.5, 0.5, 0.5, 0.25], [0.5, 0.5, 1.0, 1.0]]], np.float32)
    model = constants_of({"logits": np.roll(logits, first, axis=2), "pred_boxes": boxes})
    said = {"task": "detection", "head": "detr-softmax", "boxes": "cxcywh-norm", "first_class": first}
    found = import_model(place, request(put(tmp_path, model), **said), orange)
    assert found.seen == (("orange.png", "red 0.81 at 12,12 to 36,20"),)
    assert any("no-object" in line for line in found.taken) == (first == 0)


def test_a_detector_gives_its_boxes_on_the_picture_and_asks_what_its_outputs_are(
    place: Workspace, tmp_path: Path, orange: Path
) -> None:
    file = put(tmp_path, detector())
    said = {"task": "detection", "head": "parts", "boxes": "xyxy-px"}
    with pytest.raises(MisconfiguredError, match=r"which output is the boxes.*'first'.*'second'"):
        import_model(place, request(file, **said), orange)
    roles = {"boxes": "found", "scores": "first", "classes": "second"}
    found = import_model(place, request(file, **said, outputs=roles), orange)
    assert found.seen == (("orange.png", "green 0.90 at 12,4 to 36,16; red 0.60 at 0,0 to 18,12"),)
    with pytest.raises(MisconfiguredError, match="--head: yolo-anchor-free"):
        import_model(place, request(file, task="detection", head=""), orange)


def with_extras() -> onnx.ModelProto:
    """The mean colour times a number that the vehicle always gives, plus the scale of the picture's height."""
    steps = (
        helper.make_node("Gather", ["scale", "row"], ["high"], axis=1),
        helper.make_node("Mul", ["weighed", "gain"], ["gained"]),
        helper.make_node("Mul", ["high", "flag"], ["added"]),
        helper.make_node("Sub", ["gained", "added"], ["scores"]),
    )
    inputs = (
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, ["n", 2]),
        helper.make_tensor_value_info("gain", TensorProto.FLOAT, ["k"]),
        helper.make_tensor_value_info("flag", TensorProto.FLOAT, []),
    )
    model = mean_colour(more=steps, extra_inputs=inputs)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "row"))
    return model


def test_a_model_gets_its_constants_and_the_scale_of_each_picture_by_name(
    place: Workspace, tmp_path: Path, orange: Path
) -> None:
    file = put(tmp_path, with_extras())
    said = {"constants": {"gain": (0.5,), "flag": (0.1,)}, "scale_input": "scale"}
    found = import_model(place, request(file, **said), orange)
    # 48 x 32 pixels into 16 x 16: the height is halved
    wanted = [value * 0.5 - 0.5 * 0.1 for value in (0.784, 0.392, 0.196)]
    assert scores(place, found, orange) == pytest.approx(wanted, abs=2e-3)
    document = json.loads(found.contract.to_json())
    assert document["must_understand"] == ["extra_inputs"]
    assert ModelContract.from_json(found.contract.to_json()) == found.contract
    two = [decode_image(orange.read_bytes()), np.full((16, 16, 3), 255, np.uint8)]
    both = open_predictor(read_model(place, "mine")).predict(two)
    assert both[1].output.probabilities == pytest.approx([0.4] * 3, abs=2e-3), (
        "each picture has its own scale"
    )


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, r"the input 'scale' \(float32, free x 2\) besides the picture.*--scale-input.*--constant"),
        (
            {"scale_input": "scale", "constants": {"gain": (0.5,), "flag": (1.0, 2.0)}},
            "--constant flag has 2 numbers, the input is 'flag' .*a single number",
        ),
        ({"scale_input": "zoom"}, "there is no input 'zoom'"),
        (
            {"scale_input": "scale", "constants": {"gain": (float("nan"),), "flag": (1.0,)}},
            "extra input 'gain' is nan, which is no float32",
        ),
        (
            {"scale_input": "gain", "constants": {"scale": (1.0, 2.0), "flag": (1.0,)}},
            r"'gain' has shape \(-1,\)",
        ),
        (
            {"scale_input": "scale", "constants": {"gain": (0.5, 0.5), "flag": (1.0,)}},
            "failed",
        ),
    ],
)
def test_an_input_that_nobody_explained_or_numbers_that_do_not_fit_it_are_refused(
    place: Workspace, tmp_path: Path, orange: Path, said: dict[str, object], words: str
) -> None:
    with pytest.raises(FleetLoopError, match=words):
        import_model(place, request(put(tmp_path, with_extras()), **said), orange)
    assert not (place.models_path / "mine").exists()


def test_a_size_that_the_file_only_happens_to_have_is_replaced_when_asked(
    place: Workspace, tmp_path: Path, orange: Path
) -> None:
    file = put(tmp_path, mean_colour(batch=10, size=(8, 8)))
    with pytest.raises(MisconfiguredError, match="--any-size needs the size"):
        import_model(place, request(file, any_size=True), orange)
    found = import_model(place, request(file, any_size=True, size=(24, 16)), orange)
    spec = found.contract.input
    assert (spec.width, spec.height, spec.batch) == (24, 16, 1)
    assert scores(place, found, orange) == pytest.approx([0.784, 0.392, 0.196], abs=2e-3)
    nhwc = put(tmp_path, mean_colour(batch=10, size=(8, 8), nhwc=True), "last.onnx")
    asked = dataclasses.replace(request(nhwc, any_size=True, size=(24, 16)), name="last")
    last = import_model(place, asked, orange)
    assert (last.contract.input.layout, last.contract.input.width) == ("NHWC", 24)

"""Published models run on the vehicle's code as their authors run them.

Each model is imported as a user would, and its answers on real pictures are compared with a reading of its published
post-processing that is written out here, from resizing to suppression, and shares no code with the product. Models and
pictures lie outside of this repository.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from modelkit.images import decode_image
from modelkit.runtimes import open_predictor
from schemas.predictions import ClassificationOutput, DetectionOutput
from services.foreign_contract import ImportRequest
from services.model_import import ImportedModel, import_model, read_model
from tests.pipelines.curate_lake import make_workspace
from workspace.layout import Workspace

DATA = Path(os.environ.get("FLEETLOOP_DATA", Path(__file__).parents[3] / "shared" / "data"))
MODELS = DATA / "models"
FACES, STREETS = DATA / "faces_crowd" / "data.parquet", DATA / "kitti_object_tiny" / "data.parquet"
EYES = ("closed", "open")
"""The order of its output: its data sheet says the other, but its authors' demo and open eyes say this."""
Array = NDArray[Any]
Found = list[tuple[int, float, tuple[float, float, float, float]]]
"""Class number, score, edges in pixels of the picture."""

needs_models = pytest.mark.skipif(
    not MODELS.is_dir() or not FACES.is_file() or not STREETS.is_file(),
    reason=f"needs the models and pictures of {DATA}",
)
pytestmark = [needs_models, pytest.mark.slow]


def pictures_of(file: Path, count: int) -> list[Array]:
    """Every n-th picture of a data set, RGB."""
    column = pq.read_table(file, columns=["jpeg"])["jpeg"]
    step = len(column) // count
    return [np.asarray(Image.open(io.BytesIO(column[i * step].as_py())).convert("RGB")) for i in range(count)]


def bilinear(picture: Array, width: int, height: int) -> Array:
    """What OpenCV's resize gives with INTER_LINEAR: two pixels per axis, half-pixel centres."""
    source = picture.astype(np.float64)
    for axis, size in ((0, height), (1, width)):
        old = source.shape[axis]
        x = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        left = np.minimum(x.astype(int), old - 2)
        part = (x - left).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        source = source.take(left, axis) * (1 - part) + source.take(left + 1, axis) * part
    return np.rint(source).astype(np.uint8)


def greedy(found: Found, most: float) -> Found:
    """Keep the best box, drop what overlaps it too much, and so on, within each class."""
    kept: Found = []
    for each in sorted(found, key=lambda one: -one[1]):
        if all(each[0] != other[0] or intersection(each[2], other[2]) <= most for other in kept):
            kept.append(each)
    return kept


def intersection(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return intersection over union of two boxes."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high
    return wide * high / union


def run(file: Path, batch: Array, *, resize: bool = False) -> dict[str, Array]:
    """Run the file itself, without our contract; `resize` declares the shape of this batch instead of the file's."""
    model = onnx.load(file)
    if resize:
        for value, shape in [(model.graph.input[0], batch.shape)]:
            for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
                dim.dim_value = size
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
    import onnxruntime  # after the product said that it is to send nothing

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: batch}), strict=True))


def planes(picture: Array, *, bgr: bool) -> Array:
    """A batch of one, pixels of 0 to 255 as they are."""
    ordered = picture[..., ::-1] if bgr else picture
    return np.ascontiguousarray(ordered.transpose(2, 0, 1)[None]).astype(np.float32)


def read_yolox(picture: Array) -> Found:
    """YOLOX: letterbox from the top left with grey 114, BGR; grid and strides; score = object * class."""
    ratio = min(416 / picture.shape[0], 416 / picture.shape[1])
    width, height = round(picture.shape[1] * ratio), round(picture.shape[0] * ratio)
    canvas = np.full((416, 416, 3), 114, np.uint8)
    canvas[:height, :width] = bilinear(picture, width, height)
    (rows,) = run(MODELS / "yolox_nano/yolox_nano.onnx", planes(canvas, bgr=True))["output"]
    found, at = [], 0
    for stride in (8, 16, 32):
        for y in range(416 // stride):
            for x in range(416 // stride):
                row = rows[at]
                at += 1
                number = int(row[5:].argmax())
                score = float(row[4] * row[5 + number])
                if score > 0.3:
                    middle = ((row[0] + x) * stride, (row[1] + y) * stride)
                    half = (np.exp(row[2]) * stride / 2, np.exp(row[3]) * stride / 2)
                    found.append((number, score, edges(middle, half, ratio)))
    assert at == len(rows)
    return greedy(found, 0.45)


def edges(middle: Any, half: Any, ratio: float = 1.0) -> tuple[float, float, float, float]:
    """Return edges divided by the ratio of a letterbox."""
    return (
        float(middle[0] - half[0]) / ratio, float(middle[1] - half[1]) / ratio,
        float(middle[0] + half[0]) / ratio, float(middle[1] + half[1]) / ratio,
    )  # fmt: skip


def read_centerface(picture: Array) -> Found:
    """CenterFace: RGB at a multiple of 32; exp(scale) * 4, (cell + offset + 0.5) * 4; y before x; suppression at 0.3."""
    width, height = 640, 448
    batch = planes(bilinear(picture, width, height), bgr=False)
    raw = run(MODELS / "centerface/centerface.onnx", batch, resize=True)
    heat, scale, offset = raw["537"][0, 0], raw["538"][0], raw["539"][0]
    found = []
    for y, x in zip(*np.where(heat > 0.5), strict=True):
        middle = ((x + offset[1, y, x] + 0.5) * 4, (y + offset[0, y, x] + 0.5) * 4)
        half = (np.exp(scale[1, y, x]) * 2, np.exp(scale[0, y, x]) * 2)
        left, top, right, bottom = edges(middle, half)
        across, down = picture.shape[1] / width, picture.shape[0] / height
        found.append((0, float(heat[y, x]), (left * across, top * down, right * across, bottom * down)))
    return greedy(found, 0.3)


def read_yunet(picture: Array) -> Found:
    """YuNet of 2023 and later: sqrt(cls * obj); centre = (cell + offset) * stride, size = exp(log size) * stride."""
    width, height = 640, 448
    raw = run(
        MODELS / "yunet_2026may/face_detection_yunet_2026may.onnx",
        planes(bilinear(picture, width, height), bgr=True),
    )
    found = []
    for stride in (8, 16, 32):
        columns = width // stride
        for cell, (cls, obj, box) in enumerate(
            zip(*(raw[f"{name}_{stride}"][0] for name in ("cls", "obj", "bbox")), strict=True)
        ):
            score = float(np.sqrt(min(max(cls[0], 0), 1) * min(max(obj[0], 0), 1)))
            if score > 0.6:
                middle = ((cell % columns + box[0]) * stride, (cell // columns + box[1]) * stride)
                half = (np.exp(box[2]) * stride / 2, np.exp(box[3]) * stride / 2)
                left, top, right, bottom = edges(middle, half)
                across, down = picture.shape[1] / width, picture.shape[0] / height
                found.append((0, score, (left * across, top * down, right * across, bottom * down)))
    return greedy(found, 0.3)


def read_yunet_2021(picture: Array) -> Found:
    """YuNet of 2021 (libfacedetection): priors, variances 0.1 and 0.2 for width and height, sqrt(conf * iou)."""
    width, height = 160, 120
    raw = run(
        MODELS / "yunet/face_detection_yunet_120x160.onnx", planes(bilinear(picture, width, height), bgr=True)
    )
    sizes = {8: (10, 16, 24), 16: (32, 48), 32: (64, 96), 64: (128, 192, 256)}
    found, at = [], 0
    for stride, sides in sizes.items():
        for y in range(height // stride):
            for x in range(width // stride):
                for side in sides:
                    loc, conf, iou = raw["loc"][at], raw["conf"][at], raw["iou"][at]
                    at += 1
                    score = float(np.sqrt(conf[1] * min(max(iou[0], 0.0), 1.0)))
                    if score > 0.6:
                        middle = (
                            (x + 0.5) * stride + loc[0] * 0.1 * side, (y + 0.5) * stride + loc[1] * 0.1 * side,
                        )  # fmt: skip
                        half = (side * np.exp(loc[2] * 0.1) / 2, side * np.exp(loc[3] * 0.2) / 2)
                        left, top, right, bottom = edges(middle, half)
                        across, down = picture.shape[1] / width, picture.shape[0] / height
                        found.append((0, score, (left * across, top * down, right * across, bottom * down)))
    assert at == len(raw["loc"])
    return greedy(found, 0.3)


@dataclass(frozen=True)
class Detector:
    """How a user imports it, the pictures it is shown, and the least boxes that all of them must have.

    `pixels` is how far an edge may be: YOLOX divides by the ratio of the letterbox before its sides are whole pixels.
    """

    request: Callable[[Path], ImportRequest]
    read: Callable[[Array], Found]
    pictures: Callable[[], list[Array]]
    least: int
    pixels: float = 0.05


def request_of(file: str, **more: Any) -> Callable[[Path], ImportRequest]:
    values = {"classes": ("face",), "name": "published", "task": "detection", "resample": "two-point"}
    return lambda folder: ImportRequest(
        file=folder / file, **{"values": "0-255", "fit": "stretch", **values, **more}
    )


def close_faces() -> list[Array]:
    """The middles of photographs, where a face is large enough for a network of 160 x 120 pixels."""
    table = pq.read_table(FACES).to_pylist()
    found = []
    for row in table:
        picture = np.asarray(Image.open(io.BytesIO(row["jpeg"])).convert("RGB"))
        for box in row["boxes"]:
            side = max(box["x2"] - box["x1"], box["y2"] - box["y1"])
            x, y = (box["x1"] + box["x2"]) / 2, (box["y1"] + box["y2"]) / 2
            left, top = int(x - side * 1.6), int(y - side * 1.2)
            right, bottom = int(x + side * 1.6), int(y + side * 1.2)
            if side > 60 and left >= 0 and top >= 0 and right < row["width"] and bottom < row["height"]:
                found.append(picture[top:bottom, left:right])
    return found[:8]


DETECTORS = {
    "yolox": Detector(
        request_of(
            "yolox_nano/yolox_nano.onnx", classes=tuple(f"c{i}" for i in range(80)), head="yolox-grid",
            color="bgr", fit="letterbox-topleft", min_score=0.3, max_overlap=0.45,
        ),
        read_yolox,
        lambda: pictures_of(STREETS, 8),
        15,
        pixels=1.2,
    ),
    "centerface": Detector(
        request_of(
            "centerface/centerface.onnx", head="centerface", color="rgb", size=(640, 448), any_size=True,
            outputs={"heatmap": "537", "scale": "538", "offset": "539"}, min_score=0.5, max_overlap=0.3,
        ),
        read_centerface,
        lambda: pictures_of(FACES, 8),
        20,
    ),
    "yunet 2026": Detector(
        request_of(
            "yunet_2026may/face_detection_yunet_2026may.onnx", head="yunet", color="bgr", size=(640, 448),
            min_score=0.6, max_overlap=0.3,
        ),
        read_yunet,
        lambda: pictures_of(FACES, 8),
        20,
    ),
    "yunet 2021": Detector(
        request_of(
            "yunet/face_detection_yunet_120x160.onnx", head="ssd-priors", color="bgr", first_class=1,
            strides=(8, 16, 32, 64), variances=(0.1, 0.1, 0.1, 0.2), min_score=0.6, max_overlap=0.3,
            priors=tuple(
                tuple((float(side), float(side)) for side in sides)
                for sides in ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
            ),
        ),
        read_yunet_2021,
        close_faces,
        4,
    ),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws", [])


def imported(place: Workspace, request: ImportRequest, pictures: list[Array]) -> ImportedModel:
    folder = place.root / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return import_model(place, request, folder)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_published_detector_sees_what_its_publication_says(name: str, place: Workspace) -> None:
    detector = DETECTORS[name]
    pictures = detector.pictures()
    found = imported(place, detector.request(MODELS), pictures)
    assert not any("no answer" in told for _, told in found.seen)
    predictor = open_predictor(read_model(place, "published"))
    boxes = 0
    for picture in pictures:
        (answer,) = predictor.predict([picture])
        assert isinstance(answer.output, DetectionOutput)
        wanted = detector.read(picture)
        boxes += len(wanted)
        assert len(answer.output.boxes) == len(wanted)
        size = np.array([picture.shape[1], picture.shape[0]] * 2)
        for box, (number, score, place_) in zip(answer.output.boxes, wanted, strict=True):
            assert box.class_name == found.contract.classes[number]
            assert box.score == pytest.approx(score, abs=2e-3)
            ours = (box.left, box.top, box.right, box.bottom)
            assert ours == pytest.approx(tuple(np.clip(place_, 0, size)), abs=detector.pixels)
    assert boxes >= detector.least


def test_the_published_classifier_gives_the_softmax_of_its_logits_and_its_embedding(place: Workspace) -> None:
    file = MODELS / "efficientnet_lite0/efficientnet_lite0_embed_logits.onnx"
    names = tuple(f"imagenet-{number}" for number in range(1000))
    request = ImportRequest(
        file, names, "published", values="imagenet", color="rgb", fit="crop-centre", crop_from=256,
        resample="two-point",
    )  # fmt: skip
    pictures = pictures_of(STREETS, 6)
    imported(place, request, pictures)
    predictor = open_predictor(read_model(place, "published"))
    for picture in pictures:
        (answer,) = predictor.predict([picture])
        height, width = picture.shape[:2]
        scale = 256 / min(height, width)
        small = bilinear(picture, round(width * scale), round(height * scale))
        top, left = (small.shape[0] - 224) // 2, -((224 - small.shape[1]) // 2)
        cut = small[top : top + 224, left : left + 224] / 255.0
        batch = ((cut - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)[None]
        raw = run(file, batch.astype(np.float32))
        logits = raw["logits"][0].astype(np.float64)
        shares = np.exp(logits) / np.exp(logits).sum()
        assert isinstance(answer.output, ClassificationOutput)
        assert answer.output.class_name == names[int(np.argmax(shares))]
        assert answer.output.probabilities == pytest.approx(tuple(shares), abs=2e-3)
        assert np.allclose(answer.embedding, raw["embedding"][0], atol=0.02)


def eyes() -> list[Array]:
    """Squares of 0.36 face widths where the eyes of upright faces are."""
    found = []
    for face in close_faces():
        height, width = face.shape[:2]
        side = int(width / 3.2 * 0.4)
        for x in (0.43, 0.57):
            left, top = int(width * x - side / 2), int(height * 0.43 - side / 2)
            found.append(face[top : top + side, left : left + side])
    return found


def test_the_published_eye_classifier_gives_its_two_probabilities(place: Workspace) -> None:
    file = MODELS / "omz_dms/open-closed-eye.onnx"
    request = ImportRequest(
        file, EYES, "published", head="probabilities", color="bgr", fit="stretch",
        mean=(127 / 255,) * 3, std=(1.0,) * 3, resample="two-point",
    )  # fmt: skip
    pictures = eyes()
    imported(place, request, pictures)
    predictor = open_predictor(read_model(place, "published"))
    answers = []
    for picture in pictures:
        (answer,) = predictor.predict([picture])
        batch = (planes(bilinear(picture, 32, 32), bgr=True) - 127.0) / 255.0
        shares = run(file, batch.astype(np.float32))["19"].reshape(2)
        assert isinstance(answer.output, ClassificationOutput)
        assert answer.output.probabilities == pytest.approx(tuple(shares), abs=2e-3)
        assert answer.output.class_name == EYES[int(np.argmax(shares))]
        answers.append(answer.output.class_name)
    assert answers.count("open") > len(answers) / 2


def test_decoding_from_bytes_and_from_pixels_is_one_path(place: Workspace) -> None:
    """The picture that a vehicle decodes gives the answer that the import showed."""
    found = imported(place, DETECTORS["yunet 2026"].request(MODELS), pictures_of(FACES, 1))
    predictor = open_predictor(read_model(place, "published"))
    payload = (place.root / "pictures" / "0.png").read_bytes()
    (answer,) = predictor.predict([decode_image(payload)])
    assert found.seen == (("0.png", predictor.task.describe(answer.output)),)


def test_the_published_lane_and_road_segmenter_paints_what_its_publication_paints(place: Workspace) -> None:
    """TwinLiteNet: RGB at 640 x 360, 0 to 1; of each of two maps the larger channel; lanes over the drivable area."""
    file = MODELS / "twinlitenet/twinlitenet_bdd100k.onnx"
    request = ImportRequest(
        file, ("background", "drivable", "lane"), "published", task="segmentation", head="mask-layers",
        outputs={"drivable": "da", "lane": "ll"}, values="0-1", color="rgb", fit="stretch", resample="two-point",
    )  # fmt: skip
    pictures = pictures_of(STREETS, 4)
    found = imported(place, request, pictures)
    predictor = open_predictor(read_model(place, "published"))
    painted = np.zeros(3)
    for picture in pictures:
        (answer,) = predictor.predict([picture])
        raw = run(file, planes(bilinear(picture, 640, 360), bgr=False) / np.float32(255))
        area, lane = raw["da"][0].argmax(0) == 1, raw["ll"][0].argmax(0) == 1
        wanted = np.where(lane, 2, np.where(area, 1, 0))
        assert answer.output.mask.cells.shape == (360, 640)
        assert (answer.output.mask.cells == wanted).mean() > 0.9995
        assert 0.0 < answer.scores["entropy"] < 0.5
        painted += np.bincount(wanted.reshape(-1), minlength=3) / wanted.size / len(pictures)
    assert painted[1] > 0.05 and painted[2] > 0
    assert "drivable" in found.seen[0][1]


def test_a_published_backbone_is_an_embedder_whose_vectors_have_length_1(place: Workspace) -> None:
    file = MODELS / "efficientnet_lite0/efficientnet_lite0_embed_logits.onnx"
    request = ImportRequest(
        file, (), "published", task="embedding", values="imagenet", color="rgb", fit="stretch",
        resample="two-point",
    )  # fmt: skip
    pictures = [*pictures_of(STREETS, 3), *pictures_of(FACES, 3)]
    imported(place, request, pictures)
    predictor = open_predictor(read_model(place, "published"))
    vectors = []
    for picture in pictures:
        (answer,) = predictor.predict([picture])
        batch = (bilinear(picture, 224, 224) / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        raw = run(file, batch.transpose(2, 0, 1)[None].astype(np.float32))["embedding"][0]
        assert np.allclose(answer.output, raw / np.sqrt((raw**2).sum()), atol=1e-3)
        vectors.append(answer.output)
    alike = np.array(vectors) @ np.array(vectors).T
    assert alike[:3, :3][np.triu_indices(3, 1)].min() > alike[:3, 3:].max(), "streets are near streets"


def test_published_head_angles_and_landmarks_come_out_by_name(place: Workspace, tmp_path: Path) -> None:
    """Open Model Zoo: BGR, 0 to 255; angles in degrees, an output each; landmarks x, y of 0 to 1 in one output."""
    faces = [face[int(f * 0.13) : int(f * 0.87), int(w * 0.2) : int(w * 0.8)]
             for face in close_faces() for f, w in [face.shape[:2]]]  # fmt: skip
    file = MODELS / "omz_dms/head-pose-estimation-adas-0001.onnx"
    names = {"yaw": "out_angle_y_fc", "pitch": "out_angle_p_fc", "roll": "out_angle_r_fc"}
    common = {
        "task": "regression",
        "values": "0-255",
        "color": "bgr",
        "fit": "stretch",
        "resample": "two-point",
    }
    request = ImportRequest(file, tuple(names), "published", head="values-each", outputs=names, **common)  # type: ignore[arg-type]
    imported(place, request, faces)
    predictor = open_predictor(read_model(place, "published"))
    for face in faces:
        (answer,) = predictor.predict([face])
        raw = run(file, planes(bilinear(face, 60, 60), bgr=True))
        assert answer.output.names == tuple(names)
        assert answer.output.values == pytest.approx(
            [float(raw[name].squeeze()) for name in names.values()], abs=0.05
        )
        assert max(map(abs, answer.output.values)) < 90
    file = MODELS / "omz_dms/landmarks-regression-retail-0009.onnx"
    points = tuple(
        f"{point}_{axis}" for point in ("eye1", "eye2", "nose", "mouth1", "mouth2") for axis in "xy"
    )
    other = make_workspace(tmp_path / "other", [])
    imported(other, ImportRequest(file, points, "points", head="values", **common), faces)  # type: ignore[arg-type]
    predictor = open_predictor(read_model(other, "points"))
    for face in faces:
        (answer,) = predictor.predict([face])
        raw = run(file, planes(bilinear(face, 48, 48), bgr=True))
        (values,) = raw.values()
        assert answer.output.values == pytest.approx(values.reshape(10), abs=2e-3)
        at = dict(zip(points, answer.output.values, strict=True))
        assert max(at["eye1_y"], at["eye2_y"]) < min(at["mouth1_y"], at["mouth2_y"])

"""What a newcomer brings: two folders of pictures in every odd form, labels from two tools, a model from elsewhere.

A cone is an orange triangle and a sign a blue square, on noise, so that no two pictures are near-duplicates.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 64, 48
FORMS = (".jpg", ".png", ".webp", ".tif", ".JPG", ".gif")


@dataclass(frozen=True, slots=True)
class Brought:
    """How many files of a folder can be read, cannot, and are no pictures."""

    readable: int
    unreadable: int
    left_out: int


DRIVES, PICTURES = 10, 8
TODAY = Brought(DRIVES * PICTURES, 1, 2)


def draw(number: int) -> tuple[Image.Image, str, tuple[int, int, int, int]]:
    """A picture, its class and the box of what is on it."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(40, 200, (6, 8, 1)).astype(np.uint8)
    grey = Image.fromarray(np.repeat(coarse, 3, axis=2)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    pixels = np.asarray(grey).astype(int) + rng.integers(-20, 20, (HEIGHT, WIDTH, 3))
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    left, top = int(rng.integers(2, 30)), int(rng.integers(2, 20))
    box = (left, top, left + 28, top + 24)
    pen = ImageDraw.Draw(picture)
    if number % 2:
        pen.rectangle(box, fill=(20, 40, 235))
        return picture, "sign", box
    pen.polygon([(left, box[3]), (box[2], box[3]), (left + 14, top)], fill=(250, 110, 10))
    return picture, "cone", box


def save(picture: Image.Image, path: Path, number: int) -> None:
    """In one of many forms; every fifth is stored turned, and says so in EXIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if number % 5 == 0 and path.suffix == ".jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.transpose(Image.Transpose.ROTATE_90).save(path, "JPEG", quality=95, exif=exif.tobytes())
    elif number % 7 == 0 and path.suffix == ".png":
        picture.convert("RGBA").save(path, "PNG")
    else:
        kinds = {".webp": "WEBP", ".tif": "TIFF", ".gif": "GIF", ".png": "PNG"}
        picture.save(path, kinds.get(path.suffix, "JPEG"), quality=95)


def bring_own_things(folder: Path) -> None:
    """archive/ with archive.csv, today/ with today.json, mine.onnx."""
    rows = []
    for number in range(12 * PICTURES):
        picture, name, _ = draw(number)
        file = f"day {number // PICTURES}/img{number % PICTURES}{FORMS[number % len(FORMS)]}"
        save(picture, folder / "archive" / file, number)
        rows.append(
            (file.replace("/", "\\") if number % 9 == 0 else file, name.upper() if number % 11 == 0 else name)
        )
    with (folder / "archive.csv").open("w", encoding="utf-8-sig", newline="") as out:
        csv.writer(out, delimiter=";").writerows([("File", "Class"), *rows, ("gone.jpg", "cone")])
    images, marks = [], []
    for number in range(DRIVES * PICTURES):
        picture, name, (left, top, right, bottom) = draw(1000 + number)
        file = f"run-{number // PICTURES}/{number % PICTURES}{FORMS[number % len(FORMS)]}"
        save(picture, folder / "today" / file, number)
        images.append({"id": number, "file_name": file, "width": WIDTH, "height": HEIGHT})
        box = [left, top, right - left, bottom - top]
        marks.append(
            {"id": number, "image_id": number, "category_id": 3 if name == "sign" else 0, "bbox": box}
        )
    (folder / "today" / "run-0" / "broken.jpg").write_bytes(b"\xff\xd8\xff cut")
    (folder / "today" / "notes.txt").write_text("no picture")
    (folder / "today" / "link.jpg").symlink_to("run-0/broken.jpg")
    kinds = [{"id": 3, "name": "sign"}, {"id": 0, "name": "cone"}]
    document = {"images": images, "annotations": marks, "categories": kinds}
    (folder / "today.json").write_text(json.dumps(document))
    (folder / "mine.onnx").write_bytes(colour_model())


def colour_model() -> bytes:
    """Says cone where there is more red than blue: a common export, batch 1, no embedding, no contract."""
    weights = np.array([[60.0, -60.0], [0.0, 0.0], [-60.0, 60.0]], np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "exported",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(weights, "weights")],
    )
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7
    ).SerializeToString()
    onnx.checker.check_model(made)
    return made

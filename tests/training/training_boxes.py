"""Pictures of coloured boxes as a dataset for detection: quick to learn, with classes, drives and shards."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from modelkit.contract import ModelContract
from modelkit.digest import sha256_hex
from modelkit.images import condition_of, decode_image
from modelkit.specs import HeadSpec, InputSpec, Preprocessing
from modelkit.tasks.boxes import overlap
from modelkit.tasks.detection import EDGES, edges
from schemas.predictions import Box
from schemas.reasons import Split
from training.rows import Row

CLASSES = ("car", "person")
COLOURS = {"car": (220, 50, 40), "person": (40, 200, 90)}
SIZES = {"car": (26, 16), "person": (12, 28)}
SIDE = 64

LIKE = ModelContract(
    name="like",
    classes=CLASSES,
    trained_classes=(),
    task="detection",
    head=HeadSpec(kind="parts", boxes="xyxy-px", strides=(8,)),
    input=InputSpec(height=SIDE, width=SIDE),
    preprocessing=Preprocessing(fit="letterbox-centre"),
    outputs={"boxes": "boxes", "scores": "scores", "embedding": "embedding"},
)


def picture(names: list[str], rng: np.random.Generator) -> tuple[bytes, tuple[Box, ...]]:
    """A PNG of 80 x 64 pixels with an object per name, none upon another, and their boxes."""
    width, height = 80, SIDE
    image = Image.fromarray(rng.integers(90, 160, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    boxes: list[Box] = []
    for name in names:
        wide, high = (int(size * rng.uniform(0.9, 1.2)) for size in SIZES[name])
        for _ in range(20):
            left, top = int(rng.integers(0, width - wide)), int(rng.integers(0, height - high))
            box = Box(name, 1.0, left, top, left + wide, top + high)
            if not boxes or overlap(edges([box]), edges(boxes)).max() == 0.0:
                draw.rectangle((left, top, left + wide - 1, top + high - 1), fill=COLOURS[name])
                boxes.append(box)
                break
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue(), tuple(boxes)


def labelled(split: Split, count: int, seed: int) -> list[tuple[Row, bytes]]:
    """`count` pictures in drives of five: a car, a person, both, and every eighth with nothing."""
    rng = np.random.default_rng([seed, list(Split).index(split)])
    kinds = [["car"], ["person"], ["car", "person"], ["person"], ["car"], ["car", "person"], ["car"], []]
    rows = []
    for number in range(count):
        payload, boxes = picture(kinds[number % len(kinds)], rng)
        image = decode_image(payload)
        drive = f"{split.value}-{seed}-{number // 5}"
        row = Row(image, sha256_hex(payload), boxes, drive, "", condition_of(image), "fleet")
        rows.append((row, payload))
    return rows


def write_shard(dataset: Path, split: Split, rows: list[tuple[Row, bytes]]) -> None:
    """One shard with the column `boxes`."""
    folder = dataset / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    columns = ("payload_sha256", "drive_id", "track_id", "condition", "origin")
    table = {name: [getattr(row, name) for row, _ in rows] for name in columns}
    table["boxes"] = [
        [{"class_name": box.class_name, **{edge: getattr(box, edge) for edge in EDGES}} for box in row.label]
        for row, _ in rows
    ]
    table["payload"] = [payload for _, payload in rows]
    pq.write_table(pa.table(table), folder / f"{split.value}-00000.parquet")

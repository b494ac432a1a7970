"""Small coloured shapes as a dataset: quick to learn, with classes, light, drives and shards."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from modelkit.digest import sha256_hex
from modelkit.images import condition_of, decode_image
from schemas.reasons import Split
from training.rows import Row

CLASSES = ("red", "yellow", "green")
COLOURS = {"red": (220, 40, 40), "yellow": (230, 210, 40), "green": (40, 200, 70)}


def split_of(drive_id: str) -> Split:
    """The split is in the name of a test's drive."""
    return Split(drive_id.split("-")[0])


def picture(name: str, rng: np.random.Generator, *, dark: bool = False) -> bytes:
    width, height = int(rng.integers(20, 40)), int(rng.integers(20, 40))
    background = rng.integers(60, 200, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(background)
    x, y = int(rng.integers(2, width // 3)), int(rng.integers(2, height // 3))
    box = (x, y, x + width // 2, y + height // 2)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if name == "red" else draw.rectangle)(box, fill=COLOURS[name])
    pixels = np.asarray(image)
    if dark:
        pixels = (pixels * 0.2).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def labelled(
    split: Split,
    count: int,
    seed: int,
    *,
    names: Iterable[str] = CLASSES,
    dark_ratio: float = 0.3,
    origin: str = "fleet",
) -> list[tuple[Row, bytes]]:
    """`count` rows per class, in drives of about ten."""
    rng = np.random.default_rng([seed, list(Split).index(split)])
    rows = []
    for number in range(count):
        for name in names:
            payload = picture(name, rng, dark=bool(rng.random() < dark_ratio))
            image = decode_image(payload)
            drive = f"{split.value}-{seed}-{number // 4}"
            row = Row(image, sha256_hex(payload), name, drive, f"{name}{number}", condition_of(image), origin)
            rows.append((row, payload))
    return rows


def write_shard(dataset: Path, split: Split, rows: list[tuple[Row, bytes]]) -> Path:
    folder = dataset / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split.value}-00000.parquet"
    columns = ("payload_sha256", "drive_id", "track_id", "condition", "origin")
    table = {name: [getattr(row, name) for row, _ in rows] for name in columns}
    table["class_name"] = [row.label for row, _ in rows]
    pq.write_table(pa.table({"payload": [payload for _, payload in rows], **table}), path)
    return path


def write_dataset(dataset: Path, count: int = 40) -> None:
    write_shard(dataset, Split.TRAIN, labelled(Split.TRAIN, count, 1))
    write_shard(dataset, Split.VALIDATION, labelled(Split.VALIDATION, max(8, count // 4), 2))
    write_shard(dataset, Split.TEST, labelled(Split.TEST, 60, 3))
    (dataset / "manifest.json").write_text('{"digest": "' + "d" * 64 + '"}\n')

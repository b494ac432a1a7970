"""Draw contact sheets: sample pictures of each class, chosen by hash and therefore without bias.

The colour of a picture's border shows its split; the task draws its labels on the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image, ImageDraw

from modelkit.images import decode_image
from pipelines.curate.labels import AnyTask, classes_of
from schemas.reasons import Split

SPLIT_COLOURS = {str(Split.TRAIN): "#2f6f9f", str(Split.VALIDATION): "#e0a030", str(Split.TEST): "#b23a48"}
WIDTH_PIXELS, ROWS = 942, 2
_SMALL_TILE, _LARGE_TILE = 72, 228
"""Sides in pixels: small where the picture is of one thing, large where things on it are marked."""
_BORDER, _GAP = 4, 6
_BACKGROUND = "#ffffff"
MAX_SHEETS = 64


@dataclass(frozen=True, slots=True)
class Sheet:
    """One contact sheet file and its content."""

    class_name: str
    file: str
    shown: int
    rows: int


def draw_contact_sheets(
    pictures: Path, dataset: Path, kept: pl.DataFrame, classes: list[str], task: AnyTask
) -> list[Sheet]:
    """Draw one PNG per class that has rows, at most MAX_SHEETS, and return them in the order of the classes."""
    sheets = []
    named = classes_of(kept[task.label_column], task)
    of_class = {name: kept.filter(named.list.contains(name)) for name in classes}
    present = [name for name in classes if of_class[name].height][:MAX_SHEETS]
    columns = _columns(task)
    chosen = {name: _choose(of_class[name], columns * ROWS) for name in present}
    payloads = _payloads(dataset, [sha for part in chosen.values() for sha in part["payload_sha256"]])
    for number, name in enumerate(present):
        file = f"class-{number:03d}.png"
        tiles = [
            (payloads[sha], split, task.label_of(label))
            for sha, split, label in chosen[name]
            .select("payload_sha256", "split", task.label_column)
            .iter_rows()
        ]
        _sheet(tiles, task).save(pictures / file, optimize=True)
        sheets.append(Sheet(name, f"pictures/{file}", len(tiles), of_class[name].height))
    return sheets


def _tile(task: AnyTask) -> int:
    return _SMALL_TILE if task.label_is_class else _LARGE_TILE


def _columns(task: AnyTask) -> int:
    return (WIDTH_PIXELS - _GAP) // (_tile(task) + _GAP)


def _choose(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """Choose up to `count` rows: splits alternate; within a split rows are ordered by sha256."""
    turn = pl.int_range(pl.len()).over("split", order_by="payload_sha256")
    return (
        rows.with_columns(turn.alias("turn"))
        .sort("turn", "split")
        .head(count)
        .sort("split", "payload_sha256")
    )


def _payloads(dataset: Path, sha256s: list[str]) -> dict[str, bytes]:
    wanted = pl.DataFrame({"payload_sha256": sha256s}, schema={"payload_sha256": pl.String})
    found: dict[str, bytes] = {}
    for path in sorted((dataset / "shards").glob("*.parquet")):
        rows = (
            pl.scan_parquet(path)
            .select("payload_sha256", "payload")
            .join(wanted.lazy(), on="payload_sha256", how="semi")
        )
        found.update(rows.collect().iter_rows())
    return found


def _sheet(tiles: list[tuple[bytes, str, Any]], task: AnyTask) -> Image.Image:
    tile, columns = _tile(task), _columns(task)
    rows = max(1, -(-len(tiles) // columns))
    step = tile + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, rows * step + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    inner = tile - 2 * _BORDER
    for number, (payload, split, label) in enumerate(tiles):
        left, top = _GAP + number % columns * step, _GAP + number // columns * step
        draw.rounded_rectangle((left, top, left + tile - 1, top + tile - 1), 4, fill=SPLIT_COLOURS[split])
        picture = Image.fromarray(decode_image(payload))
        scale = min(inner / picture.width, inner / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        draw.rectangle(
            (left + _BORDER, top + _BORDER, left + _BORDER + inner - 1, top + _BORDER + inner - 1),
            fill="#101418",
        )
        place = (left + _BORDER + (inner - size[0]) // 2, top + _BORDER + (inner - size[1]) // 2)
        sheet.paste(picture.resize(size, Image.Resampling.BICUBIC), place)
        task.mark(draw, label, scale, place)
    return sheet

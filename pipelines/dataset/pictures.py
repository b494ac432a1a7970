"""Sample frames of every class on one sheet a class, chosen by hash, so that nobody chose the pretty ones.

The colour of a frame's border says its split. It refuses to draw what is not in the dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from PIL import Image, ImageDraw

from modelkit.images import decode_image
from schemas.reasons import Split

SPLIT_COLOURS = {str(Split.TRAIN): "#2f6f9f", str(Split.VALIDATION): "#e0a030", str(Split.TEST): "#b23a48"}
COLUMNS, ROWS = 12, 2
_TILE, _BORDER, _GAP = 72, 4, 6
_BACKGROUND = "#ffffff"
MAX_SHEETS = 64


@dataclass(frozen=True, slots=True)
class Sheet:
    """One picture file, and what is on it."""

    class_name: str
    file: str
    shown: int
    rows: int


def draw_contact_sheets(pictures: Path, dataset: Path, kept: pl.DataFrame, classes: list[str]) -> list[Sheet]:
    """One PNG a class that has rows, at most MAX_SHEETS; returns what was drawn, in the order of the classes."""
    sheets = []
    present = [name for name in classes if kept.filter(pl.col("class_name") == name).height][:MAX_SHEETS]
    chosen = {name: _choose(kept.filter(pl.col("class_name") == name)) for name in present}
    payloads = _payloads(dataset, [sha for part in chosen.values() for sha in part["payload_sha256"]])
    for number, name in enumerate(present):
        file = f"class-{number:03d}.png"
        tiles = [
            (payloads[sha], split)
            for sha, split in chosen[name].select("payload_sha256", "split").iter_rows()
        ]
        _sheet(tiles).save(pictures / file, optimize=True)
        sheets.append(
            Sheet(name, f"pictures/{file}", len(tiles), kept.filter(pl.col("class_name") == name).height)
        )
    return sheets


def _choose(rows: pl.DataFrame) -> pl.DataFrame:
    """Up to COLUMNS * ROWS frames: the splits take turns, within a split by sha256."""
    turn = pl.int_range(pl.len()).over("split", order_by="payload_sha256")
    return (
        rows.with_columns(turn.alias("turn"))
        .sort("turn", "split")
        .head(COLUMNS * ROWS)
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


def _sheet(tiles: list[tuple[bytes, str]]) -> Image.Image:
    rows = max(1, -(-len(tiles) // COLUMNS))
    step = _TILE + _GAP
    sheet = Image.new("RGB", (COLUMNS * step + _GAP, rows * step + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    inner = _TILE - 2 * _BORDER
    for number, (payload, split) in enumerate(tiles):
        left, top = _GAP + number % COLUMNS * step, _GAP + number // COLUMNS * step
        draw.rounded_rectangle((left, top, left + _TILE - 1, top + _TILE - 1), 4, fill=SPLIT_COLOURS[split])
        picture = Image.fromarray(decode_image(payload))
        scale = min(inner / picture.width, inner / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        draw.rectangle(
            (left + _BORDER, top + _BORDER, left + _BORDER + inner - 1, top + _BORDER + inner - 1),
            fill="#101418",
        )
        place = (left + _BORDER + (inner - size[0]) // 2, top + _BORDER + (inner - size[1]) // 2)
        sheet.paste(picture.resize(size, Image.Resampling.BICUBIC), place)
    return sheet

"""Draw the plots of the dataset card: rows by outcome, classes by split, luma and sharpness.

Plots need neither a display nor fonts of this machine, so equal numbers give equal images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from foundation.short_text import shorten_middle
from modelkit.images import BLURRED_BELOW_SHARPNESS, BRIGHT_ABOVE_LUMA, DARK_BELOW_LUMA
from pipelines.dataset.pictures import SPLIT_COLOURS

_INK, _SOFT, _GRID = "#1c2430", "#5c6a7a", "#e3e8ee"
_STATE_COLOURS = {"kept": "#2a9d6f", "unlabelled": "#8fb8de", "quarantined": "#d1495b"}
_REMOVED = "#b9c2cc"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _INK,
    "axes.grid": True,
    "grid.color": _GRID,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}
MAX_CLASSES_SHOWN = 50
_MAX_LABEL_CHARACTERS = 34


def draw_plots(pictures: Path, manifest: dict[str, Any], kept: pl.DataFrame) -> None:
    """Write rows.png, classes.png and light.png into the folder."""
    with mpl.rc_context(_STYLE):
        _rows(pictures / "rows.png", manifest["counts"])
        _classes(pictures / "classes.png", manifest)
        _light(pictures / "light.png", kept)


def _rows(path: Path, counts: dict[str, Any]) -> None:
    bars = [(name, counts[name], _STATE_COLOURS[name]) for name in ("kept", "unlabelled", "quarantined")]
    bars += [
        (reason.replace("_", " "), number, _REMOVED)
        for reason, number in sorted(counts["removed"].items(), key=_by_size)
    ]
    figure = Figure(figsize=(7.2, 0.6 + 0.34 * len(bars)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(bars))
    axes.barh(places, [number for _, number, _ in bars], color=[colour for *_, colour in bars], height=0.68)
    axes.set_yticks(places, [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    for place, (_, number, _) in enumerate(bars):
        axes.annotate(
            f"{number:,}", (number, place), (4, 0), textcoords="offset points", va="center", color=_SOFT
        )
    axes.margins(x=0.12)
    _save(figure, path)


def _by_size(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _classes(path: Path, manifest: dict[str, Any]) -> None:
    classes = manifest["classes"][:MAX_CLASSES_SHOWN]
    figure = Figure(figsize=(7.2, max(1.6, 0.7 + 0.26 * len(classes))), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    left = [0] * len(classes)
    for split, colour in SPLIT_COLOURS.items():
        numbers = [manifest["splits"][split]["classes"][name] for name in classes]
        axes.barh(range(len(classes)), numbers, left=left, color=colour, height=0.72, label=split)
        left = [a + b for a, b in zip(left, numbers, strict=True)]
    axes.set_yticks(range(len(classes)), [shorten_middle(name, _MAX_LABEL_CHARACTERS) for name in classes])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    for place, total in enumerate(left):
        axes.annotate(
            f"{total:,}", (total, place), (4, 0), textcoords="offset points", va="center", color=_SOFT
        )
    axes.margins(x=0.1)
    axes.set_title("Frames by class and split", loc="left", fontweight="bold")
    figure.legend(loc="outside lower left", ncols=3, frameon=False)
    _save(figure, path)


def _light(path: Path, kept: pl.DataFrame) -> None:
    figure = Figure(figsize=(7.2, 2.5), dpi=110, layout="constrained")
    luma, sharp = figure.subplots(1, 2)
    for axes, column, title, marks in (
        (luma, "luma", "Mean luma", (DARK_BELOW_LUMA, BRIGHT_ABOVE_LUMA)),
        (sharp, "sharpness", "Sharpness", (BLURRED_BELOW_SHARPNESS,)),
    ):
        parts = [kept.filter(pl.col("split") == split)[column].to_numpy() for split in SPLIT_COLOURS]
        if kept.height:
            # One outline per split: 32 bars per split take 1.6 times as long to draw.
            axes.hist(parts, bins=32, stacked=True, color=list(SPLIT_COLOURS.values()), histtype="stepfilled")
        for mark in marks:
            axes.axvline(mark, color=_INK, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.set_title(title, loc="left", fontweight="bold")
        axes.tick_params(axis="y", colors=_SOFT)
    luma.set_xlabel("dashed: dark below, bright above")
    sharp.set_xlabel("dashed: blurred below")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})

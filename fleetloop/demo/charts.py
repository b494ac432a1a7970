"""The plots of the report and of the README, as SVG text."""

from __future__ import annotations

import io
from typing import Any

from foundation.short_text import shorten_middle

BEFORE, AFTER, INK, SOFT = "#9aa5b1", "#2b6cb0", "#1f2933", "#7b8794"
_MAX_LABEL_CHARACTERS = 26


def accuracy_chart(rows: list[dict[str, Any]], title: str, note: str) -> str:
    """Return accuracy before and after, one row per slice, with the 95 % interval of each.

    `rows`: name, n, before, after (ratios), before_interval and after_interval ((low, high) ratios). The number of images
    is part of the label, because it explains a wide interval.
    """
    from matplotlib.figure import Figure

    height = 1.4 + 0.42 * len(rows)
    figure = Figure(figsize=(9.2, height))
    axes = figure.add_axes((0.28, 0.75 / height, 0.69, 1 - 1.4 / height))
    for number, row in enumerate(rows):
        y = len(rows) - 1 - number
        for key, colour, shift, size in (("before", BEFORE, 0.13, 6), ("after", AFTER, -0.13, 7)):
            value = row[key]
            if value is None:
                continue
            low, high = row[f"{key}_interval"]
            axes.plot(
                [100 * low, 100 * high],
                [y + shift, y + shift],
                color=colour,
                linewidth=2.2,
                solid_capstyle="round",
            )
            axes.plot([100 * value], [y + shift], "o", color=colour, markersize=size)
    axes.set_yticks(
        range(len(rows)),
        [f"{shorten_middle(r['name'], _MAX_LABEL_CHARACTERS)}  (n={r['n']})" for r in reversed(rows)],
    )
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("correct on the held-out test set, %  (bars: 95 % interval)", color=SOFT, fontsize=9)
    axes.tick_params(length=0, labelsize=9.5, labelcolor=INK)
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=18)
    axes.text(
        0,
        1.01,
        "before",
        transform=axes.transAxes,
        color=BEFORE,
        fontsize=9.5,
        fontweight="bold",
        va="bottom",
    )
    axes.text(
        0.1,
        1.01,
        "after",
        transform=axes.transAxes,
        color=AFTER,
        fontsize=9.5,
        fontweight="bold",
        va="bottom",
    )
    figure.text(0.97, 0.06 / height, note, ha="right", va="bottom", fontsize=8, color=SOFT)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]

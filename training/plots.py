"""Plot the metric by class and condition, before and after, with confidence intervals."""

from __future__ import annotations

import io
from pathlib import Path

from foundation.files import write_atomic
from foundation.short_text import shorten_middle
from training.evaluation import OVERALL, Evaluation, SliceResult

_MAX_SLICES = 60
_MAX_LABEL_CHARACTERS = 34


def plot_by_class(evaluation: Evaluation, path: Path, base_name: str, candidate_name: str) -> None:
    """Write the plot as a PNG; equal evaluations give equal bytes with one installation of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    slices = evaluation.slices[:_MAX_SLICES]
    figure = Figure(figsize=(7.5, 1.4 + 0.34 * len(slices)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for shift, color, name, pick in (
        (-0.16, "#9aa5b1", base_name, lambda s: s.base),
        (0.16, "#0b6bcb", candidate_name, lambda s: s.candidate),
    ):
        found = [pick(s) for s in slices]
        axes.errorbar(
            [v.estimate for v in found],
            [i + shift for i in range(len(found))],
            xerr=[[v.estimate - v.low for v in found], [v.high - v.estimate for v in found]],
            fmt="o",
            color=color,
            label=shorten_middle(name, _MAX_LABEL_CHARACTERS),
            capsize=3,
            markersize=5,
        )
    axes.set_yticks(range(len(slices)), [_label(s) for s in slices])
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"{evaluation.metric} on the held-out test set, {evaluation.confidence:.0%} intervals")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120, metadata={"Software": None})
    write_atomic(path, out.getvalue())


def _label(found: SliceResult) -> str:
    name = (
        found.name if found.name == OVERALL else found.name.replace("class:", "").replace("condition:", "in ")
    )
    return f"{shorten_middle(name, _MAX_LABEL_CHARACTERS)} (n={found.n})"

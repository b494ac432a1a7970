"""Render docs/benchmarks.md from the measurements of a whole run."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.port import Measure

ROOT = Path(__file__).resolve().parents[1]
INTRODUCTION = """# Benchmarks

Speed compared with the raw limit, or with a peer, in the same run on the same machine, as `make bench` measured it. Rounds of
both sides alternate; the ratio is the median of the ratios of paired rounds (larger is better), the range is their smallest and
largest. None of this is a timed test: absolute figures hold for this machine on this day, ratios are more portable.
"""

LIMITS = {
    "learning, all": "a label of every frame of the pool is that much above the other arm (`whole pool above it`): no choice of"
    " 1,000 labels can be expected to win more, and a target of 3 points is more than half of it. One training differs from the"
    " next by about 2 points, which five seeds do not average out",
    "learning, rare": "as for all classes; the ten rare classes have 360 test pictures, of few tracks: the interval is wide",
    "adding 1 %": "reading and writing the cache costs the same however little is added; it was not taken apart further",
    "near-duplicates, 10,800 images from 675 traffic lights": "shifts and crops of 5 % of pictures of 20 to 40 pixels change more"
    " bits than the bound allows; a wider bound finds them at the price of false pairs (by threshold, above)",
    "perceive loop, the demo": "for each frame FleetLoop adds a fixed part (the difference of the p50: source, hash, scores,"
    " selection, prediction log, journal of the place, and encoding and signing of what is kept); a model of 0.2 ms per picture"
    " shows it, one of 13 ms does not",
    "perceive loop, efficientnet_lite0: added p99": "the thread that commits and the process that delivers want a core now and"
    " then, and there are two for three busy processes; the median of a frame is 1 ms longer",
    "spool append, 50 kB, 1 ": "a commit writes and syncs a segment and then writes the ledger; the raw side makes one write",
}
"""By the beginning of a measurement's name: why its target is missed, as far as known. Shown only where it is missed."""


def benchmarks_page(measures: Sequence[Measure], seed: int) -> str:
    """Return the page: the table, then for each row its figures and what limits it."""
    lines = [
        INTRODUCTION,
        f"Command `make bench SEED={seed}`, {datetime.now(UTC).date().isoformat()}, {machine()}.",
        "",
        "| measurement | baseline | ratio | range | target | met |",
        "|---|---|---|---|---|---|",
    ]
    for each in measures:
        spread = "" if each.spread is None else f"{each.spread[0]:.2f} to {each.spread[1]:.2f}"
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        met = {
            True: "yes",
            False: "**no**",
            None: "no target" if each.aim == "-" and each.figures else "not measured",
        }[each.met]
        lines.append(f"| {each.step} | {each.beside} | {ratio} | {spread} | {each.aim} | {met} |")
    lines += ["", "## Figures", ""]
    for each in measures:
        figures = "; ".join(
            f"{name.replace('_', ' ')} {_number(value)}" for name, value in each.figures.items()
        )
        held = _limit_of(each) if each.met is False else ""
        told = ". ".join(part for part in (figures, each.note, held) if part)
        lines.append(f"- **{each.step}**, compared with {each.beside}: {told or 'no figures'}")
    return "\n".join(lines) + "\n"


def _limit_of(each: Measure) -> str:
    return next((f"Limited by: {why}" for name, why in LIMITS.items() if each.step.startswith(name)), "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """Return processor, cores, system, Python and the commit."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=9"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{_processor()}, {os.cpu_count()} cores, {system}; commit {said.stdout.strip() or 'unknown'}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"

"""docs/benchmarks.md, as Markdown, from what a whole run measured."""

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

Speed beside the raw limit, or a peer, in the same run on the same machine. `make bench` measured it and wrote this page. Rounds
of both sides alternate; a ratio is the median of the paired rounds' ratios, larger is better, with the least and the largest of
them beside it. Nothing here is a timed test: a figure says something of this machine on this day, the ratio travels better.
"""


def benchmarks_page(measures: Sequence[Measure], seed: int) -> str:
    """The table, then for each row its figures and what holds it."""
    lines = [
        INTRODUCTION,
        f"Command `make bench SEED={seed}`, {datetime.now(UTC).date().isoformat()}, {machine()}.",
        "",
        "| step | beside | ratio | spread | aim | met |",
        "|---|---|---|---|---|---|",
    ]
    for each in measures:
        spread = "" if each.spread is None else f"{each.spread[0]:.2f} to {each.spread[1]:.2f}"
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        met = {True: "yes", False: "**no**", None: "not measured"}[each.met]
        lines.append(f"| {each.step} | {each.beside} | {ratio} | {spread} | {each.aim} | {met} |")
    lines += ["", "## Figures", ""]
    for each in measures:
        figures = "; ".join(
            f"{name.replace('_', ' ')} {_number(value)}" for name, value in each.figures.items()
        )
        told = ". ".join(part for part in (figures, each.note) if part)
        lines.append(f"- **{each.step}**, beside {each.beside}: {told or 'no figures'}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """Processor, cores, system, Python and the commit."""
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

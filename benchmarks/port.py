"""The result of one comparison: a step of the product, timed together with its limit and its peers in one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of `make bench`. A ratio is a median of paired rounds: each round runs both sides, one after the other."""

    step: str
    """What was measured: `spool append, 50 kB, one per commit`."""
    beside: str
    """The limit or peer in the same run: `raw write + fsync`."""
    ratio: float | None
    """Product by limit, larger is better (of times: limit by product); None when the aim is no ratio."""
    aim: str
    """As the table of aims says it: `>= 0.90`."""
    met: bool | None
    """None: could not be measured here; `note` says why."""
    spread: tuple[float, float] | None
    """Least and largest of the rounds' ratios."""
    figures: dict[str, float] = field(default_factory=dict)
    """Medians with the unit in the name: `product_records_per_s`."""
    note: str = ""
    """What limits it where it misses its target, or what is needed to read it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One benchmark: a module of `benchmarks` lists its own in `STEPS`."""

    name: str
    run: Callable[[int, bool], Sequence[Measure]]
    """Given the seed, and whether a quick run is asked for (fewer rounds, smaller sizes: to see that it works)."""
    needs: Callable[[], str | None] = lambda: None
    """Why this machine cannot run it, or None."""


def paired_ratio(product: Sequence[float], limit: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Median and spread of product by limit over rounds that ran one after the other (rates: larger is better).

    Raises ValueError when the rounds are not as many, or none.
    """
    if len(product) != len(limit) or not product:
        raise ValueError(f"rounds do not pair: {len(product)} and {len(limit)}")
    ratios = [ours / theirs for ours, theirs in zip(product, limit, strict=True)]
    return statistics.median(ratios), (min(ratios), max(ratios))

"""Series of measurements, their slope per hour, and the verdict: growth beyond a stated bound is a leak.

The first part of a run, in which caches fill and modules load, is left out. A slope is that of the line between the medians
of the first and the last third of the rest, so that single peaks do not count. A small run cannot tell a slow leak from
noise: each bound has a growth in all that is never a leak (`noise`), and `smallest_leak` says what a run can find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

WARM_UP_RATIO = 0.3


@dataclass(frozen=True, slots=True)
class Bound:
    """What may grow: by `per_hour` for ever, and by `noise` in all; `most`, if given, is never exceeded."""

    per_hour: float
    noise: float
    most: float | None = None


MEGABYTE = 1_000_000
BOUNDS: Mapping[str, Bound] = {
    "memory": Bound(per_hour=20.0 * MEGABYTE, noise=25.0 * MEGABYTE),
    "descriptors": Bound(per_hour=4.0, noise=12.0),
    # delta-rs keeps a pool, which grows with the entries of the log that it reads at once (at most 100, between two
    # checkpoints): 400 reads of a log of 20 entries stay at 19 threads, ingest of 10 minutes came to 48.
    "ingest threads": Bound(per_hour=2.0, noise=60.0),
    "threads": Bound(per_hour=2.0, noise=6.0),
    "files": Bound(per_hour=40.0, noise=60.0),
    "telemetry bytes": Bound(per_hour=20.0, noise=200.0, most=2000.0),
    "status s": Bound(per_hour=0.5, noise=3.0),
    "ingest s": Bound(per_hour=0.5, noise=3.0),
}
"""By the last words of a series' name."""


@dataclass(slots=True)
class Series:
    """One measure over time."""

    name: str
    bound: Bound
    times_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, time_s: float, value: float) -> None:
        """Add one value."""
        self.times_s.append(time_s)
        self.values.append(value)

    @property
    def growth(self) -> tuple[float, float]:
        """(growth after the warm-up, hours over which it happened)."""
        begin = self.times_s[0] + WARM_UP_RATIO * (self.times_s[-1] - self.times_s[0])
        rows = [(at, value) for at, value in zip(self.times_s, self.values, strict=True) if at >= begin]
        third = max(1, len(rows) // 3)
        first, last = rows[:third], rows[-third:]
        hours = (median(at for at, _ in last) - median(at for at, _ in first)) / 3600
        return median(value for _, value in last) - median(value for _, value in first), hours

    @property
    def slope_per_hour(self) -> float:
        """Growth per hour after the warm-up."""
        grown, hours = self.growth
        return grown / hours if hours > 0 else 0.0

    @property
    def smallest_leak(self) -> float:
        """The smallest growth per hour that a run of this length calls a leak."""
        _, hours = self.growth
        return max(self.bound.per_hour, self.bound.noise / hours) if hours > 0 else float("inf")

    def verdict(self) -> str:
        """Return why this series fails, or an empty text."""
        if self.bound.most is not None and max(self.values) > self.bound.most:
            return f"{self.name} reached {max(self.values):,.0f}; at most {self.bound.most:,.0f} is allowed"
        grown, _ = self.growth
        if grown > self.bound.noise and self.slope_per_hour > self.bound.per_hour:
            return f"{self.name} grows by {self.slope_per_hour:,.1f} per hour; {self.bound.per_hour:,.1f} is allowed"
        return ""


class Record:
    """All series of a run."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}

    def add(self, name: str, time_s: float, value: float) -> None:
        """Add a value to the series `name`, whose last words name its bound."""
        if name not in self.series:
            bound = next(bound for words, bound in BOUNDS.items() if name.endswith(words))
            self.series[name] = Series(name, bound)
        self.series[name].add(time_s, value)

    def failures(self) -> list[str]:
        """Return why the run fails, empty if it does not."""
        found = [each.verdict() for each in self.series.values() if len(each.values) >= 3]
        return [why for why in found if why]

    def table(self) -> list[str]:
        """Return the lines of the table: start, end, slope and bound of each series."""
        lines = [
            f"{'measure':34} {'start':>14} {'end':>14} {'per hour':>14} {'bound':>12} {'finds from':>12}"
        ]
        for each in self.series.values():
            if len(each.values) < 3:
                lines.append(f"{each.name:34} {'too few values':>14}")
                continue
            lines.append(
                f"{each.name:34} {each.values[0]:14,.1f} {each.values[-1]:14,.1f} {each.slope_per_hour:14,.1f}"
                f" {each.bound.per_hour:12,.1f} {each.smallest_leak:12,.1f}"
            )
        return lines

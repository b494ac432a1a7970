"""Intervals for proportions and paired differences: closed forms and one seeded bootstrap, no fitting.

Sources: Wilson (1927); Newcombe (1998), "Improved confidence intervals for the difference between binomial
proportions based on paired data", method 10; McNemar (1947), exact form.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from foundation.errors import RejectedError


@dataclass(frozen=True, slots=True)
class Interval:
    """[low, high] around an estimate, all of one unit."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """The results of two models on the same n rows, counted by pair."""

    both_right: int
    only_base_right: int
    only_candidate_right: int
    both_wrong: int

    @property
    def n(self) -> int:
        """The number of rows."""
        return self.both_right + self.only_base_right + self.only_candidate_right + self.both_wrong

    @property
    def difference(self) -> float:
        """The accuracy of the candidate minus that of the base."""
        return (self.only_candidate_right - self.only_base_right) / self.n


def z_of(confidence: float, *, two_sided: bool) -> float:
    """Return the normal quantile for an interval (two-sided) or a bound (one-sided) of this confidence."""
    if not 0.0 < confidence < 1.0:
        raise RejectedError(f"confidence {confidence} is not between 0 and 1", reason="invalid_value")
    return NormalDist().inv_cdf((1.0 + confidence) / 2.0 if two_sided else confidence)


def wilson(right: int, n: int, z: float) -> Interval:
    """Return Wilson's score interval of right / n; for n = 0 it is [0, 1] around 0."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0)
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def paired_difference(counts: PairedCounts, z: float) -> Interval:
    """Return Newcombe's interval of candidate minus base on the same rows; low <= estimate <= high always holds."""
    if counts.n == 0:
        return Interval(0.0, -1.0, 1.0)
    a, b, c, d = counts.both_right, counts.only_base_right, counts.only_candidate_right, counts.both_wrong
    base, candidate = wilson(a + b, counts.n, z), wilson(a + c, counts.n, z)
    phi = _phi(a, b, c, d)
    down_candidate, up_base = candidate.estimate - candidate.low, base.high - base.estimate
    up_candidate, down_base = candidate.high - candidate.estimate, base.estimate - base.low
    below = down_candidate**2 - 2 * phi * down_candidate * up_base + up_base**2
    above = up_candidate**2 - 2 * phi * up_candidate * down_base + down_base**2
    theta = counts.difference
    return Interval(theta, max(-1.0, theta - sqrt(max(0.0, below))), min(1.0, theta + sqrt(max(0.0, above))))


def _phi(a: int, b: int, c: int, d: int) -> float:
    """Return Newcombe's correlation of the two columns, with his continuity correction."""
    margins = float(a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0.0:
        return 0.0
    n = a + b + c + d
    product = float(a * d - b * c)
    if product > n / 2:
        product -= n / 2
    elif product >= 0:
        product = 0.0
    return product / sqrt(margins)


def mcnemar_p(counts: PairedCounts) -> float:
    """Return the one-sided exact p-value for "the candidate is better"."""
    b, c = counts.only_base_right, counts.only_candidate_right
    pairs = b + c
    return sum(comb(pairs, k) for k in range(c, pairs + 1)) / 2**pairs


def bootstrap_difference(
    difference: NDArray[np.float64], clusters: NDArray[np.int64], samples: int, seed: int
) -> NDArray[np.float64]:
    """Return the sorted means of row values over `samples` draws of whole clusters with replacement, (samples,).

    Values are 0, 1 or their differences. Frames of one track are not independent, so clusters are drawn, never single
    rows. Cost: samples * clusters.
    """
    _, numbers = np.unique(clusters, return_inverse=True)
    sums = np.bincount(numbers, weights=difference)
    sizes = np.bincount(numbers).astype(np.float64)
    rng = np.random.default_rng(seed)
    found = np.empty(samples)
    for start in range(0, samples, 256):
        count = min(256, samples - start)
        drawn = rng.integers(0, len(sums), (count, len(sums)))
        found[start : start + count] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return np.sort(found)


def cluster_weights(clusters: NDArray[np.int64], samples: int, seed: int) -> NDArray[np.float64]:
    """Return how often each row counts in `samples` draws of whole clusters with replacement, (samples, rows).

    Frames of one track are not independent, so clusters are drawn, never single rows.
    """
    _, numbers = np.unique(clusters, return_inverse=True)
    count = int(numbers.max()) + 1 if len(numbers) else 0
    rng = np.random.default_rng(seed)
    times = np.zeros((samples, count))
    for start in range(0, samples, 256):
        size = min(256, samples - start)
        drawn = rng.integers(0, max(count, 1), (size, count))
        np.add.at(times, (np.arange(start, start + size)[:, None], drawn), 1.0)
    return times[:, numbers]

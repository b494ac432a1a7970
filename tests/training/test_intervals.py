"""Intervals against an independent implementation, by property, and by simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import RejectedError
from training.intervals import PairedCounts, bootstrap_difference, mcnemar_p, paired_difference, wilson, z_of

Z95 = z_of(0.95, two_sided=True)
counts = st.builds(PairedCounts, *[st.integers(0, 60)] * 4).filter(lambda c: c.n > 0)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(pair: tuple[int, int]) -> None:
    stats = pytest.importorskip("scipy.stats")
    right, n = pair
    theirs = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    ours = wilson(right, n, Z95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_agrees_with_the_exact_binomial_test(base_only: int, candidate_only: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = mcnemar_p(PairedCounts(5, base_only, candidate_only, 5))
    if base_only + candidate_only == 0:
        assert found == 1.0
    else:
        expected = stats.binomtest(candidate_only, base_only + candidate_only, alternative="greater").pvalue
        assert found == pytest.approx(expected, rel=1e-9)


@given(counts)
def test_the_paired_interval_holds_the_estimate_and_mirrors_when_the_models_swap(found: PairedCounts) -> None:
    ours = paired_difference(found, Z95)
    assert -1 <= ours.low <= ours.estimate <= ours.high <= 1
    swapped = PairedCounts(
        found.both_right, found.only_candidate_right, found.only_base_right, found.both_wrong
    )
    mirror = paired_difference(swapped, Z95)
    assert (mirror.low, mirror.high) == pytest.approx((-ours.high, -ours.low), abs=1e-9)


@given(counts, st.floats(0.6, 0.9))
def test_more_confidence_never_makes_an_interval_narrower(found: PairedCounts, confidence: float) -> None:
    narrow = paired_difference(found, z_of(confidence, two_sided=True))
    assert paired_difference(found, Z95).low <= narrow.low + 1e-12
    assert paired_difference(found, Z95).high >= narrow.high - 1e-12


@pytest.mark.parametrize(
    "chances", [(0.85, 0.05, 0.05, 0.05), (0.4, 0.1, 0.3, 0.2), (0.95, 0.02, 0.02, 0.01)]
)
def test_the_paired_interval_covers_the_truth_as_often_as_it_says(chances: tuple[float, ...]) -> None:
    rng = np.random.default_rng(7)
    truth = chances[2] - chances[1]
    drawn = rng.multinomial(80, chances, size=2000)
    found = [paired_difference(PairedCounts(*map(int, row)), Z95) for row in drawn]
    covered = np.mean([interval.low <= truth <= interval.high for interval in found])
    assert covered >= 0.93


def test_nothing_is_known_of_no_rows() -> None:
    assert (wilson(0, 0, Z95).low, wilson(0, 0, Z95).high) == (0.0, 1.0)
    assert paired_difference(PairedCounts(0, 0, 0, 0), Z95).low == -1.0


def test_the_bootstrap_draws_whole_tracks() -> None:
    # One track of 50 frames that got worse, 50 tracks of one frame that stayed: rows say "one half worse,
    # surely".
    difference = np.concatenate([np.full(50, -1.0), np.zeros(50)])
    tracks = np.concatenate([np.zeros(50, dtype=np.int64), np.arange(1, 51)])
    by_track = bootstrap_difference(difference, tracks, 2000, 0)
    by_row = bootstrap_difference(difference, np.arange(100), 2000, 0)
    assert np.quantile(by_row, 0.975) < -0.35
    assert np.quantile(by_track, 0.975) == 0.0
    assert by_track.min() >= -1.0 and by_track.max() <= 0.0
    assert np.array_equal(by_track, bootstrap_difference(difference, tracks, 2000, 0))


def test_a_confidence_that_is_none_is_refused() -> None:
    with pytest.raises(RejectedError, match=r"1\.5"):
        z_of(1.5, two_sided=True)

"""Which epoch is kept: the last one that is not plainly worse than the best by the validation rows."""

from __future__ import annotations

import pytest

from training.fit import choose_epoch


@pytest.mark.parametrize(
    ("rows", "qualities", "chosen"),
    [
        (63, [0.5, 0.79, 0.73, 0.78, 0.76], 5),  # within chance of the best
        (63, [0.5, 0.79, 0.73, 0.78, 0.6], 4),  # the last one forgot
        (10_000, [0.5, 0.79, 0.73, 0.78, 0.76], 2),  # so many rows tell them apart
        (0, [None, None, None], 3),
    ],
)
def test_a_later_epoch_is_kept_until_it_is_plainly_worse(
    rows: int, qualities: list[float | None], chosen: int
) -> None:
    assert choose_epoch(qualities, rows) == chosen

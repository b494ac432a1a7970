"""Average precision of drawn rows: the same numbers in blocks, in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from modelkit.tasks import average_precision
from modelkit.tasks.average_precision import AveragePrecision
from schemas.predictions import Box, DetectionOutput

PICTURES, PER_PICTURE, DRAWS = 40, 25, 300


def judged() -> AveragePrecision:
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(3)
    labels, said = [], []
    for _ in range(PICTURES):
        corners = rng.uniform(0, 80, (PER_PICTURE, 2))
        moved = corners + rng.uniform(0, 6, corners.shape)
        labels.append(tuple(Box("car", 1.0, x, y, x + 12, y + 12) for x, y in corners.tolist()))
        scores = rng.uniform(0.1, 1.0, PER_PICTURE).tolist()
        said.append(
            DetectionOutput(
                tuple(
                    Box("car", s, x, y, x + 12, y + 12)
                    for s, (x, y) in zip(scores, moved.tolist(), strict=True)
                )
            )
        )
    return AveragePrecision(labels, said, ("car",))


def drawn() -> np.ndarray:
    weights = (
        np.random.default_rng(4).multinomial(PICTURES, [1 / PICTURES] * PICTURES, DRAWS).astype(np.float64)
    )
    weights[7] = 0.0  # a draw without an object
    return weights


@pytest.mark.parametrize("numbers", [1, 2_500, 7_000])
def test_draws_in_blocks_give_the_very_numbers_of_all_draws_at_once(
    monkeypatch: pytest.MonkeyPatch, numbers: int
) -> None:
    found, weights = judged(), drawn()
    monkeypatch.setattr(average_precision, "_BLOCK_NUMBERS", DRAWS * PICTURES * PER_PICTURE)
    at_once = found.values(None, weights)
    monkeypatch.setattr(average_precision, "_BLOCK_NUMBERS", numbers)
    assert np.array_equal(found.values(None, weights), at_once)
    assert at_once[7] == 0.0 and 0.0 < at_once.max() < 1.0


def test_memory_follows_the_block_not_the_number_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    found, weights = judged(), drawn()
    monkeypatch.setattr(average_precision, "_BLOCK_NUMBERS", 10_000, raising=False)
    tracemalloc.start()
    try:
        found.values(None, weights)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < DRAWS * PICTURES * PER_PICTURE * 8  # one matrix of draws x boxes

"""What a detector is trained on: an input in the pictures' shape, and boxes that go where a zoomed picture's objects went."""

from __future__ import annotations

import numpy as np
import pytest

from modelkit.tasks import TASKS
from tests.training.training_boxes import CLASSES, LIKE, SIDE
from training.augment import Zoom, draw_zooms, zoomed
from training.network import architecture_for, first_contract

TASK = TASKS["detection"]


@pytest.mark.parametrize("seed", range(20))
def test_a_box_stays_around_its_object_whatever_the_zoom(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8)
    left, top = (int(v) for v in rng.integers(4, 36, 2))
    pixels[0, top : top + 20, left : left + 24] = 255
    (zoom,) = draw_zooms(1, SIDE, SIDE, rng, most=1.6)
    target = np.array([[1, left, top, left + 24, top + 20]], dtype=np.float32)
    moved = TASK.moved(target, zoom, LIKE)
    seen = np.argwhere(zoomed(pixels, [zoom])[0, :, :, 0])
    share = len(seen) / (24 * 20 * zoom.scale**2)
    assert len(moved) == (share >= 0.4) or share == pytest.approx(0.4, abs=0.1)
    if len(moved):
        assert moved[0, 0] == 1
        found = [*seen.min(axis=0)[::-1], *(seen.max(axis=0)[::-1] + 1)]
        assert moved[0, 1:].tolist() == pytest.approx(found, abs=1.0)


def test_a_picture_that_is_neither_zoomed_nor_moved_is_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 16, 24, 3)).astype(np.uint8)
    assert (zoomed(pixels, [Zoom(1.0, 0.0, 0.0)] * 2) == pixels).all()


def test_an_object_that_left_the_picture_is_no_label() -> None:
    target = np.array([[0, 0, 0, 10, 10], [1, 40, 40, 60, 60]], dtype=np.float32)
    assert TASK.moved(target, Zoom(1.0, -30.0, -30.0), LIKE).tolist() == [[1, 10, 10, 30, 30]]


@pytest.mark.parametrize(
    ("size", "pixels", "wanted"),
    [((375, 1242), 48_000, (128, 384)), ((480, 640), 48_000, (192, 256)), ((48, 64), 48_000, (64, 64))],
)
def test_a_first_detector_takes_pictures_in_their_own_shape(
    size: tuple[int, int], pixels: int, wanted: tuple[int, int]
) -> None:
    contract = first_contract("detection", CLASSES, [size] * 3, pixels)
    assert contract is not None
    assert (contract.input.height, contract.input.width) == wanted
    assert architecture_for(contract).kind == "gridnet"
    assert first_contract("classification", CLASSES, [size], pixels) is None

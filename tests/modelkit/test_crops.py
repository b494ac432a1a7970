"""A crop computes only what the model sees, and sees what a crop of the whole resized picture would show."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkit.geometry import place
from modelkit.images import resize_to
from modelkit.prepare import fit_in, resize_two_point
from modelkit.specs import InputSpec, Preprocessing

RESIZES = {"averaged": resize_to, "two-point": resize_two_point}
TOLERANCE = {"averaged": 2, "two-point": 0}
"""Levels of 255. Pillow rounds to 8 bits once per axis and holds the edges of a window as float32."""


def crop(resample: str, crop_from: int) -> Preprocessing:
    return Preprocessing(fit="crop-centre", crop_from=crop_from, resample=resample)  # type: ignore[arg-type]


@pytest.mark.parametrize("resample", RESIZES)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(24, 60), st.integers(0, 9))
def test_a_crop_is_the_middle_of_the_whole_resized_picture(
    resample: str, height: int, width: int, crop_from: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    spec, how = InputSpec(height=24, width=20), crop(resample, crop_from)
    where = place(width, height, spec, how)
    whole = RESIZES[resample](image, where.inner_width, where.inner_height)
    middle = whole[-where.top : -where.top + 24, -where.left : -where.left + 20].astype(int)
    gap = np.abs(fit_in(image, spec, how).astype(int) - middle)
    assert gap.max() <= TOLERANCE[resample]


_PROGRAM = """
import resource, sys
import numpy as np
from modelkit.prepare import fit_in
from modelkit.specs import InputSpec, Preprocessing

spec = InputSpec(height=224, width=224)
how = Preprocessing(fit="crop-centre", crop_from=256, resample=sys.argv[1])
fit_in(np.zeros((8, 8, 3), np.uint8), spec, how)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shape in ((1, 4000, 3), (4000, 1, 3)):
    assert fit_in(np.zeros(shape, np.uint8), spec, how).shape == (224, 224, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("resample", RESIZES)
def test_a_long_thin_picture_costs_no_more_memory_than_its_crop(resample: str) -> None:
    """Measured in a process of its own: the peak also counts what Pillow allocates."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, resample], capture_output=True, text=True, check=True, timeout=60
    )
    grown_bytes = int(done.stdout) * 1024
    assert grown_bytes < 60_000_000

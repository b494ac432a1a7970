"""Decoding, measuring and preparing pictures."""

from __future__ import annotations

import io
import operator
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from foundation.errors import RejectedError
from modelkit import images, prepare
from modelkit.specs import Preprocessing
from tests.fakes.models import tiny_contract


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def header_only_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def noise(seed: int = 0, size: tuple[int, int] = (40, 30), low: int = 0, high: int = 256) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(low, high, (*size, 3)).astype(np.uint8)


def test_a_lossless_picture_decodes_to_its_very_pixels() -> None:
    pixels = noise()
    assert np.array_equal(images.decode_image(png(pixels)), pixels)


def test_grey_and_palette_pictures_become_rgb() -> None:
    grey = Image.fromarray(noise()).convert("L")
    out = io.BytesIO()
    grey.save(out, "PNG")
    assert images.decode_image(out.getvalue()).shape == (40, 30, 3)


@pytest.mark.parametrize("size", [(50_000, 50_000), (20_000, 10), (6_000, 6_000), (0, 5)])
def test_a_picture_over_the_limits_is_refused_from_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(RejectedError) as caught:
        images.decode_image(header_only_png(*size))
    assert caught.value.reason == "unreadable_image"


def test_the_refusal_names_the_size_and_the_bound() -> None:
    with pytest.raises(RejectedError, match=r"200 x 300 pixels; the limits are 100 "):
        images.decode_image(header_only_png(200, 300), images.ImageLimits(max_side_pixels=100))


def test_too_many_bytes_are_refused_before_anything_is_parsed() -> None:
    with pytest.raises(RejectedError, match="11 bytes, the limit is 10"):
        images.decode_image(b"x" * 11, images.ImageLimits(max_bytes=10))


@given(st.binary(max_size=400), st.integers(0, 400))
def test_garbage_and_damage_are_rejected_never_raised_raw(garbage: bytes, cut: int) -> None:
    whole = png(noise(size=(8, 8)), "JPEG")
    for payload in (
        garbage,
        whole[:cut] + garbage,
        b"\x89PNG\r\n\x1a\n" + garbage,
        b"BM" + garbage,
        b"RIFF" + garbage,
    ):
        try:
            pixels = images.decode_image(payload)
        except RejectedError as error:
            assert error.reason == "unreadable_image"
        else:
            assert pixels.dtype == np.uint8


def test_a_truncated_picture_is_refused() -> None:
    whole = png(noise())
    with pytest.raises(RejectedError, match="unreadable image"):
        images.decode_image(whole[: len(whole) // 2])


def test_conditions_follow_light_and_sharpness() -> None:
    assert images.condition_of(noise(high=60)) == "dark"
    assert images.condition_of(noise(low=200)) == "bright"
    assert images.condition_of(noise()) == "normal"
    blurred = np.asarray(Image.fromarray(noise(size=(64, 64))).filter(ImageFilter.GaussianBlur(6)))
    assert images.condition_of(blurred) == "blurred"
    assert images.condition_of(np.full((20, 20, 3), 100, dtype=np.uint8)) == "blurred"


@given(st.integers(0, 255), st.integers(1, 50), st.integers(1, 50))
def test_luma_of_a_flat_grey_picture_is_its_grey(value: int, height: int, width: int) -> None:
    measures = images.measure(np.full((height, width, 3), value, dtype=np.uint8))
    assert abs(measures.luma - value) < 1e-3
    assert measures.sharpness == 0.0
    assert measures.condition in images.CONDITIONS


@given(st.floats(0.3, 1.0))
def test_sharpness_hardly_changes_with_brightness(factor: float) -> None:
    pixels = noise(size=(32, 32))
    dimmed = (pixels * factor).astype(np.uint8)
    assert images.sharpness(dimmed) == pytest.approx(images.sharpness(pixels), rel=0.05)


@given(st.integers(0, 2**32 - 1))
def test_luma_and_sharpness_are_the_exact_ratios_rounded_once_whatever_the_processor(seed: int) -> None:
    pixels = noise(seed, (32, 32))
    grey = [[sum(map(operator.mul, (299, 587, 114), pixel)) for pixel in row] for row in pixels.tolist()]
    flat = [value for row in grey for value in row]
    mean = Fraction(sum(flat), len(flat))
    contrast = sum((value - mean) ** 2 for value in flat) / len(flat)
    inner = range(1, 31)
    energies = [
        (4 * grey[y][x] - grey[y - 1][x] - grey[y + 1][x] - grey[y][x - 1] - grey[y][x + 1]) ** 2
        for y in inner
        for x in inner
    ]
    assert images.luma(pixels) == float(mean / 1000)
    assert images.sharpness(pixels) == float(Fraction(sum(energies), len(energies)) / contrast)


def test_preprocess_is_resize_then_normalise() -> None:
    contract = tiny_contract()
    batch = prepare.preprocess([noise(1), noise(2, (32, 32))], contract)
    assert batch.shape == (2, 3, 32, 32) and batch.dtype == np.float32 and batch.flags["C_CONTIGUOUS"]
    expected = (noise(2, (32, 32)).astype(np.float64) / 255 - 0.5) / 0.25
    assert np.allclose(batch[1], expected.transpose(2, 0, 1), atol=1e-5)
    assert prepare.preprocess([], contract).shape == (0, 3, 32, 32)


def test_normalise_uses_each_channels_own_mean_and_std() -> None:
    how = Preprocessing(scale=1.0, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))
    pixels = np.full((1, 2, 2, 3), 5, dtype=np.uint8)
    assert np.allclose(prepare.normalise(pixels, how)[0, :, 0, 0], [4.0, 1.5, 0.5])

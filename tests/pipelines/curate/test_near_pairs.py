"""All pairs are found, exactly, whatever the blocks and the order."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curate.near_bands import band_pairs, choose_bands, cut, near_hash_pairs
from pipelines.curate.near_pairs import (
    blocks_to_compare,
    embedding_pairs,
    hash_pairs,
    pairs_frame,
    rounded_unit,
)
from pipelines.curate.perceptual_hash import HASH_BYTES, as_words, dct_hash
from tests.pipelines.curate_lake import picture


def hashes(rng: np.random.Generator, count: int) -> list[bytes]:
    """Random hashes, half of them a few flipped bits away from another one."""
    found = [rng.bytes(HASH_BYTES) for _ in range(count)]
    for row in range(0, count, 2):
        bits = np.unpackbits(np.frombuffer(found[rng.integers(count)], np.uint8))
        bits[rng.integers(0, 256, rng.integers(0, 40))] ^= 1
        found[row] = np.packbits(bits).tobytes()
    return found


def by_definition(found: list[bytes], limit: int) -> set[tuple[int, int, int]]:
    numbers = [int.from_bytes(value) for value in found]
    return {
        (a, b, (numbers[a] ^ numbers[b]).bit_count())
        for b in range(len(numbers))
        for a in range(b)
        if (numbers[a] ^ numbers[b]).bit_count() <= limit
    }


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 64), st.integers(1, 20), st.integers(0, 60))
def test_the_blocks_find_every_pair_that_the_definition_finds_once(
    seed: int, count: int, limit: int, block_rows: int, first_new: int
) -> None:
    found = hashes(np.random.default_rng(seed), count)
    words = as_words(found)
    met = []
    for block in blocks_to_compare(count, min(first_new, count), block_rows):
        met += list(zip(*(part.tolist() for part in hash_pairs(words, block, limit)), strict=True))
    wanted = {pair for pair in by_definition(found, limit) if pair[1] >= first_new}
    assert len(met) == len(set(met))
    assert set(met) == wanted


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(2, 300),
    st.integers(0, 40),
    st.integers(0, 300),
    st.sampled_from([0, 1]),
)
def test_the_bands_find_every_pair_that_all_pairs_finds_once(
    seed: int, count: int, limit: int, first_new: int, radius: int
) -> None:
    rng = np.random.default_rng(seed)
    words = as_words(hashes(rng, count))
    first_new = min(first_new, count)
    bands = cut(limit // (radius + 1) + 1, int(rng.integers(1, 15)), radius)
    met = []
    for band in bands:
        met += list(
            zip(
                *(part.tolist() for part in band_pairs(words, bands, band.number, limit, first_new)),
                strict=True,
            )
        )
    whole = [hash_pairs(words, block, limit) for block in blocks_to_compare(count, first_new)]
    wanted = {pair for found in whole for pair in zip(*(part.tolist() for part in found), strict=True)}
    assert len(met) == len(set(met))
    assert set(met) == wanted


def test_many_hashes_are_searched_by_bands_and_few_pair_by_pair_with_the_same_result() -> None:
    words = as_words(hashes(np.random.default_rng(3), 12_000))
    assert (
        choose_bands(12_000, 0, 24) and not choose_bands(12_000, 11_990, 24) and not choose_bands(500, 0, 24)
    )
    whole = [hash_pairs(words, block, 24) for block in blocks_to_compare(12_000)]
    wanted = {pair for found in whole for pair in zip(*(part.tolist() for part in found), strict=True)}
    assert set(zip(*(part.tolist() for part in near_hash_pairs(words, 24)), strict=True)) == wanted


def test_a_band_of_equal_hashes_is_compared_stripe_by_stripe() -> None:
    words = as_words([bytes(HASH_BYTES)] * 700)
    assert len(band_pairs(words, cut(25, 10, 0), 0, 24)[0]) == 700 * 699 // 2


def test_pairs_have_names_and_the_smaller_one_comes_first() -> None:
    pairs = pairs_frame(pl.Series(["b", "a"]), np.array([0]), np.array([1]), np.array([3]), "hash")
    assert pairs.rows() == [("a", "b", 3.0, "hash")]


def test_embeddings_near_by_angle_are_found_in_any_order() -> None:
    vectors = np.array(
        [[1, 0, 0], [0.99, 0.05, 0], [0, 1, 0], [5, 0.1, 0], [0, 0, 0], [np.nan, 1, 1]], np.float32
    )
    unit = rounded_unit(vectors)
    rows_a, rows_b, distance = embedding_pairs(unit, (0, 6, 0, 6), 0.01)
    assert set(zip(rows_a.tolist(), rows_b.tolist(), strict=True)) == {(0, 1), (0, 3), (1, 3)}
    backwards = embedding_pairs(unit[::-1].copy(), (0, 6, 0, 6), 0.01)[2]
    assert sorted(distance.tolist()) == sorted(backwards.tolist())


@pytest.mark.parametrize("light", [0.8, 0.9, 1.1])
def test_another_light_is_a_near_duplicate_and_another_picture_is_not(light: float) -> None:
    words = as_words([dct_hash_of(1), dct_hash_of(1, light), dct_hash_of(2)])
    rows_a, rows_b, _ = hash_pairs(words, (0, 3, 0, 3), 24)
    assert list(zip(rows_a.tolist(), rows_b.tolist(), strict=True)) == [(0, 1)]


def dct_hash_of(seed: int, light: float = 1.0) -> bytes:
    from modelkit.images import decode_image

    return dct_hash(decode_image(picture(seed, light=light)))


def test_hashes_that_agree_in_many_bits_and_are_not_near_are_compared_no_more_than_pair_by_pair() -> None:
    rng = np.random.default_rng(3)
    apart = np.frombuffer(rng.bytes(32 * 9_000), dtype=np.uint64).reshape(9_000, 4)
    bands = choose_bands(len(apart), 0, 29, apart)
    assert bands
    alike = apart.copy()
    for band in bands[: len(bands) // 2]:
        alike = (alike & ~band.mask()) | (alike[:1] & band.mask())
    assert not choose_bands(len(alike), 0, 29, alike)
    assert sum(each.candidates(alike, 0) for each in bands) > len(alike) ** 2

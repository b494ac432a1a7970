"""All pairs are found, exactly, whatever the blocks and the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_pairs_have_names_and_the_smaller_one_comes_first() -> None:
    pairs = pairs_frame(["b", "a"], np.array([0]), np.array([1]), np.array([3]), "hash")
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

"""A parked car's pictures leave before they are compared; what stays is what the exact comparison decides on."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curate.dense_scenes import DENSE_FRAMES, collapse
from pipelines.curate.near_bands import near_hash_pairs
from pipelines.curate.perceptual_hash import as_words

BITS = 29


def near(base: np.ndarray, count: int, flips: int, rng: np.random.Generator) -> list[bytes]:
    """Hashes each at most `flips` bits from the base."""
    found = []
    for _ in range(count):
        bits = base.copy()
        bits[rng.choice(256, flips, replace=False)] ^= 1
        found.append(np.packbits(bits).tobytes())
    return found


def scene(seed: int, count: int, flips: int = 6) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return near(rng.integers(0, 2, 256, dtype=np.uint8), count, flips, rng)


def frames(hashes: list[bytes], *, vehicle: str = "car", name: str = "", **changes: object) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "payload_sha256": [hashlib.sha256(f"{vehicle}/{name}/{n}".encode()).hexdigest() for n in range(len(hashes))],
            "image_hash": hashes, "vehicle_id": vehicle, "split": "train", "is_labelled": False, "is_good": True,
        }
    ).with_columns(pl.lit(value).alias(column) for column, value in changes.items())  # fmt: skip


def pairs(found: pl.DataFrame) -> int:
    return len(near_hash_pairs(as_words(found["image_hash"].to_list()), BITS)[0])


def test_the_pairs_of_a_parked_car_grow_with_its_frames_and_not_with_their_square() -> None:
    left = {count: collapse(frames(scene(1, count)), BITS)[0] for count in (500, 2_000, 8_000)}
    assert max(pairs(each) for each in left.values()) <= DENSE_FRAMES**2
    assert left[8_000].height <= DENSE_FRAMES


def test_each_frame_that_left_names_one_that_stays_and_is_near() -> None:
    every = pl.concat([frames(scene(seed, 400), name=str(seed)) for seed in range(3)])
    left, gone = collapse(every, BITS)
    assert left.height + gone.height == every.height
    assert not set(left["payload_sha256"]) & set(gone["payload_sha256"])
    assert set(gone["match_sha256"]) <= set(left["payload_sha256"])
    hashes = dict(every.select("payload_sha256", "image_hash").iter_rows())
    for sha, match, distance in gone.select("payload_sha256", "match_sha256", "distance").iter_rows():
        apart = int.from_bytes(hashes[sha]) ^ int.from_bytes(hashes[match])
        assert apart.bit_count() == distance <= BITS


def test_what_is_no_dense_scene_is_left_to_the_exact_comparison_as_it_was() -> None:
    rng = np.random.default_rng(4)
    apart = [rng.bytes(32) for _ in range(3_000)]
    tracks = [hash_ for seed in range(40) for hash_ in scene(100 + seed, 30)]
    every = frames(apart + tracks)
    left, gone = collapse(every, BITS)
    assert gone.is_empty()
    assert left.equals(every)


def test_a_labelled_frame_and_another_vehicles_frame_never_leave() -> None:
    hashes = scene(2, 1_000)
    paid = frames(hashes[:100], name="paid", is_labelled=True)
    others = frames(hashes[100:140], vehicle="honest")
    left, gone = collapse(pl.concat([paid, others, frames(hashes[140:], vehicle="evil")]), BITS)
    assert set(paid["payload_sha256"]) | set(others["payload_sha256"]) <= set(left["payload_sha256"])
    assert gone.height > 700


def test_frames_of_test_drives_and_of_training_have_no_leader_in_common() -> None:
    hashes = scene(3, 400)
    test = frames(hashes[:200], name="t", split="test")
    _, gone = collapse(pl.concat([test, frames(hashes[200:])]), BITS)
    of_test = set(test["payload_sha256"])
    assert gone.height > 200
    assert all(
        (a in of_test) == (b in of_test) for a, b in gone.select("payload_sha256", "match_sha256").iter_rows()
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 5), st.integers(0, 1000))
def test_no_order_of_arrival_and_no_presence_of_others_changes_who_leaves(seed: int, order: int) -> None:
    every = pl.concat([frames(scene(seed, 200, 12)), frames(scene(seed + 1, 90), vehicle="b")])
    _, gone = collapse(every, BITS)
    _, mixed = collapse(every.sample(fraction=1, shuffle=True, seed=order), BITS)
    assert gone.sort("payload_sha256").equals(mixed.sort("payload_sha256"))
    _, alone = collapse(every.filter(pl.col("vehicle_id") == "b"), BITS)
    own = every.filter(pl.col("vehicle_id") == "b").select("payload_sha256")
    assert gone.join(own, on="payload_sha256").sort("payload_sha256").equals(alone.sort("payload_sha256"))

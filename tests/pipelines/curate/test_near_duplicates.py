"""Guarantee 5, second half: a near-duplicate of a test frame never enters training, whatever the order."""

from __future__ import annotations

import random

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curate.near_duplicates import remove_near_duplicates
from pipelines.curate.near_pairs import PAIR_SCHEMA

NAMES = [f"{n:02d}" for n in range(12)]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[dict[str, object]], list[tuple[str, str, float, str]]]:
    frames = [
        {
            "payload_sha256": name,
            "split": draw(st.sampled_from(["train", "validation", "test"])),
            "vehicle_id": draw(st.sampled_from(["", "a", "b"])),
            "is_labelled": draw(st.booleans()),
            "is_good": draw(st.booleans()),
        }
        for name in NAMES
    ]
    chosen = draw(st.sets(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=30))
    pairs = [(min(a, b), max(a, b), float(draw(st.integers(0, 24))), "hash") for a, b in chosen if a != b]
    return frames, sorted({(a, b): (a, b, d, m) for a, b, d, m in pairs}.values())


def decide(
    frames: list[dict[str, object]], pairs: list[tuple[str, str, float, str]]
) -> dict[str, tuple[str, str]]:
    schema = {
        "payload_sha256": pl.String,
        "split": pl.String,
        "vehicle_id": pl.String,
        "is_labelled": pl.Boolean,
        "is_good": pl.Boolean,
    }
    frames = [{"vehicle_id": "car", **frame} for frame in frames]
    found = remove_near_duplicates(
        pl.DataFrame(frames, schema=schema), pl.DataFrame(pairs, schema=PAIR_SCHEMA, orient="row")
    )
    return {
        sha: (reason, match)
        for sha, reason, match in found.select("payload_sha256", "reason", "match_sha256").rows()
    }


@settings(max_examples=200)
@given(worlds(), st.integers(0, 1000))
def test_the_decisions_do_not_depend_on_the_order_of_frames_or_pairs(world: tuple, seed: int) -> None:  # type: ignore[type-arg]
    frames, pairs = world
    shuffler = random.Random(seed)
    assert decide(frames, pairs) == decide(
        shuffler.sample(frames, len(frames)), shuffler.sample(pairs, len(pairs))
    )


@settings(max_examples=200)
@given(worlds())
def test_nothing_near_a_labelled_test_frame_or_one_of_its_own_vehicle_stays_outside_test(
    world: tuple,
) -> None:  # type: ignore[type-arg]
    frames, pairs = world
    gone = decide(frames, pairs)
    of = {str(frame["payload_sha256"]): frame for frame in frames}
    for a, b, *_ in pairs:
        for mine, other in ((of[a], of[b]), (of[b], of[a])):
            is_admitted = other["is_labelled"] and other["is_good"]
            is_own = mine["vehicle_id"] == other["vehicle_id"]
            if (
                mine["split"] != "test"
                and other["split"] == "test"
                and mine["is_good"]
                and (is_admitted or is_own)
            ):
                assert gone[mine["payload_sha256"]][0] == "near_duplicate_of_test"


@settings(max_examples=200)
@given(worlds(), st.sampled_from(["a", "b"]))
def test_what_a_vehicle_sends_and_nobody_labelled_removes_nothing_of_another(
    world: tuple, vehicle: str
) -> None:  # type: ignore[type-arg]
    frames, pairs = world
    hostile = {
        frame["payload_sha256"]
        for frame in frames
        if frame["vehicle_id"] == vehicle and not (frame["is_labelled"] and frame["is_good"])
    }
    without = [pair for pair in pairs if not hostile & set(pair[:2])]
    beside, alone = decide(frames, pairs), decide(frames, without)
    others = {f["payload_sha256"] for f in frames if f["vehicle_id"] != vehicle}
    assert others & set(beside) == others & set(alone)


@settings(max_examples=200)
@given(worlds())
def test_no_two_near_frames_of_one_side_both_stay_but_unlabelled_ones_of_two_vehicles(world: tuple) -> None:  # type: ignore[type-arg]
    frames, pairs = world
    gone = decide(frames, pairs)
    of = {str(frame["payload_sha256"]): frame for frame in frames}
    split = {name: frame["split"] for name, frame in of.items()}
    good = {str(frame["payload_sha256"]) for frame in frames if frame["is_good"]}
    near = {frozenset((a, b)) for a, b, *_ in pairs}
    for a, b, *_ in pairs:
        is_shared = of[a]["vehicle_id"] != of[b]["vehicle_id"] and not (
            of[a]["is_labelled"] or of[b]["is_labelled"]
        )
        if (split[a] == "test") == (split[b] == "test") and {a, b} <= good and not is_shared:
            assert a in gone or b in gone
    for sha, (_, match) in gone.items():
        assert frozenset((sha, match)) in near


def test_a_near_duplicate_of_a_test_frame_that_nobody_may_use_leaves_all_the_same() -> None:
    frames = [
        {"payload_sha256": "00", "split": "train", "is_labelled": True, "is_good": True},
        {"payload_sha256": "01", "split": "test", "is_labelled": False, "is_good": False},
    ]
    assert decide(frames, [("00", "01", 3.0, "hash")]) == {"00": ("near_duplicate_of_test", "01")}


def test_a_paid_label_is_not_thrown_away_for_an_unlabelled_twin() -> None:
    frames = [
        {"payload_sha256": "00", "split": "train", "is_labelled": False, "is_good": True},
        {"payload_sha256": "01", "split": "train", "is_labelled": True, "is_good": True},
    ]
    assert decide(frames, [("00", "01", 3.0, "hash")]) == {"00": ("near_duplicate", "01")}


def test_of_a_chain_only_the_frames_with_a_smaller_neighbour_leave() -> None:
    frames = [
        {"payload_sha256": n, "split": "train", "is_labelled": True, "is_good": True} for n in NAMES[:3]
    ]
    gone = decide(frames, [("00", "01", 3.0, "hash"), ("01", "02", 3.0, "hash")])
    assert gone == {"01": ("near_duplicate", "00"), "02": ("near_duplicate", "01")}

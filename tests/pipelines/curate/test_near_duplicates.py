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
            "since_ns": draw(st.sampled_from([None, 1, 2, 3])),
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
        "since_ns": pl.Int64,
    }
    frames = [{"vehicle_id": "car", "since_ns": 1, **frame} for frame in frames]
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
def test_no_labelled_frame_outside_test_is_near_one_in_test_nor_near_any_test_frame_of_its_own_vehicle(
    world: tuple,
) -> None:  # type: ignore[type-arg]
    frames, pairs = world
    gone = decide(frames, pairs)
    of = {str(frame["payload_sha256"]): frame for frame in frames}
    for a, b, *_ in pairs:
        for mine, other in ((of[a], of[b]), (of[b], of[a])):
            if mine["split"] == "test" or other["split"] != "test" or not mine["is_good"]:
                continue
            if mine["vehicle_id"] == other["vehicle_id"]:
                assert gone[mine["payload_sha256"]][0] == "near_duplicate_of_test"
            elif mine["is_labelled"] and other["is_labelled"] and other["is_good"]:
                assert {mine["payload_sha256"], other["payload_sha256"]} & set(gone)


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
@given(worlds(), st.sampled_from(["a", "b"]))
def test_what_a_vehicle_sends_later_removes_nothing_of_another_labelled_or_not(
    world: tuple, vehicle: str
) -> None:  # type: ignore[type-arg]
    frames, pairs = world
    frames = [
        {**frame, "since_ns": (frame["since_ns"] or 0) + 10} if frame["vehicle_id"] == vehicle else frame
        for frame in frames
    ]
    hostile = {frame["payload_sha256"] for frame in frames if frame["vehicle_id"] == vehicle}
    beside = decide(frames, pairs)
    alone = decide(frames, [pair for pair in pairs if not hostile & set(pair[:2])])
    assert {sha: why for sha, why in beside.items() if sha not in hostile} == alone


@settings(max_examples=200)
@given(worlds())
def test_no_two_near_frames_of_one_side_both_stay_but_of_two_vehicles_while_nobody_labelled_the_earlier(
    world: tuple,
) -> None:  # type: ignore[type-arg]
    frames, pairs = world
    gone = decide(frames, pairs)
    of = {str(frame["payload_sha256"]): frame for frame in frames}
    split = {name: frame["split"] for name, frame in of.items()}
    good = {str(frame["payload_sha256"]) for frame in frames if frame["is_good"]}
    near = {frozenset((a, b)) for a, b, *_ in pairs}
    for a, b, *_ in pairs:
        earlier = min((of[a], of[b]), key=lambda f: (f["since_ns"] or -1, not f["is_labelled"]))
        is_shared = of[a]["vehicle_id"] != of[b]["vehicle_id"] and not earlier["is_labelled"]
        if (split[a] == "test") == (split[b] == "test") and {a, b} <= good and not is_shared:
            assert a in gone or b in gone
    for sha, (_, match) in gone.items():
        assert frozenset((sha, match)) in near


def of_two_vehicles(first: dict[str, object], second: dict[str, object]) -> dict[str, tuple[str, str]]:
    """The decisions on near frames of two vehicles: "00", and the later "01"."""
    base = {"is_labelled": True, "is_good": True}
    frames = [
        {**base, "payload_sha256": "00", "vehicle_id": "a", "since_ns": 1, **first},
        {**base, "payload_sha256": "01", "vehicle_id": "b", "since_ns": 2, **second},
    ]
    return decide(frames, [("00", "01", 3.0, "hash")])


def test_a_labelled_copy_in_a_test_drive_takes_no_earlier_frame_of_another_vehicle_out_of_training() -> None:
    assert of_two_vehicles({"split": "train"}, {"split": "test"}) == {"01": ("near_duplicate", "00")}
    assert of_two_vehicles({"split": "train", "is_labelled": False}, {"split": "test"}) == {}


def test_a_labelled_copy_in_a_training_drive_takes_no_earlier_frame_of_another_vehicle_out_of_test() -> None:
    gone = {"01": ("near_duplicate_of_test", "00")}
    assert of_two_vehicles({"split": "test"}, {"split": "train"}) == gone
    assert of_two_vehicles({"split": "test", "is_labelled": False}, {"split": "train"}) == {}


def test_a_reference_picture_was_there_before_every_frame_of_the_fleet() -> None:
    reference = {"split": "train", "vehicle_id": "", "since_ns": None}
    assert of_two_vehicles({"split": "test"}, reference) == {"00": ("near_duplicate", "01")}


def test_of_two_vehicles_frames_of_one_run_of_ingest_the_test_frame_was_first() -> None:
    same = {"since_ns": 2}
    gone = {"00": ("near_duplicate_of_test", "01")}
    assert of_two_vehicles({"split": "train", **same}, {"split": "test"}) == gone


def test_what_left_keeps_no_frame_of_another_vehicle_out() -> None:
    frames = [
        {"payload_sha256": "00", "vehicle_id": "a", "since_ns": 1},
        {"payload_sha256": "01", "vehicle_id": "b", "since_ns": 2},
        {"payload_sha256": "02", "vehicle_id": "c", "since_ns": 3},
    ]
    labelled = [{**frame, "split": "train", "is_labelled": True, "is_good": True} for frame in frames]
    gone = decide(labelled, [("00", "01", 3.0, "hash"), ("01", "02", 3.0, "hash")])
    assert gone == {"01": ("near_duplicate", "00")}


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

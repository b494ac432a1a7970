"""Pictures and label files for tests, and labels that were read, with both sums held."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from connectors.labels.label_set import LabelSet, Shape
from connectors.labels.picture_sets import FolderPictures
from modelkit.picture_facts import facts
from services.own_labels import LabelForm, read_labels, shape_of

CLASSES = ("green", "red", "yellow")


SQUARE = [4, 3, 20, 3, 20, 15, 4, 15]


def put(folder: Path, *names: str, size: tuple[int, int] = (32, 24)) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number * 7 % 256, 90, 30)).save(
            path, "JPEG" if name.endswith("jpg") else "PNG"
        )
    return folder


def look(payload: bytes) -> Shape:
    """Look at a picture in this process, for speed."""
    return shape_of(facts(payload))


def read(
    file: Path, folder: Path, classes: tuple[str, ...] = CLASSES, form: LabelForm = LabelForm.AUTO
) -> LabelSet:
    labels, _ = read_labels(file, FolderPictures(folder, look), classes, form)
    rows, outcomes = labels.rows_sum()
    pictures, states = labels.pictures_sum()
    assert rows == sum(outcomes.values()) and pictures == sum(states.values())
    return labels


def classes_of(labels: LabelSet) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for mark in labels.marks:
        found.setdefault(mark.picture, []).append(mark.class_name)
    return found


def refusals(labels: LabelSet) -> dict[str, str]:
    return {each.where: each.reason for each in labels.refused}


def coco(images: list[dict], annotations: list[dict], categories: list[dict] | None = None) -> str:
    kinds = categories or [{"id": 0, "name": "green"}, {"id": 7, "name": "red"}, {"id": 90, "name": "yellow"}]
    return json.dumps({"images": images, "categories": kinds, "annotations": annotations})

"""Labels in COCO's form: ids and names as tools write them, boxes, masks, turned pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from foundation.errors import CorruptError, FleetLoopError, MisconfiguredError
from modelkit.images import decode_image
from services.own_labels import import_labels
from tests.pipelines.curate_lake import make_workspace
from tests.services.label_files import SQUARE, classes_of, coco, put, read, refusals


def test_ids_of_coco_are_compared_as_they_are_and_classes_go_by_name(tmp_path: Path) -> None:
    put(tmp_path, *(f"{number}.png" for number in range(4)))
    ids = [0, "a-17", "4", 2**53 + 1]
    images = [{"id": each, "file_name": f"{number}.png"} for number, each in enumerate(ids)]
    pairs = [(0, 0), ("a-17", 7), (4, 90), (2**53 + 1, 7), (0, 5), (777, 7), (2**53, 7), (0.0, 7)]
    marks = [
        {"id": number, "image_id": image, "category_id": kind, "bbox": [2, 3, 10, 8]}
        for number, (image, kind) in enumerate(pairs)
    ]
    (tmp_path / "c.json").write_text(coco(images, marks))
    labels = read(tmp_path / "c.json", tmp_path)
    assert classes_of(labels) == {"0.png": ["green"], "1.png": ["red"], "2.png": ["yellow"], "3.png": ["red"]}
    assert list(refusals(labels).values()) == ["unknown category 5", *["unknown image"] * 3]


BOXES = {
    "[4.25, 4.75, 20.5, 10.125]": (4.25, 4.75, 24.75, 14.875),
    "[0, 0, 64, 48]": (0, 0, 64, 48),
    "[-3, -2, 20, 10]": (0, 0, 17, 8),
    "[50, 40, 30, 30]": (50, 40, 64, 48),
    "[70, 10, 5, 5]": "outside of the picture of 64 x 48",
    "[10, 10, 0, 5]": "without width or height",
    "[10, 10, 5, -5]": "without width or height",
    "[10, 10, 0.4, 9]": "below one pixel",
    "[NaN, 4, 20, 10]": "not finite",
    "[4, 4, 1e400, 10]": "not finite",
    f"[4, 4, 1{'0' * 400}, 10]": "not finite",
    "[4, 4, 20]": "no list of four numbers",
    "null": "no bbox",
    '["4", "4", "20", "10"]': "no list of four numbers",
    "[true, 4, 20, 10]": "no list of four numbers",
    '{"x": 4}': "no list of four numbers",
}


@pytest.mark.parametrize("box", BOXES)
def test_a_box_is_taken_clipped_and_said_or_refused(tmp_path: Path, box: str) -> None:
    put(tmp_path, "a.png", size=(64, 48))
    text = coco(
        [{"id": 1, "file_name": "a.png"}], [{"id": 1, "image_id": 1, "category_id": 7, "bbox": "BOX"}]
    )
    (tmp_path / "c.json").write_text(text.replace('"BOX"', box))
    labels = read(tmp_path / "c.json", tmp_path)
    wanted = BOXES[box]
    if isinstance(wanted, str):
        assert not labels.marks and wanted in labels.refused[0].reason
    else:
        assert labels.marks[0].edges == wanted and bool(labels.notes) == (box.startswith(("[-3", "[50")))


SEGMENTS = {
    "from the polygon": ({"segmentation": [SQUARE]}, "taken"),
    "empty": ({"bbox": [4, 3, 16, 12], "segmentation": [[]]}, "taken"),
    "two points": ({"segmentation": [[4, 3, 20, 15]]}, "a polygon that is no list"),
    "odd": ({"segmentation": [[4, 3, 20, 15, 9, 1, 2]]}, "a polygon that is no list"),
    "beyond a float": ({"segmentation": [[10**400, 3, 20, 15, 9, 1]]}, "a polygon with something"),
    "crowd": ({"iscrowd": 1, "bbox": [4, 3, 16, 12]}, "crowd"),
    "disagree": ({"bbox": [0, 0, 2, 2], "segmentation": [SQUARE]}, "bbox and segmentation disagree"),
}


@pytest.mark.parametrize("kind", SEGMENTS)
def test_a_crowd_is_no_object_and_a_polygon_gives_a_box(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "a.png")
    mark, wanted = SEGMENTS[kind]
    image = [{"id": 1, "file_name": "a.png"}]
    (tmp_path / "c.json").write_text(coco(image, [{"id": 1, "image_id": 1, "category_id": 7, **mark}]))
    labels = read(tmp_path / "c.json", tmp_path)
    if wanted == "taken":
        assert [mark.edges for mark in labels.marks] == [(4, 3, 20, 15)]
    elif wanted == "crowd":
        assert labels.ignored == [("annotation 1", "crowd")] and labels.state("a.png") == "not labelled"
    else:
        assert labels.refused[0].reason.startswith(wanted)


@pytest.mark.parametrize("form", ["as-shown", "as-stored", "mixed"])
def test_boxes_of_turned_pictures_lie_on_what_they_mark(tmp_path: Path, form: str) -> None:
    shown = {1: (8, 8, 24, 16), 3: (40, 32, 56, 40), 6: (32, 8, 40, 24), 8: (8, 40, 16, 56)}
    images, marks = [], []
    for number, (orientation, box) in enumerate(shown.items()):
        picture = Image.new("RGB", (64, 48), (120, 120, 120))
        picture.paste((230, 20, 20), (8, 8, 24, 16))
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / f"{orientation}.jpg", "JPEG", quality=95, subsampling=0, exif=exif.tobytes())
        size = (48, 64) if orientation > 4 and form == "as-shown" else (64, 48)
        images.append({"id": number, "file_name": f"{orientation}.jpg", "width": size[0], "height": size[1]})
        left, top, right, bottom = (8, 8, 24, 16) if form == "as-stored" else box
        edges = [left, top, right - left, bottom - top]
        marks.append({"id": number, "image_id": number, "category_id": 7, "bbox": edges})
    (tmp_path / "c.json").write_text(coco(images, marks))
    labels = read(tmp_path / "c.json", tmp_path)
    assert len(labels.marks) == 4 and labels.notes
    for mark in labels.marks:
        left, top, right, bottom = map(int, mark.edges or ())
        pixels = decode_image((tmp_path / mark.picture).read_bytes())
        assert pixels[top:bottom, left:right, 0].mean() >= 180


def test_an_image_sized_as_shown_keeps_its_boxes_where_another_of_the_file_is_sized_as_stored(
    tmp_path: Path,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("stored.jpg", "shown.jpg"):
        Image.new("RGB", (64, 48)).save(tmp_path / name, exif=exif)
    images = [
        {"id": 1, "file_name": "stored.jpg", "width": 64, "height": 48},
        {"id": 2, "file_name": "shown.jpg", "width": 48, "height": 64},
    ]
    marks = [{"id": n, "image_id": n, "category_id": 7, "bbox": [0, 0, 20, 10]} for n in (1, 2)]
    (tmp_path / "c.json").write_text(coco(images, marks))
    labels = read(tmp_path / "c.json", tmp_path)
    assert {mark.picture: mark.edges for mark in labels.marks} == {
        "stored.jpg": (38, 0, 48, 20),
        "shown.jpg": (0, 0, 20, 10),
    }
    assert list(labels.notes.values()) == [["annotation 1"]]


def test_looked_at_and_nothing_there_differs_from_not_labelled(tmp_path: Path) -> None:
    put(tmp_path, *(f"{number}.png" for number in range(5)))
    (tmp_path / "5.png").write_bytes(b"")
    images = [{"id": number, "file_name": f"{number}.png"} for number in (0, 1, 2, 3, 5, 8)]
    marks = [
        {"id": number, "image_id": image, "category_id": 7, "bbox": [2, 2, 8, 8]}
        for number, image in enumerate((0, 0, 1, 5, 8, 77))
    ]
    (tmp_path / "c.json").write_text(coco(images, marks))
    labels = read(tmp_path / "c.json", tmp_path)
    assert labels.negatives == ["2.png", "3.png"]
    assert labels.pictures_sum() == (
        7,
        {
            "labelled": 2,
            "negative (looked at, nothing there)": 2,
            "not labelled": 1,
            "unreadable": 1,
            "not on disk": 1,
        },
    )
    assert list(refusals(labels).values()) == ["unreadable picture", "no such picture", "unknown image"]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('{"images": [], "categories": []}', MisconfiguredError, "no list 'annotations'"),
        ('[{"image_id": 0, "category_id": 1, "score": 0.9}]', MisconfiguredError, "results of a model"),
        ('{"images": [], "cat', CorruptError, "line 1, column"),
        ("[" * 100_000, FleetLoopError, "c.json"),
    ],
    ids=["no annotations", "results", "cut", "nested"],
)
def test_what_is_no_dataset_is_refused_with_its_reason(
    tmp_path: Path, text: str, error: type[FleetLoopError], words: str
) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(error, match=words):
        read(tmp_path / "c.json", tmp_path)


def test_a_mask_without_a_bbox_is_refused_by_its_annotation_and_the_others_are_taken(tmp_path: Path) -> None:
    put(tmp_path / "images", "1.png", "2.png")
    place = make_workspace(tmp_path / "ws", [])
    mask = {"size": [24, 32], "counts": [3, 5, 760]}
    marks = [
        {"id": 7, "image_id": 1, "category_id": 1, "segmentation": mask},
        {"id": 8, "image_id": 1, "category_id": 1, "segmentation": mask, "bbox": [1, 2, 8, 9]},
    ]
    document = {
        "images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}],
        "categories": [{"id": 1, "name": "red"}],
        "annotations": marks,
    }
    (tmp_path / "l.json").write_text(json.dumps(document))
    found = import_labels(place, tmp_path / "l.json", pictures=tmp_path / "images", task="detection")
    (refused,) = found.refused
    assert (refused.where, refused.reason.partition(",")[0]) == ("annotation 7", "no bbox")
    assert "run-length segmentation" in refused.reason
    assert found.answers == 2, "one picture with a box, and one that somebody looked at"

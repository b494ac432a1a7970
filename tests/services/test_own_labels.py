"""Labels as people and tools write them: each row is taken, ignored or refused by reason, and no label goes astray."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from connectors.labels.box_folders import SEVERAL_FOLDERS
from connectors.labels.desk import FileLabelDesk
from connectors.labels.label_set import LabelSet
from connectors.labels.picture_sets import FolderPictures, NamedPayloads
from foundation.errors import CorruptError, FleetLoopError, MisconfiguredError
from modelkit.images import decode_image
from services.own_labels import LabelForm, import_labels, look, read_labels
from tests.pipelines.curate_lake import fleet_rows, make_workspace

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


def table(
    separator: str = ",", quote: str = "", head: tuple[str, str] = ("file", "class"), end: str = "\n"
) -> str:
    rows = [head, *((f"img_{number}.png", CLASSES[number % 3]) for number in range(6))]
    return end.join(separator.join(f"{quote}{cell}{quote}" for cell in row) for row in rows) + end


DIALECTS = {
    "plain": table().encode(),
    "byte-order mark": b"\xef\xbb\xbf" + table().encode(),
    "semicolon": table(";").encode(),
    "tab": table("\t").encode(),
    "quoted": table(quote='"').encode(),
    "CRLF": table(end="\r\n").encode(),
    "header in capitals": table(head=("File", "CLASS")).encode(),
    "space in the header": table(", ", head=("file ", "class ")).encode(),
    "UTF-16": table().encode("utf-16"),
    "Excel's line": ("sep=;\n" + table(";")).encode(),
    "blank lines": (table() + "\n\n").encode(),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_of_a_table_gives_the_same_labels(tmp_path: Path, dialect: str) -> None:
    put(tmp_path, *(f"img_{number}.png" for number in range(6)))
    (tmp_path / "labels.csv").write_bytes(DIALECTS[dialect])
    labels = read(tmp_path / "labels.csv", tmp_path)
    assert classes_of(labels) == {f"img_{number}.png": [CLASSES[number % 3]] for number in range(6)}
    assert not labels.refused and not labels.notes


def test_a_header_without_the_columns_is_refused_with_what_was_found_wanted_and_tried(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_text("sha,colour\n1,red\n")
    with pytest.raises(
        MisconfiguredError, match=r"header is 'sha,colour'.*column file.*column class.*',' ';'"
    ):
        read(tmp_path / "labels.csv", tmp_path)


def test_paths_and_doubles_never_give_a_row_to_another_picture(tmp_path: Path) -> None:
    put(tmp_path, *(f"front/{number:04d}.png" for number in range(1, 11)), "rear/0001.png", "rear/0002.png")
    rows = [
        ("front/0001.png", "green"),
        ("rear/0001.png", "red"),
        ("front\\0002.png", "yellow"),
        ("./front/0003.png", "green"),
        ("FRONT/0004.PNG", "red"),
        ("/data/cam/front/0005.png", "yellow"),
        ("C:\\data\\cam\\rear\\0002.png", "green"),
        ("front/0006.png", "red"),
        ("front/0006.png", "red"),
        ("front/0007.png", "red"),
        ("front/0007.png", "green"),
        ("front/0008.png", "red|yellow"),
        ("front/0009.png", ""),
        ("front/missing.png", "red"),
        ("", "green"),
        ("0001.png", "green"),
        ("/elsewhere/rear/0005.png", "red"),
    ]
    (tmp_path / "l.csv").write_text("file,class\n" + "".join(f'"{file}",{name}\n' for file, name in rows))
    labels = read(tmp_path / "l.csv", tmp_path)
    assert classes_of(labels) == {
        "front/0001.png": ["green"],
        "rear/0001.png": ["red"],
        "front/0002.png": ["yellow"],
        "front/0003.png": ["green"],
        "front/0004.png": ["red"],
        "front/0005.png": ["yellow"],
        "rear/0002.png": ["green"],
        "front/0006.png": ["red"],
    }
    assert labels.same_again == ["line 10"]
    told = refusals(labels)
    assert sorted(told, key=lambda where: int(where[5:])) == [
        f"line {n}" for n in (11, 12, 13, 14, 15, 16, 17, 18)
    ]
    assert told["line 11"] == told["line 12"] == "contradiction: front/0007.png is green and red"
    assert "front/0001.png, rear/0001.png" in told["line 17"]
    assert labels.state("front/0010.png") == "not labelled"


SPELLINGS = {
    "red": "red",
    "red ": "red",
    "Red": "red",
    "\u00a0red": "red",
    "red\u200b": "red",
    "re\0d": "unknown class",
    "1": "unknown class",
    "nan": "unknown class",
    "redd": "the nearest is 'red'",
    "red,green": "2 classes in one cell",
    "": "no class",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_class_is_the_contracts_own_or_refused_by_value(tmp_path: Path, spelling: str) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "l.json").write_text(json.dumps([{"file": "a.png", "class": spelling}]))
    labels = read(tmp_path / "l.json", tmp_path)
    wanted = SPELLINGS[spelling]
    if wanted == "red":
        assert classes_of(labels) == {"a.png": ["red"]} and bool(labels.notes) == (spelling != "red")
    else:
        assert not labels.marks and wanted in labels.refused[0].reason


@pytest.mark.parametrize("value", [0, 1, 1.5, True, None, ["red"], {"red": 1}])
def test_what_is_no_text_is_no_class(tmp_path: Path, value: object) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "l.json").write_text(json.dumps([{"class": value, "file": "a.png"}]))
    labels = read(tmp_path / "l.json", tmp_path)
    assert not labels.marks and labels.refused[0].reason.startswith("no class")


def test_composed_and_decomposed_letters_are_the_same_in_files_and_classes(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "gr\u00fcn") for form in ("NFC", "NFD"))
    put(tmp_path, f"{decomposed}.png", "b.png")
    (tmp_path / "l.csv").write_text(f"file,class\n{composed}.png,{decomposed}\nb.png,{composed}\n", "utf-8")
    labels = read(tmp_path / "l.csv", tmp_path, (composed, "rot"))
    assert classes_of(labels) == {f"{decomposed}.png": [composed], "b.png": [composed]}
    assert [len(where) for where in labels.notes.values()] == [1, 1]


def coco(images: list[dict], annotations: list[dict], categories: list[dict] | None = None) -> str:
    kinds = categories or [{"id": 0, "name": "green"}, {"id": 7, "name": "red"}, {"id": 90, "name": "yellow"}]
    return json.dumps({"images": images, "categories": kinds, "annotations": annotations})


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


def test_kitti_dont_care_is_neither_label_nor_negative(tmp_path: Path) -> None:
    rest = "1.50 1.60 3.70 1.40 1.60 7.60 -1.57"
    files = {
        "0": [f"Car 0.00 0 -1.93 10.00 2.50 30.25 20.00 {rest}", f"DontCare -1 -1 -10 1 1 9 9 {rest}"],
        "1": [f"DontCare -1 -1 -10 0 0 30 20 {rest}"],
        "2": [],
        "3": [f"Car  0.00\t0 -1.93 10 2.5 30.25 20 {rest} 0.87 ", ""],
        "4": [f"car 0 3 -1.93 -0.5 2 40 20 {rest}", f"Car 0 1 0 5 5 5 9 {rest}", "Car 0 0 1"],
        "9": [f"Car 0.00 0 -1.93 10.00 2.50 30.25 20.00 {rest}"],
    }
    put(tmp_path / "image_2", *(f"{number}.png" for number in range(6)))
    (tmp_path / "label_2").mkdir()
    for name, lines in files.items():
        (tmp_path / "label_2" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    labels = read(tmp_path / "label_2", tmp_path / "image_2", ("Car", "Van"))
    assert {mark.where: mark.edges for mark in labels.marks} == {
        "0 line 1": (10, 2.5, 30.25, 20),
        "3 line 1": (10, 2.5, 30.25, 20),
        "4 line 1": (0, 2, 32, 20),
    }
    assert [where for where, _ in labels.ignored] == ["0 line 2", "1 line 1"]
    assert labels.negatives == ["2.png"] and labels.state("1.png") == labels.state("5.png") == "not labelled"
    assert list(refusals(labels)) == ["4 line 2", "4 line 3", "9 line 1"]
    assert len(labels.notes) == 3  # a score, a class in another case, a clipped box


@pytest.mark.parametrize(
    ("labels_at", "pictures_at"),
    [
        ("training", "training"),
        ("training/label_2", "training"),
        ("", ""),
        ("training/label_2", "training/image_2"),
    ],
)
def test_kitti_labels_go_to_the_pictures_of_their_own_camera(
    tmp_path: Path, labels_at: str, pictures_at: str
) -> None:
    put(tmp_path / "training", "image_2/000000.png", "image_3/000000.png")
    (tmp_path / "training" / "label_2").mkdir()
    row = "Car 0.00 0 -1.93 10.00 2.50 30.25 20.00 1.50 1.60 3.70 1.40 1.60 7.60 -1.57\n"
    (tmp_path / "training" / "label_2" / "000000.txt").write_text(row)
    labels = read(tmp_path / labels_at, tmp_path / pictures_at, ("Car",), LabelForm.KITTI)
    assert [mark.picture.removeprefix("training/").removeprefix("image_2/") for mark in labels.marks] == [
        "000000.png"
    ]
    assert not any("image_3" in mark.picture for mark in labels.marks)


@pytest.mark.parametrize(
    ("folders", "pictures_at", "taken", "reason"),
    [
        (("label_2", "label_3"), "pictures", 0, SEVERAL_FOLDERS),
        (("label_2", "label_3"), "image_2", 1, "labels of camera 3, pictures of camera 2"),
        (("label_2",), "image_2", 1, ""),
        (("label_2",), "pictures", 1, ""),
        (("label_3",), "image_2", 0, "labels of camera 3, pictures of camera 2"),
        (("train", "val"), "image_2", 0, SEVERAL_FOLDERS),
        (("train/label_2", "val/label_2"), "image_2", 0, SEVERAL_FOLDERS),
        (("label_2", "other"), "image_2", 1, SEVERAL_FOLDERS),
    ],
)
def test_kitti_labels_of_another_camera_or_part_never_land_on_a_picture_by_its_name(
    tmp_path: Path, folders: tuple[str, ...], pictures_at: str, taken: int, reason: str
) -> None:
    put(tmp_path / pictures_at, "000000.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "README.txt").write_text("")
    for left, folder in enumerate(folders, 1):
        (tmp_path / "labels" / folder).mkdir(parents=True)
        row = f"Car 0 0 0 {left} 2 20 20 1 1 1 1 1 1 0\n"
        (tmp_path / "labels" / folder / "000000.txt").write_text(row)
    labels = read(tmp_path / "labels", tmp_path / pictures_at, ("Car",), LabelForm.KITTI)
    assert [mark.edges for mark in labels.marks] == [(1, 2, 20, 20)] * taken
    assert set(refusals(labels).values()) == ({reason} if reason else set())


def test_two_kitti_files_for_one_picture_are_both_refused_and_an_empty_one_says_nothing(
    tmp_path: Path,
) -> None:
    put(tmp_path / "set", "image_2/0.png", "image_2/1.png")
    for folder in ("label_2", "image_2"):
        (tmp_path / "labels" / folder).mkdir(parents=True)
        (tmp_path / "labels" / folder / "0.txt").write_text("Car 0 0 0 1 2 20 20 1 1 1 1 1 1 0\n")
        (tmp_path / "labels" / folder / "1.txt").write_text("")
    labels = read(tmp_path / "labels", tmp_path / "set", ("Car",), LabelForm.KITTI)
    assert refusals(labels) == {
        f"{folder}/0 line 1": "2 label files for one picture: image_2/0.png"
        for folder in ("image_2", "label_2")
    }
    assert labels.state("image_2/1.png") == "not labelled"
    assert list(labels.notes.values()) == [["image_2/0", "image_2/1", "label_2/0", "label_2/1"]]


def test_kitti_labels_of_one_part_never_land_on_an_unlabelled_picture_of_another(tmp_path: Path) -> None:
    put(tmp_path / "train" / "image_2", "0.png", "1.png")
    for part, name in (("train", "1"), ("val", "0")):
        (tmp_path / part / "label_2").mkdir(parents=True)
        (tmp_path / part / "label_2" / f"{name}.txt").write_text("Car 0 0 0 1 2 20 20 1 1 1 1 1 1 0\n")
    labels = read(tmp_path, tmp_path / "train" / "image_2", ("Car",), LabelForm.KITTI)
    assert not labels.marks and set(refusals(labels).values()) == {SEVERAL_FOLDERS}
    labels = read(tmp_path, tmp_path, ("Car",), LabelForm.KITTI)
    assert classes_of(labels) == {"train/image_2/1.png": ["Car"]}


def test_yolo_labels_of_a_set_in_parts_go_to_the_pictures_of_their_part(tmp_path: Path) -> None:
    put(tmp_path, "train/images/a.jpg", "valid/images/a.jpg")
    for part, number in (("train", 0), ("valid", 1)):
        (tmp_path / part / "labels").mkdir()
        (tmp_path / part / "labels" / "a.txt").write_text(f"{number} 0.5 0.5 0.25 0.5\n")
    (tmp_path / "README.tool.txt").write_text("Exported by a tool\n")
    (tmp_path / "data.yaml").write_text("names: [red, yellow]\n")
    labels = read(tmp_path, tmp_path, form=LabelForm.YOLO)
    assert classes_of(labels) == {"train/images/a.jpg": ["red"], "valid/images/a.jpg": ["yellow"]}
    assert labels.rows_sum() == (2, {"taken": 2})


YOLO_ROWS = {
    "0 0.5 0.5 0.25 0.5": ("red", (12, 6, 20, 18)),
    "0.0 0.5 0.5 0.25 0.5\r": ("red", (12, 6, 20, 18)),
    "1 0.95 0.5 0.25 0.5": ("yellow", (26.4, 6, 32, 18)),
    "1 0.125 0.125 0.875 0.125 0.875 0.5 0.125 0.5": ("yellow", (4, 3, 28, 12)),
    "1 0.5 0.5 0.25 0.5 0.91": ("yellow", (12, 6, 20, 18)),
    "3 0.5 0.5 0.25 0.5": "class 3 of 3 names",
    "0 0.5 0.5 1.000001 0.5": ("red", (0, 6, 32, 18)),
    "0 -0.001 0.5 0.5 0.5": ("red", (0, 6, 8, 18)),
    "0 0.5 0.5 1.002 0.5": "numbers above 1",
    "0 0.5 0.5 -0.002 0.5": "numbers above 1",
    "1 16 12 8 12": "numbers above 1",
    "red 0.5 0.5 0.25 0.5": "a name where the number of a class belongs",
    "0.5 0.5 0.5 0.25 0.5": "no class number",
    "1 0.5 nan 0.25 0.5": "a name where",
}


@pytest.mark.parametrize("row", YOLO_ROWS)
def test_a_yolo_number_is_looked_up_in_the_files_names_never_in_the_contract(
    tmp_path: Path, row: str
) -> None:
    put(tmp_path / "images", "a/1.png", "b/1.png")
    (tmp_path / "labels" / "a").mkdir(parents=True)
    (tmp_path / "labels" / "a" / "1.txt").write_text(row + "\n")
    (tmp_path / "data.yaml").write_text("nc: 3\nnames:\n  0: red\n  1: yellow\n  2: green\n")
    labels = read(tmp_path, tmp_path / "images")
    wanted = YOLO_ROWS[row]
    assert labels.state("b/1.png") == "not labelled"
    if isinstance(wanted, str):
        assert labels.refused[0].reason.startswith(wanted)
    else:
        [mark] = labels.marks
        assert (mark.picture, mark.class_name) == ("a/1.png", wanted[0]) and mark.edges == pytest.approx(
            wanted[1]
        )
        beyond = any(not 0 <= float(cell) <= 1 for cell in row.split()[1:])
        assert beyond == any("up to 0.001" in words for words in labels.notes)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.txt", "", "neither data.yaml nor classes.txt"),
        ("data.yaml", "nc: 4\nnames: [red, yellow, green]\n", "nc is 4, but there are 3 names"),
        ("data.yaml", "names: 3\n", "names is 3"),
        ("data.yaml", "names:\n  0: red\n  0: green\n", "the key 0 stands twice"),
        ("data.yaml", "names: [red]\nnames: [green]\n", "the key 'names' stands twice"),
    ],
)
def test_yolo_without_sound_names_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    put(tmp_path / "images", "1.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "1.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / name).write_text(text)
    with pytest.raises(MisconfiguredError, match=words):
        read(tmp_path, tmp_path / "images", form=LabelForm.YOLO)


@pytest.mark.parametrize("form", [LabelForm.YOLO, LabelForm.KITTI])
def test_boxes_on_a_picture_turned_by_exif_are_noted(tmp_path: Path, form: LabelForm) -> None:
    exif = Image.Exif()
    put(tmp_path / "images", "straight.png")
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "turned.jpg", exif=exif)
    row = "0 0.5 0.5 0.5 0.5" if form is LabelForm.YOLO else "red 0 0 0 12 16 20 24 1 1 1 1 1 1 0"
    (tmp_path / "labels").mkdir()
    for name in ("straight", "turned"):
        (tmp_path / "labels" / f"{name}.txt").write_text(row)
    (tmp_path / "labels" / "data.yaml").write_text("names: [red]")
    labels = read(tmp_path / "labels", tmp_path / "images", form=form)
    assert len(labels.marks) == 2
    assert {words.partition(":")[0]: where for words, where in labels.notes.items()} == {
        "pictures turned by EXIF": ["turned line 1"]
    }


def test_frames_of_the_lake_are_named_by_drive_and_frame_id_or_by_payload(tmp_path: Path) -> None:
    one, two, three = (f"{number:064x}" for number in (1, 2, 3))
    frames = NamedPayloads(
        [("a", "a/1.png", one), ("b", "000001", two), ("c", "000001", three), ("b", "7", three)]
    )
    (tmp_path / "l.csv").write_text(
        f"frame_id,class\na/1.png,red\nb/000001,green\n000001,red\n{three.upper()},yellow\n7,yellow\n"
    )
    labels, _ = read_labels(tmp_path / "l.csv", frames, CLASSES)
    assert {frames.digest(mark.picture): mark.class_name for mark in labels.marks} == {
        one: "red",
        two: "green",
        three: "yellow",
    }
    assert refusals(labels) == {"line 4": "2 pictures have that name: b/000001, c/000001"}


@pytest.mark.parametrize("form", [LabelForm.COCO, LabelForm.KITTI, LabelForm.YOLO])
def test_a_box_in_a_frame_known_by_name_says_its_class_wherever_it_lies(
    tmp_path: Path, form: LabelForm
) -> None:
    rest = "1 1 1 1 1 1 0"
    kitti = {
        "1": f"red 0 0 0 300 200 500 300 {rest}\nred 0 0 0 1 2 30 40 {rest}",
        "2": f"red 0 0 0 1 2 9 9 {rest}\ngreen 0 0 0 300 200 500 300 {rest}",
    }
    yolo = {
        "1": "0 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.1 0.1",
        "2": "0 0.5 0.5 0.25 0.5\n1 0.6 0.6 0.2 0.1",
    }
    for name, text in (kitti if form is LabelForm.KITTI else yolo).items():
        (tmp_path / "labels" / "drive").mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / "drive" / f"{name}.txt").write_text(text)
    (tmp_path / "labels" / "data.yaml").write_text("names: [red, green]")
    images = [{"id": n, "file_name": f"drive/{n}", "width": 640, "height": 480} for n in (1, 2)]
    boxes = [
        (1, 7, [300, 200, 200, 100]),
        (1, 7, [1, 2, 29, 38]),
        (2, 7, [1, 2, 8, 8]),
        (2, 0, [300, 200, 200, 100]),
    ]
    marks = [
        {"id": n, "image_id": image, "category_id": kind, "bbox": box}
        for n, (image, kind, box) in enumerate(boxes)
    ]
    (tmp_path / "c.json").write_text(coco(images, marks))
    frames = NamedPayloads([("drive", "1", f"{1:064x}"), ("drive", "2", f"{2:064x}")])
    file = tmp_path / ("c.json" if form is LabelForm.COCO else "labels")
    labels, _ = read_labels(file, frames, CLASSES, form)
    assert labels.single_classes() == {"drive/1": "red"} and not labels.notes
    assert set(refusals(labels).values()) == {"contradiction: drive/2 is green and red"}


def test_the_same_boxes_in_another_order_are_one_answer_and_an_empty_double_is_refused_by_name(
    tmp_path: Path,
) -> None:
    folder = put(tmp_path / "set", "x/a.png", "y/a.png", "x/b.png", "y/b.png")
    for letter in "ab":
        (folder / "y" / f"{letter}.png").write_bytes((folder / "x" / f"{letter}.png").read_bytes())
    names = ("x/a.png", "y/a.png", "x/b.png", "y/b.png")
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    one, two = [0, 0, 9, 9], [12, 12, 9, 9]
    pairs = [(0, one), (0, two), (1, two), (1, one), (2, one)]
    marks = [{"id": n, "image_id": at, "category_id": 7, "bbox": box} for n, (at, box) in enumerate(pairs)]
    (tmp_path / "l.json").write_text(coco(images, marks))
    place = make_workspace(tmp_path / "ws", [])
    found = import_labels(place, tmp_path / "l.json", pictures=folder, task="detection")
    (answer,) = [json.loads(line) for line in Path(found.written).read_text().splitlines()]
    assert [box["left"] for box in answer["boxes"]] == [0, 12] and answer["file"] == "x/a.png"
    assert [each.value for each in found.refused] == ["x/b.png"]
    assert list(found.notes.values()) == [("y/b.png",)]
    assert found.pictures_by_state == {"labelled": 2, "not labelled": 2}
    assert found.rows == sum(found.rows_by_outcome.values())


def test_an_import_writes_answers_that_the_desk_gives_and_both_sums_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_workspace(tmp_path / "ws", [])
    folder = put(tmp_path / "set" / "images", "a.png", "b.png", "c.png")
    (folder / "same.png").write_bytes((folder / "a.png").read_bytes())
    (tmp_path / "set" / "labels.csv").write_text(
        "file,class\na.png,red\nb.png,green\nsame.png,green\nc.png,Red\nx.png,red\n"
    )
    found = import_labels(place, tmp_path / "set" / "labels.csv", pictures=folder)
    assert found.rows == sum(found.rows_by_outcome.values()) == 5
    assert found.pictures == sum(found.pictures_by_state.values()) == 5
    assert {each.reason.partition(":")[0] for each in found.refused} == {"no such picture", "contradiction"}
    digests = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("b.png", "c.png", "a.png")
    ]
    answers = FileLabelDesk(Path(found.written), classes=CLASSES).request(digests)
    assert [answer.value for answer in answers] == ["green", "red"]


def test_boxes_need_pictures_and_an_empty_list_says_nothing_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_workspace(tmp_path / "ws", [])
    put(tmp_path / "set" / "images", "1.png", "2.png", "3.png")
    (tmp_path / "set" / "labels").mkdir()
    (tmp_path / "set" / "labels" / "1.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "set" / "labels" / "2.txt").write_text("")
    (tmp_path / "set" / "classes.txt").write_text("red\n")
    monkeypatch.chdir(tmp_path / "set")
    with pytest.raises(MisconfiguredError, match="name the folder of the pictures"):
        import_labels(place, Path(), task="detection")
    found = import_labels(place, Path(), pictures=Path("images"), task="detection")
    assert Path(found.written) == tmp_path / "set.answers.jsonl"
    boxes = [json.loads(line)["boxes"] for line in Path(found.written).read_text().splitlines()]
    assert boxes == [[{"class_name": "red", "left": 12.0, "top": 6.0, "right": 20.0, "bottom": 18.0}], []]


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


def test_labels_without_a_folder_are_matched_to_the_frames_that_landed(tmp_path: Path) -> None:
    rows = fleet_rows(2, 2)
    place = make_workspace(tmp_path / "ws", rows)
    first = next(row for row in rows if row["payload_sha256"])
    (tmp_path / "l.csv").write_text(f"frame_id,class\n{first['drive_id']}/{first['frame_id']},red\n")
    found = import_labels(place, tmp_path / "l.csv")
    (answer,) = [json.loads(line) for line in Path(found.written).read_text().splitlines()]
    assert (answer["payload_sha256"], answer["class_name"]) == (first["payload_sha256"], "red")

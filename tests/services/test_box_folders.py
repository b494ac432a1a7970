"""Labels in one file per picture, KITTI and YOLO: none goes to another picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from connectors.labels.box_folders import SEVERAL_FOLDERS
from foundation.errors import MisconfiguredError
from services.own_labels import LabelForm
from tests.services.label_files import classes_of, put, read, refusals


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

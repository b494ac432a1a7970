"""Labels as people and tools write them: each row is taken, ignored or refused by reason, and no label goes astray."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path

import pytest

from connectors.labels.desk import FileLabelDesk
from connectors.labels.picture_sets import NamedPayloads
from foundation.errors import MisconfiguredError
from services.own_labels import LabelForm, import_labels, read_labels
from tests.pipelines.curate_lake import fleet_rows, make_workspace
from tests.services.label_files import CLASSES, classes_of, coco, put, read, refusals


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


def test_labels_without_a_folder_are_matched_to_the_frames_that_landed(tmp_path: Path) -> None:
    rows = fleet_rows(2, 2)
    place = make_workspace(tmp_path / "ws", rows)
    first = next(row for row in rows if row["payload_sha256"])
    (tmp_path / "l.csv").write_text(f"frame_id,class\n{first['drive_id']}/{first['frame_id']},red\n")
    found = import_labels(place, tmp_path / "l.csv")
    (answer,) = [json.loads(line) for line in Path(found.written).read_text().splitlines()]
    assert (answer["payload_sha256"], answer["class_name"]) == (first["payload_sha256"], "red")

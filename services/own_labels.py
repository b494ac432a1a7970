"""Import existing labels: read the format of a labelling tool, match them to pictures, and account for every row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from connectors.labels.box_folders import read_kitti, read_yolo
from connectors.labels.classes import ClassNames
from connectors.labels.coco import read_coco
from connectors.labels.label_set import LabelSet, Pictures, Refusal, Shape
from connectors.labels.label_tables import read_table
from connectors.labels.picture_sets import FolderPictures, Look, NamedPayloads
from connectors.lake.table import LakeTable
from foundation.errors import MisconfiguredError, RejectedError
from foundation.files import write_atomic
from modelkit.confined import Confined, Failed
from modelkit.picture_facts import TASK, PictureFacts
from modelkit.tasks import LEARNED, Task
from pipelines.curate.params import load_params
from workspace.layout import Workspace
from workspace.params_file import load_task

ANSWERS_ENDING = ".answers.jsonl"
TORN_NEGATIVE = "pictures without a box whose bytes have boxes under another name: none of them is taken"


class LabelForm(StrEnum):
    """The format of labels. `auto` decides by the file name and the contents of a folder."""

    AUTO = "auto"
    TABLE = "table"
    COCO = "coco"
    KITTI = "kitti"
    YOLO = "yolo"


@dataclass(frozen=True, slots=True)
class ImportedLabels:
    """The result of one import. `rows_by_outcome` adds up to `rows`, `pictures_by_state` to `pictures`."""

    file: str
    form: str
    task: str
    written: str
    answers: int
    classes: Mapping[str, int]
    rows: int
    rows_by_outcome: Mapping[str, int]
    pictures: int
    pictures_by_state: Mapping[str, int]
    refused: tuple[Refusal, ...]
    notes: Mapping[str, tuple[str, ...]]


def read_labels(
    file: Path, pictures: Pictures, classes: Sequence[str], form: LabelForm = LabelForm.AUTO
) -> tuple[LabelSet, LabelForm]:
    """Read the labels of a file or folder for these pictures; return them with the format found.

    Raises:
        MisconfiguredError: no such file, or not of that form. CorruptError: damaged.
    """
    if not file.exists():
        raise MisconfiguredError(f"there is no file of labels {file}")
    known = _form_of(file) if form is LabelForm.AUTO else form
    labels = LabelSet(pictures, ClassNames(classes))
    readers = {
        LabelForm.TABLE: read_table,
        LabelForm.COCO: read_coco,
        LabelForm.KITTI: read_kitti,
        LabelForm.YOLO: read_yolo,
    }
    readers[known](file, labels)
    return labels, known


def import_labels(
    place: Workspace,
    file: Path,
    *,
    pictures: Path | None = None,
    form: LabelForm = LabelForm.AUTO,
    task: str = "",
    out: Path | None = None,
) -> ImportedLabels:
    """Match labels to pictures and write them as answers by payload, for a label desk to give on request.

    Args:
        file: a table of file and class, COCO's JSON, or a folder in the layout of KITTI or YOLO.
        pictures: the folder of the pictures. None: the frames that landed in the lake, by frame id or payload
            hash, for classes only: a box says the class of its picture.
        task: what the labels are for; the workspace's task by default.
        out: the file of answers; by default the name of the labels with `.answers.jsonl` appended.

    Raises:
        MisconfiguredError: no such file or folder, not of that form, or boxes without a folder of pictures.
        CorruptError: damaged.
    """
    asked = load_task(place.params_path) if not task else _task(task)
    if pictures is not None:
        with looking() as look:
            return _import(place, file, FolderPictures(pictures, look), form, asked, out)
    if not asked.label_is_class:
        raise MisconfiguredError("boxes are matched to a picture's size: name the folder of the pictures")
    return _import(place, file, NamedPayloads(_landed(place)), form, asked, out)


def _import(
    place: Workspace,
    file: Path,
    known: FolderPictures | NamedPayloads,
    form: LabelForm,
    asked: Task[Any, Any],
    out: Path | None,
) -> ImportedLabels:
    labels, found = read_labels(file, known, load_params(place.params_path).classes, form)
    answers = _answers(labels, known, asked)
    path = out or file.resolve().with_name(file.resolve().name + ANSWERS_ENDING)
    write_atomic(path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in answers).encode())
    rows, by_outcome = labels.rows_sum()
    count, by_state = labels.pictures_sum()
    return ImportedLabels(
        str(file),
        found.value,
        asked.name,
        str(path),
        len(answers),
        dict(sorted(Counter(mark.class_name for mark in labels.marks).items())),
        rows,
        by_outcome,
        count,
        by_state,
        tuple(labels.refused),
        {words: tuple(where) for words, where in labels.notes.items()},
    )


@contextmanager
def looking() -> Iterator[Look]:
    """Yield a function that returns the shape of an encoded picture, which is decoded in a confined process.

    The function raises RejectedError when the picture cannot be decoded.
    """
    with Confined(TASK, PictureFacts) as work:

        def look(payload: bytes) -> Shape:
            (found,) = work.run([payload])
            if isinstance(found, Failed):
                raise RejectedError(found.why, reason="unreadable_image")
            return shape_of(found)

        yield look


def shape_of(found: PictureFacts) -> Shape:
    """Return the shape that labels are compared with."""
    return Shape(found.width, found.height, found.stored_width, found.stored_height, found.orientation)


def _form_of(file: Path) -> LabelForm:
    if file.is_dir():
        if any((file / name).is_file() for name in ("data.yaml", "data.yml", "classes.txt", "obj.names")):
            return LabelForm.YOLO
        return LabelForm.YOLO if (file / "labels").is_dir() else LabelForm.KITTI
    if file.suffix.lower() != ".json":
        return LabelForm.TABLE
    with file.open("rb") as stream:
        head = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    is_table = head.startswith(b"[") and b'"class' in head.split(b"}")[0] and b'"category_id"' not in head
    return LabelForm.TABLE if is_table else LabelForm.COCO


def _landed(place: Workspace) -> list[tuple[str, str, str]]:
    if not (Path(place.arrivals_uri) / "_delta_log").is_dir():
        raise MisconfiguredError(
            "the lake holds no frame yet; name the folder of the pictures, or ingest first"
        )
    columns = ["drive_id", "frame_id", "payload_sha256"]
    table = (
        LakeTable.open(place.arrivals_uri)
        .snapshot()
        .read(columns=columns, filter=pc.field("outcome") == "landed")
    )
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def _task(name: str) -> Task[Any, Any]:
    if name not in LEARNED:
        raise MisconfiguredError(f"task {name!r}, expected one of {', '.join(sorted(LEARNED))}")
    return LEARNED[name]


def _answers(
    labels: LabelSet, pictures: FolderPictures | NamedPayloads, task: Task[Any, Any]
) -> list[dict[str, object]]:
    """Return one label per payload. The same bytes under two names with two labels are refused, an empty picture by note."""
    by_digest: dict[str, dict[str, object]] = {}
    for name, value in labels.values(task.label_column).items():
        by_digest.setdefault(pictures.digest(name), {})[name] = value
    torn = {
        name
        for values in by_digest.values()
        if any(value != next(iter(values.values())) for value in values.values())
        for name in values
    }
    for mark in [mark for mark in labels.marks if mark.picture in torn]:
        labels.refuse(
            mark.where, mark.picture, "contradiction: the same bytes under another name have another label"
        )
    for name in [name for name in labels.negatives if name in torn]:
        labels.note(TORN_NEGATIVE, name)
    labels.looked_at -= torn
    labels.marks = [mark for mark in labels.marks if mark.picture not in torn]
    firsts = {digest: next(iter(values.items())) for digest, values in by_digest.items()}
    return [
        {"payload_sha256": digest, task.label_column: value, "file": name}
        for digest, (name, value) in firsts.items()
        if name not in torn
    ]

"""Read labels in one text file per picture: KITTI and YOLO. No file: not labelled; an empty file: nothing there."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from connectors.labels.label_set import Edges, LabelSet
from foundation.errors import CorruptError, MisconfiguredError

PREDICTIONS: Final = "rows with a score: predictions of a model, not ground truth"
TURNED: Final = "pictures turned by EXIF: boxes are taken as a viewer shows them"
ROUNDED: Final = "numbers up to 0.001 below 0 or above 1, taken as 0 or 1"
POLYGONS: Final = "boxes taken from a polygon"
TWO_FILES: Final = "label files for one picture that has another one: none of them is taken"
SEVERAL_FOLDERS: Final = "several folders of labels, and no picture of that path: a name alone is not enough"
MAX_FILE_BYTES: Final = 10_000_000
_ROUNDING: Final = 1e-3
_KITTI_COLUMNS: Final = 15
_LABEL_FOLDER: Final = re.compile(r"(^|/)label_(\d+)/")
_PICTURE_FOLDER: Final = re.compile(r"image_(\d+)")
_Lines = list[tuple[int, str]]


def read_kitti(folder: Path, labels: LabelSet) -> None:
    """Take each line of the `.txt` files below `folder` as a box. DontCare regions are ignored and counted.

    Raises:
        MisconfiguredError: no such folder, or one without a `.txt` file. CorruptError: a file is no text.
    """
    found = _kitti_pictures(folder.resolve().name, list(_files(folder)), labels)
    for name, lines, picture, problem in _one_file_each(found, labels):
        kinds = set()
        for number, line in lines:
            labels.rows += 1
            where = f"{name} line {number}"
            kinds.add(_kitti_line(line.split(), where, picture, problem, labels))
        if picture and not kinds:
            labels.looked_at.add(picture)
        if not picture and problem == "no picture":
            labels.missing.add(name)


def _kitti_pictures(
    root: str, files: list[tuple[str, _Lines]], labels: LabelSet
) -> list[tuple[str, _Lines, str, str]]:
    """Return (file, lines, picture, problem): the picture of the same camera (label_2, image_2), path, or name.

    The name alone is enough only where one folder of labels has pictures of these names: of all folders, or of those
    of one camera when the folder of the pictures is of that camera.
    """
    by_stem, shown = _by_stem(labels), _PICTURE_FOLDER.fullmatch(labels.pictures.folder)
    folders: dict[str, set[PurePosixPath]] = {}
    cameras = {}
    for name, _ in files:
        camera = _LABEL_FOLDER.search(f"{root}/{name}")
        cameras[name] = camera[2] if camera else ""
        if PurePosixPath(name).name in by_stem:
            for kind in ("", cameras[name]):
                folders.setdefault(kind, set()).add(PurePosixPath(name).parent)
    found = []
    for name, lines in files:
        camera_of, bare = cameras[name], PurePosixPath(name).name
        stems = [*(_LABEL_FOLDER.sub(r"\1image_\2/", each) for each in (f"{root}/{name}", name)), name]
        if shown and camera_of and camera_of != shown[1]:
            found.append((name, lines, "", f"labels of camera {camera_of}, pictures of camera {shown[1]}"))
            continue
        if len(folders.get(camera_of if shown else "", ())) == 1:
            stems.append(bare)
        stem = next((stem for stem in stems if stem in by_stem), "")
        if not stem and bare in by_stem:
            found.append((name, lines, "", SEVERAL_FOLDERS))
        else:
            found.append((name, lines, *_picture(by_stem, stem or name)))
    return found


def _one_file_each(
    found: list[tuple[str, _Lines, str, str]], labels: LabelSet
) -> Iterator[tuple[str, _Lines, str, str]]:
    """Yield (file, lines, picture, problem). Several label files that mean one picture are refused, all of them."""
    files = Counter(picture for _, _, picture, _ in found)
    for name, lines, picture, problem in found:
        if picture and files[picture] > 1:
            labels.note(TWO_FILES, name)
            yield name, lines, "", f"{files[picture]} label files for one picture: {picture}"
        else:
            yield name, lines, picture, problem


def _kitti_line(cells: list[str], where: str, picture: str, problem: str, labels: LabelSet) -> str:
    if not picture:
        labels.refuse(where, cells[0], problem)
        return "refused"
    if len(cells) not in (_KITTI_COLUMNS, _KITTI_COLUMNS + 1):
        labels.refuse(where, " ".join(cells)[:60], f"{len(cells)} columns: KITTI has 15, or 16 with a score")
        return "refused"
    if cells[0].casefold() == "dontcare":
        labels.ignored.append((where, "DontCare"))
        return "ignored"
    name = labels.class_of(cells[0], where)
    edges = _numbers(cells[4:8])
    if not name:
        return "refused"
    if edges is None:
        labels.refuse(where, " ".join(cells[4:8]), "a box that is no four numbers")
        return "refused"
    if len(cells) > _KITTI_COLUMNS:
        labels.note(PREDICTIONS, where)
    _add(picture, name, (edges[0], edges[1], edges[2], edges[3]), where, labels)
    return "box"


def _add(picture: str, name: str, edges: Edges, where: str, labels: LabelSet) -> None:
    shape = labels.pictures.shape(picture)
    if shape is not None and shape.orientation > 1:
        labels.note(TURNED, where)
    labels.add_box(picture, name, edges, where)


def read_yolo(folder: Path, labels: LabelSet, names_file: Path | None = None) -> None:
    """Take each row of the files in `labels/` as a box; a class number is looked up in data.yaml or classes.txt.

    A picture's path is that of its labels, with `images` where theirs has `labels`: also in `train/labels`, `valid/labels`.

    Raises:
        MisconfiguredError: no labels, no file of class names, or one whose `nc` is not their number.
    """
    names = _yolo_names(folder, names_file)
    root = folder / "labels" if (folder / "labels").is_dir() else folder
    by_stem = _by_stem(labels, drop="images")
    files = list(_files(root))
    if any(
        "labels" in PurePosixPath(name).parts for name, _ in files
    ):  # else notes of a tool would be taken for labels
        files = [each for each in files if "labels" in PurePosixPath(each[0]).parts]
    found = [
        (name, lines, *_picture(by_stem, _without("labels", name)))
        for name, lines in files
        if name not in ("classes", "data")
    ]
    for name, lines, picture, problem in _one_file_each(found, labels):
        is_empty = True
        for number, line in lines:
            labels.rows += 1
            is_empty = False
            _yolo_line(line.split(), f"{name} line {number}", picture, problem, names, labels)
        if picture and is_empty:
            labels.looked_at.add(picture)
        if not picture and problem == "no picture":
            labels.missing.add(name)


def _yolo_line(
    cells: list[str], where: str, picture: str, problem: str, names: dict[int, str], labels: LabelSet
) -> None:
    shape = labels.pictures.shape(picture) if picture else None
    if shape is None:
        labels.refuse(where, cells[0], problem or "unreadable picture")
        return
    values = _numbers(cells)
    if values is None or values[0] != int(values[0]):
        labels.refuse(
            where,
            cells[0],
            "a name where the number of a class belongs" if values is None else "no class number",
        )
        return
    number = int(values[0])
    if number not in names:
        labels.refuse(where, cells[0], f"class {number} of {len(names)} names")
        return
    box, is_polygon = (
        [min(max(each, 0.0), 1.0) for each in values[1:]],
        len(values) >= 7 and len(values) % 2 == 1,
    )
    if len(values) not in (5, 6) and not is_polygon:
        labels.refuse(where, " ".join(cells)[:60], f"{len(values)} columns: a box has 5, with a score 6")
        return
    beyond = max((abs(each - near) for each, near in zip(values[1:], box, strict=True)), default=0.0)
    if beyond > _ROUNDING:
        labels.refuse(
            where,
            " ".join(cells)[:60],
            "numbers above 1 or below 0: shares of the picture are wanted, not pixels",
        )
        return
    name = labels.class_of(names[number], where)
    if not name:
        return
    if beyond > 0.0:
        labels.note(ROUNDED, where)
    if is_polygon:
        left, right, top, bottom = min(box[::2]), max(box[::2]), min(box[1::2]), max(box[1::2])
        labels.note(POLYGONS, where)
    else:
        left, right = box[0] - box[2] / 2, box[0] + box[2] / 2
        top, bottom = box[1] - box[3] / 2, box[1] + box[3] / 2
        if len(values) == 6:
            labels.note(PREDICTIONS, where)
    edges = (left * shape.width, top * shape.height, right * shape.width, bottom * shape.height)
    _add(picture, name, edges, where, labels)


def _yolo_names(folder: Path, given: Path | None) -> dict[int, str]:
    candidates = (
        [given] if given else [folder / n for n in ("data.yaml", "data.yml", "classes.txt", "obj.names")]
    )
    path = next((each for each in candidates if each.is_file()), None)
    if path is None:
        raise MisconfiguredError(
            f"{folder} has neither data.yaml nor classes.txt: without the names of the class numbers nothing is read"
        )
    text = _text(path)
    if path.suffix not in (".yaml", ".yml"):
        return dict(enumerate(line.strip() for line in text.rstrip().split("\n")))
    import yaml

    class _NoDoubles(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            for key in (self.construct_object(key) for key, _ in node.value):
                if key in seen:
                    raise MisconfiguredError(
                        f"{path}: the key {key!r} stands twice, so that its value is not known"
                    )
                seen.add(key)
            return found

    try:
        document = _NoDoubles(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CorruptError(f"not YAML: {error}", path=path) from error
    names: Any = document.get("names") if isinstance(document, dict) else None
    pairs = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(pairs, dict) or not all(
        isinstance(n, int) and isinstance(t, str) for n, t in pairs.items()
    ):
        raise MisconfiguredError(
            f"{path}: names is {str(names)[:80]}; wanted is a list or a mapping number: name"
        )
    if (count := document.get("nc", len(pairs))) != len(pairs):
        raise MisconfiguredError(f"{path}: nc is {count}, but there are {len(pairs)} names")
    return pairs


def _files(folder: Path) -> Iterator[tuple[str, _Lines]]:
    paths = sorted(path for path in folder.rglob("*.txt") if path.is_file() and not path.is_symlink())
    if not paths:
        raise MisconfiguredError(f"{folder} has no .txt file of labels")
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        lines = _text(path).split("\n")
        yield name, [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise MisconfiguredError(f"{path} has {path.stat().st_size} bytes, the limit is {MAX_FILE_BYTES}")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptError(f"not UTF-8: {error}", path=path) from error
    except OSError as error:
        raise MisconfiguredError(f"cannot read {path}: {error.strerror}") from error


def _by_stem(labels: LabelSet, drop: str = "") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in labels.pictures.names:
        key = PurePosixPath(name).with_suffix("").as_posix()
        found.setdefault(_without(drop, key), []).append(name)
    return found


def _without(folder: str, path: str) -> str:
    """Return the path without the last folder of that name."""
    parts = list(PurePosixPath(path).parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == folder:
            del parts[at]
            break
    return "/".join(parts)


def _picture(by_stem: dict[str, list[str]], stem: str) -> tuple[str, str]:
    found = by_stem.get(stem, [])
    if len(found) == 1:
        return found[0], ""
    return "", f"{len(found)} pictures have that name" if found else "no picture"


def _numbers(cells: list[str]) -> list[float] | None:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return None
    return values if all(math.isfinite(value) for value in values) else None

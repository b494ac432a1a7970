"""Read labels in COCO's JSON: images, categories and annotations, as many tools write them.

Classes are matched by name, never by a category's id or place. Ids are whole numbers or texts, never floats. Boxes
are converted to the picture as a viewer shows it. Crowd regions and results of a model are neither labels nor
negatives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from connectors.labels.answers import is_finite_number
from connectors.labels.label_set import Edges, LabelSet, Shape
from connectors.labels.label_tables import read_json_text
from foundation.errors import MisconfiguredError

STORED_FRAME: Final = "boxes turned from the stored picture to the one that a viewer shows"
TURNED_SIZE: Final = (
    "images whose width and height are those of the stored picture, though their boxes are not"
)
OTHER_SIZE: Final = "images whose width and height are not those of the picture"
UNSEEN_TURN: Final = (
    "pictures turned by EXIF without a sign in their size: boxes are taken as a viewer shows them"
)
ID_TWICE: Final = "annotation ids that stand twice"
NAME_TWICE: Final = "image entries that name one picture"
LIKE_CORNERS: Final = "boxes that end outside and would fit as left, top, right, bottom"
FROM_POLYGON: Final = "boxes taken from a polygon"
_SAME_BOX: Final = 0.5
_KEYS: Final = ("images", "categories", "annotations")


def read_coco(path: Path, labels: LabelSet) -> None:
    """Take each annotation as a box of its class.

    Raises:
        MisconfiguredError: no dataset (a list of results, a missing key). CorruptError: not JSON.
    """
    document = read_json_text(path)
    if isinstance(document, list):
        raise MisconfiguredError(
            f"{path} is a list: results of a model, not a dataset with {', '.join(_KEYS)}"
        )
    if not isinstance(document, Mapping):
        raise MisconfiguredError(
            f"{path} holds {type(document).__name__}, expected an object with {', '.join(_KEYS)}"
        )
    for key in _KEYS:
        if not isinstance(document.get(key), list):
            raise MisconfiguredError(f"{path} has no list {key!r}; it has {', '.join(map(repr, document))}")
    _Dataset(document, labels).read()


class _Dataset:
    def __init__(self, document: Mapping[str, Any], labels: LabelSet) -> None:
        self._labels = labels
        self._annotations = document["annotations"]
        self._images = _Ids([each for each in document["images"] if isinstance(each, Mapping)])
        self._categories = _Ids([each for each in document["categories"] if isinstance(each, Mapping)])
        self._pictures: dict[int, tuple[str, str]] = {}

    def read(self) -> None:
        labels = self._labels
        self._find_pictures()
        named = {name for name, _ in self._pictures.values() if name}
        is_stored = self._boxes_are_stored()
        marked: set[str] = set()
        ids = Counter(str(each.get("id")) for each in self._annotations if isinstance(each, Mapping))
        for number, each in enumerate(self._annotations, 1):
            labels.rows += 1
            if not isinstance(each, Mapping):
                labels.refuse(f"entry {number}", each, "no annotation")
                continue
            where = f"annotation {each.get('id', f'(entry {number})')}"
            if ids[str(each.get("id"))] > 1:
                labels.note(ID_TWICE, where)
            self._annotation(each, where, is_stored, marked)
        labels.looked_at |= named - marked
        self._tell_corners()

    def _find_pictures(self) -> None:
        """Find the picture of each image entry; a second entry of one picture is noted."""
        labels, seen = self._labels, set()
        for place, image in self._images.entries():
            text = image.get("file_name")
            found = labels.finder.find(text if isinstance(text, str) else "")
            self._pictures[place] = (found.name, found.problem)
            where = f"image {image.get('id')}"
            if found.how:
                labels.note(found.how, where)
            if found.problem == "no such picture":
                labels.missing.add(str(text))
            if found.name and found.name in seen:
                labels.note(NAME_TWICE, where)
            seen.add(found.name)

    def _boxes_are_stored(self) -> bool:
        """Return whether the boxes refer to the stored pictures, judged by those whose EXIF rotation changes the size."""
        stored: set[int] = set()
        beyond = False
        for place, image in self._images.entries():
            shape = self._shape(place)
            if shape is None or not shape.is_known:
                continue
            size = (image.get("width"), image.get("height"))
            turned = shape.orientation > 4 and shape.width != shape.height
            if turned and size == (shape.stored_width, shape.stored_height):
                stored.add(place)
            elif None not in size and size != (shape.width, shape.height):
                self._labels.note(OTHER_SIZE, f"image {image.get('id')}")
        for each in self._annotations:
            at = self._images.find(each.get("image_id")) if isinstance(each, Mapping) else None
            if at is None or at not in stored:
                continue
            edges, shape = _edges(each.get("bbox")), self._shape(at)
            if isinstance(edges, tuple) and shape is not None:
                beyond |= edges[2] > shape.stored_width + 1 or edges[3] > shape.stored_height + 1
        if beyond:
            for place in sorted(stored):
                self._labels.note(TURNED_SIZE, f"image {self._images.id_of(place)}")
        return bool(stored) and not beyond

    def _shape(self, place: int) -> Shape | None:
        name = self._pictures[place][0]
        return self._labels.pictures.shape(name) if name else None

    def _annotation(self, each: Mapping[str, Any], where: str, is_stored: bool, marked: set[str]) -> None:
        labels = self._labels
        place = self._images.find(each.get("image_id"))
        if place is None:
            labels.refuse(where, each.get("image_id"), "unknown image")
            return
        picture, problem = self._pictures[place]
        if not picture:
            labels.refuse(where, self._images.text(place, "file_name"), problem)
            return
        marked.add(picture)
        if self._shape(place) is None:
            labels.refuse(where, picture, "unreadable picture")
            return
        if each.get("iscrowd") == 1:
            labels.ignored.append((where, "crowd"))
            return
        category = self._categories.find(each.get("category_id"))
        if category is None:
            labels.refuse(
                where, each.get("category_id"), f"unknown category {str(each.get('category_id'))[:40]}"
            )
            return
        name = labels.class_of(self._categories.raw(category, "name"), where)
        if not name:
            return
        edges = _box_of(each)
        if isinstance(edges, str):
            labels.refuse(where, each.get("bbox", "no bbox"), edges)
            return
        if each.get("bbox") is None:
            labels.note(FROM_POLYGON, where)
        self._take(place, name, edges, where, is_stored)

    def _take(self, place: int, name: str, edges: Edges, where: str, is_stored: bool) -> None:
        shape = self._shape(place)
        if shape is not None and shape.orientation > 1:
            if is_stored and not self._is_sized_as_shown(place, shape):
                edges = as_shown(edges, shape)
                self._labels.note(STORED_FRAME, where)
            elif shape.orientation <= 4:
                self._labels.note(UNSEEN_TURN, where)
        self._labels.add_box(self._pictures[place][0], name, edges, where)

    def _is_sized_as_shown(self, place: int, shape: Shape) -> bool:
        """Return whether the image's own width and height are those that a viewer shows, and not the stored ones."""
        size = (self._images.raw(place, "width"), self._images.raw(place, "height"))
        return size == (shape.width, shape.height) != (shape.stored_width, shape.stored_height)

    def _tell_corners(self) -> None:
        """Note boxes that seem to be written as corners: several end outside of their picture, and all would fit."""
        outside, fitting, all_boxes = [], 0, 0
        for each in self._annotations:
            place = self._images.find(each.get("image_id")) if isinstance(each, Mapping) else None
            edges = _edges(each.get("bbox")) if place is not None else ""
            shape = self._shape(place) if place is not None else None
            if shape is None or not shape.is_known or not isinstance(edges, tuple):
                continue
            left, top, right, bottom = edges
            width, height = right - left, bottom - top  # the third and fourth number as they stand
            all_boxes += 1
            fitting += left < width <= shape.width and top < height <= shape.height
            if right > shape.width + 1 or bottom > shape.height + 1:
                outside.append(f"annotation {each.get('id')}")
        if len(outside) > 1 and fitting == all_boxes:
            self._labels.notes[LIKE_CORNERS] = outside


class _Ids:
    """Entries by id: a whole number and its text mean the same, unless both occur."""

    def __init__(self, entries: list[Mapping[str, Any]]) -> None:
        self._entries = entries
        self._exact: dict[object, int] = {}
        self._loose: dict[str, list[int]] = {}
        for place, entry in enumerate(entries):
            key = entry.get("id")
            if _is_id(key):
                self._exact.setdefault(key, place)
                self._loose.setdefault(str(key), []).append(place)

    def entries(self) -> list[tuple[int, Mapping[str, Any]]]:
        return list(enumerate(self._entries))

    def find(self, key: object) -> int | None:
        if not _is_id(key):
            return None
        if key in self._exact:
            return self._exact[key]
        near = self._loose.get(str(key), [])
        return near[0] if len(near) == 1 else None

    def raw(self, place: int, name: str) -> Any:
        return self._entries[place].get(name)

    def text(self, place: int, name: str) -> str:
        return str(self._entries[place].get(name))

    def id_of(self, place: int) -> str:
        return self.text(place, "id")


def _is_id(key: object) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool))


def _box_of(each: Mapping[str, Any]) -> Edges | str:
    """Return the box of an annotation, or the problem with it."""
    outline = _outline(each.get("segmentation"))
    if each.get("bbox") is None:
        if isinstance(each.get("segmentation"), Mapping):
            return "no bbox, only a run-length segmentation (RLE): no box is taken from one"
        return outline if outline is not None else "no bbox, and no polygon to take one from"
    edges = _edges(each["bbox"])
    if isinstance(edges, tuple) and isinstance(outline, tuple) and _share(edges, outline) < _SAME_BOX:
        return f"bbox and segmentation disagree: {each['bbox']} against {list(outline)} as left, top, right, bottom"
    return edges


def _edges(box: object) -> Edges | str:
    if not isinstance(box, list) or len(box) != 4:
        return "a bbox that is no list of four numbers"
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in box):
        return "a bbox that is no list of four numbers"
    if not all(is_finite_number(each) and abs(each) < 1e9 for each in box):
        return "a bbox with a number that is not finite"
    left, top, width, height = (float(each) for each in box)
    if width <= 0 or height <= 0:
        return "a bbox without width or height"
    return left, top, left + width, top + height


def _outline(segmentation: object) -> Edges | str | None:
    """Return the box around the polygons; None without any, or the problem with them."""
    if not isinstance(segmentation, list) or not segmentation or segmentation == [[]]:
        return None
    points: list[float] = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return "a polygon that is no list of three or more points"
        if not all(is_finite_number(n) for n in polygon):
            return "a polygon with something that is no number"
        points += polygon
    columns, rows = points[::2], points[1::2]
    return float(min(columns)), float(min(rows)), float(max(columns)), float(max(rows))


def _share(one: Edges, other: Edges) -> float:
    """Return the intersection over union (0..1)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    sizes = [(edges[2] - edges[0]) * (edges[3] - edges[1]) for edges in (one, other)]
    union = sum(sizes) - shared
    return shared / union if union > 0 else 0.0


def as_shown(edges: Edges, shape: Shape) -> Edges:
    """Convert a box on the stored picture to one on the picture that a viewer shows (EXIF orientation 1 to 8)."""
    width, height = shape.stored_width, shape.stored_height

    def corner(x: float, y: float) -> tuple[float, float]:
        return {
            2: (width - x, y),
            3: (width - x, height - y),
            4: (x, height - y),
            5: (y, x),
            6: (height - y, x),
            7: (height - y, width - x),
            8: (y, width - x),
        }.get(shape.orientation, (x, y))

    (left, top), (right, bottom) = corner(edges[0], edges[1]), corner(edges[2], edges[3])
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)

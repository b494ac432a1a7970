"""The result of an import: labels by picture, and what became of every other row and picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from connectors.labels.answers import EDGES
from connectors.labels.classes import ClassNames
from connectors.labels.picture_names import PictureNames

Edges = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the picture as a viewer shows it."""
CLIPPED: Final = "boxes clipped to the picture"


@dataclass(frozen=True, slots=True)
class Shape:
    """A picture's size as a viewer shows it, its size as it is stored, and its EXIF orientation (1 to 8)."""

    width: int
    height: int
    stored_width: int
    stored_height: int
    orientation: int = 1

    @property
    def is_known(self) -> bool:
        """Whether the picture was looked at, see `UNSEEN`."""
        return self.width > 0


UNSEEN: Final = Shape(0, 0, 0, 0)
"""The shape of a picture that is known by name only: a box in it says its class, and is neither checked nor clipped."""


class Pictures(Protocol):
    """The pictures that labels may be about, by name."""

    @property
    def folder(self) -> str:
        """The last part of the path of the folder that they lie in, "" without one."""

    @property
    def names(self) -> Sequence[str]:
        """All names, with "/" between folders."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names of some of them, such as the hash of a payload."""

    def shape(self, name: str) -> Shape | None:
        """Return the size of a picture, `UNSEEN` where it is not looked at; None when it cannot be read."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One label: a class of a picture, or of a part of it. `where` is its place in the file of labels."""

    picture: str
    class_name: str
    edges: Edges | None
    where: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row that is no label: its place, its value and why."""

    where: str
    value: str
    reason: str


@dataclass(slots=True)
class LabelSet:
    """The outcome of one import. Each row of the file is in exactly one of marks, same, ignored and refused."""

    pictures: Pictures
    classes: ClassNames
    rows: int = 0
    marks: list[Mark] = field(default_factory=list)
    same_again: list[str] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    looked_at: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    finder: PictureNames = field(init=False)
    _known: tuple[int, frozenset[str]] = field(default=(0, frozenset()), init=False, repr=False)

    def __post_init__(self) -> None:
        self.finder = PictureNames(self.pictures.names, self.pictures.aliases)

    def note(self, words: str, where: str) -> None:
        """Note that something was read in another way than it was written."""
        self.notes.setdefault(words, []).append(where)

    def refuse(self, where: str, value: object, reason: str) -> None:
        """Count a row that is not a label, with its value and the reason."""
        self.refused.append(Refusal(where, str(value)[:100], reason))

    def class_of(self, value: object, where: str) -> str:
        """Return the contract's class, or "" after refusing the row."""
        found = self.classes.match(value)
        if found.problem:
            self.refuse(where, value, found.problem)
        elif found.how:
            self.note(found.how, where)
        return found.name

    def picture_of(self, text: str, where: str) -> str:
        """Return the picture that a file name means, or "" after refusing the row."""
        found = self.finder.find(text)
        if found.problem:
            self.refuse(where, text, found.problem)
            if found.problem == "no such picture":
                self.missing.add(text)
            return ""
        if found.how:
            self.note(found.how, where)
        if self.pictures.shape(found.name) is None:
            self.refuse(where, text, "unreadable picture")
            return ""
        return found.name

    def add_box(self, picture: str, class_name: str, edges: Edges, where: str) -> None:
        """Add a box, clipped to its picture; refused when less than one pixel of it is inside. Unseen: its class only."""
        shape = self.pictures.shape(picture)
        if shape is None:
            self.refuse(where, picture, "unreadable picture")
            return
        if not shape.is_known:
            self.marks.append(Mark(picture, class_name, None, where))
            return
        left, top, right, bottom = edges
        if right - left < 1.0 or bottom - top < 1.0:
            self.refuse(where, edges, "a box below one pixel in width or height")
            return
        inside = (
            max(left, 0.0),
            max(top, 0.0),
            min(right, float(shape.width)),
            min(bottom, float(shape.height)),
        )
        if inside[2] - inside[0] < 1.0 or inside[3] - inside[1] < 1.0:
            self.refuse(
                where, edges, f"a box outside of the picture of {shape.width} x {shape.height} pixels"
            )
            return
        if inside != edges:
            self.note(CLIPPED, where)
        self.marks.append(Mark(picture, class_name, inside, where))

    def single_classes(self) -> dict[str, str]:
        """Return one class per picture, for classification. Marks of a picture with several classes are refused."""
        by_picture: dict[str, list[Mark]] = {}
        for mark in self.marks:
            by_picture.setdefault(mark.picture, []).append(mark)
        found: dict[str, str] = {}
        for picture, marks in by_picture.items():
            names = sorted({mark.class_name for mark in marks})
            if len(names) == 1:
                found[picture] = names[0]
                continue
            for mark in marks:
                self.refuse(mark.where, picture, f"contradiction: {picture} is {' and '.join(names)}")
        self.marks = [mark for mark in self.marks if mark.picture in found]
        return found

    def boxes(self) -> dict[str, list[dict[str, object]]]:
        """Return all boxes per picture, sorted, for detection; an empty list where the annotators found none.

        Marks of whole pictures are refused. Rows that repeat a box are counted as such.
        """
        found: dict[str, list[dict[str, object]]] = {}
        kept = []
        for mark in self.marks:
            if mark.edges is None:
                self.refuse(mark.where, mark.picture, "no box")
                continue
            box = {"class_name": mark.class_name, **dict(zip(EDGES, mark.edges, strict=True))}
            if box in found.setdefault(mark.picture, []):
                self.same_again.append(mark.where)
                continue
            found[mark.picture].append(box)
            kept.append(mark)
        self.marks = kept
        ordered = {name: sorted(boxes, key=lambda box: tuple(box.values())) for name, boxes in found.items()}
        return {**ordered, **{name: [] for name in self.negatives}}

    def values(self, column: str) -> dict[str, Any]:
        """Return the value of the label column `column` for each labelled picture, in the order of the file."""
        return dict(self.boxes() if column == "boxes" else self.single_classes())

    def rows_sum(self) -> tuple[int, dict[str, int]]:
        """Return (rows of the file, rows per outcome): the second adds up to the first."""
        parts = Counter({"taken": len(self.marks), "the same again": len(self.same_again)})
        parts.update(f"ignored ({kind})" for _, kind in self.ignored)
        parts.update(f"refused ({_kind(refusal.reason)})" for refusal in self.refused)
        return self.rows, {name: count for name, count in parts.items() if count}

    def pictures_sum(self) -> tuple[int, dict[str, int]]:
        """Return (pictures found or named, pictures per state): the second adds up to the first."""
        kinds = Counter(self.state(name) for name in self.pictures.names)
        kinds.update(["not on disk"] * len(self.missing))
        total = len(self.pictures.names) + len(self.missing)
        return total, {name: count for name, count in kinds.items() if count}

    def state(self, name: str) -> str:
        """Return the state of one picture: labelled, negative, unreadable or not labelled."""
        if self.pictures.shape(name) is None:
            return "unreadable"
        if name in self._labelled():
            return "labelled"
        return "negative (looked at, nothing there)" if name in self.looked_at else "not labelled"

    def _labelled(self) -> frozenset[str]:
        if self._known[0] != len(self.marks):
            self._known = (len(self.marks), frozenset(mark.picture for mark in self.marks))
        return self._known[1]

    @property
    def negatives(self) -> list[str]:
        """Pictures that were looked at and have no mark, in the order of their names."""
        return [name for name in self.pictures.names if self.state(name).startswith("negative")]


def _kind(reason: str) -> str:
    return reason.partition(":")[0].partition(";")[0][:60]

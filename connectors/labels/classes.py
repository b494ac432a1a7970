"""Match a class as it was written with the contract's classes: the same, mapped with a note, or refused.

Letters are compared in one form (NFC). A spelling that differs only in case, in space at its ends or in invisible
marks is mapped; anything else is refused with the nearest class. A class is never guessed by its number.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

OTHER_FORM: Final = "classes in another Unicode form"
OTHER_SPELLING: Final = "classes in another case, with space at the ends or with invisible marks"
_SEPARATORS = re.compile(r"[|,;/+]")
_CUT: Final = 80


@dataclass(frozen=True, slots=True)
class ClassMatch:
    """The contract's class, or "" and the problem. `how` says what was mapped, "" for nothing."""

    name: str
    how: str = ""
    problem: str = ""


class ClassNames:
    """The classes of a contract, to match what people write with."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = tuple(classes)
        self._same = {unicodedata.normalize("NFC", name): name for name in self.names}
        self._folded: dict[str, list[str]] = {}
        for name in self.names:
            self._folded.setdefault(_folded(name), []).append(name)

    def match(self, value: object) -> ClassMatch:
        """Return the class that `value` means."""
        if not isinstance(value, str):
            kind = "a number" if isinstance(value, int | float) and not isinstance(value, bool) else "a value"
            if value is None or value != value:
                return ClassMatch("", problem="no class")
            return ClassMatch("", problem=f"no class name but {kind}: {str(value)[:_CUT]}")
        if value in self.names:
            return ClassMatch(value)
        if not value.strip():
            return ClassMatch("", problem="no class")
        if found := self._same.get(unicodedata.normalize("NFC", value)):
            return ClassMatch(found, OTHER_FORM)
        near = self._folded.get(_folded(value), [])
        if len(near) == 1:
            return ClassMatch(near[0], OTHER_SPELLING)
        parts = [part for part in _SEPARATORS.split(value) if part.strip()]
        if len(parts) > 1 and all(_folded(part) in self._folded for part in parts):
            return ClassMatch("", problem=f"{len(parts)} classes in one cell: {visible(value)}")
        return ClassMatch("", problem=f"unknown class {visible(value)}{self._nearest(value)}")

    def _nearest(self, value: str) -> str:
        close = difflib.get_close_matches(_folded(value), list(self._folded), n=1, cutoff=0.5)
        if close:
            return f"; the nearest is {self._folded[close[0]][0]!r}"
        some = ", ".join(map(repr, self.names[:10]))
        return f"; the classes are {some}{' and more' if len(self.names) > 10 else ''}"


def visible(text: str) -> str:
    """Return the text in quotes, with code points written out where a screen would not show the difference."""
    return ascii(text[:_CUT]) if not text.isascii() or not text.isprintable() else repr(text[:_CUT])


def _folded(text: str) -> str:
    seen = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFC", seen.strip().casefold())

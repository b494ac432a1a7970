"""A class as somebody wrote it, and the contract's class that is meant: the same, mapped and said, or refused.

Letters are compared in one form (NFC). A spelling that differs only in case, in space at its ends or in marks that
nobody sees is mapped; anything else is refused with the nearest class. It never guesses a class by its number.
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
    """The contract's class, or "" and why not. `how` says what was mapped, "" when nothing was."""

    name: str
    how: str = ""
    problem: str = ""


class ClassNames:
    """The classes of a contract, as what people write is compared with them."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = tuple(classes)
        self._same = {unicodedata.normalize("NFC", name): name for name in self.names}
        self._folded: dict[str, list[str]] = {}
        for name in self.names:
            self._folded.setdefault(_folded(name), []).append(name)

    def match(self, value: object) -> ClassMatch:
        """The class that `value` means."""
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
    """The text in quotes, with code points written out where a screen would not tell it from another."""
    return ascii(text[:_CUT]) if not text.isascii() or not text.isprintable() else repr(text[:_CUT])


def _folded(text: str) -> str:
    seen = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFC", seen.strip().casefold())

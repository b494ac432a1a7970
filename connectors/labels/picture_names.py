"""Find the picture that a file name means: as it is written, then by other readings, each only if one picture fits.

A name never matches a picture in another folder than the one that it names: a path with folders matches only
pictures whose path ends with it, or is the end of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

ROOTS: Final = ("", "images/")
OTHER_FORM: Final = "file names in another Unicode form"
SLASHES: Final = "file names with back-slashes, dots or a drive letter"
ADDRESS: Final = "file names percent-encoded or in a URL"
OTHER_FOLDER: Final = "file names above or below another folder"
OTHER_CASE: Final = "file names in another case"
OTHER_ENDING: Final = "file names with another ending"
_DRIVE = re.compile(r"^[A-Za-z]:/")


@dataclass(frozen=True, slots=True)
class NameMatch:
    """The picture's own name, or "" and the problem. `how` says by which reading, "" as it was written."""

    name: str
    how: str = ""
    problem: str = ""


class PictureNames:
    """The pictures of a set, found by the names that other tools give them."""

    def __init__(self, names: Iterable[str], aliases: Mapping[str, str] | None = None) -> None:
        self._aliases = dict(aliases or {})
        self._names = {_nfc(name): name for name in names}
        self._exact = set(self._names.values())
        self._by_last: dict[str, list[str]] = {}
        self._by_folded: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for key in self._names:
            self._by_last.setdefault(key.rpartition("/")[2], []).append(key)
            self._by_folded.setdefault(key.rpartition("/")[2].casefold(), []).append(key)
            self._by_stem.setdefault(_stem(key.rpartition("/")[2]).casefold(), []).append(key)

    def find(self, text: str) -> NameMatch:
        """Return the picture that `text` means."""
        if not text.strip():
            return NameMatch("", problem="no file")
        for root in ROOTS:
            if root + text in self._exact:
                return NameMatch(root + text)
        if alias := self._aliases.get(text.strip().lower()):
            return NameMatch(alias)
        readings = list(_readings(text))
        for how, key in readings:
            for root in ROOTS:
                if found := self._names.get(root + key):
                    return NameMatch(found, how)
        fits: tuple[tuple[str, Callable[[str], list[str]]], ...] = (
            (OTHER_FOLDER, self._in_other_folder),
            (OTHER_CASE, self._in_other_case),
            (OTHER_ENDING, self._with_other_ending),
        )
        for how, fit in fits:
            for _, key in readings:
                found_keys = fit(key)
                if len(found_keys) == 1:
                    return NameMatch(self._names[found_keys[0]], how)
                if found_keys:
                    some = ", ".join(sorted(found_keys)[:5])
                    return NameMatch("", problem=f"{len(found_keys)} pictures have that name: {some}")
        outside = any(key == ".." or key.startswith("../") for _, key in readings)
        return NameMatch("", problem="outside of the folder" if outside else "no such picture")

    def _in_other_folder(self, key: str) -> list[str]:
        return [name for name in self._by_last.get(key.rpartition("/")[2], []) if _ends(name, key)]

    def _in_other_case(self, key: str) -> list[str]:
        folded = key.casefold()
        near = self._by_folded.get(folded.rpartition("/")[2], [])
        same = [name for name in near if name.casefold() in {root + folded for root in ROOTS}]
        return same or [name for name in near if _ends(name.casefold(), folded)]

    def _with_other_ending(self, key: str) -> list[str]:
        stem = _stem(key).casefold()
        near = self._by_stem.get(stem.rpartition("/")[2], [])
        return [name for name in near if _stem(name).casefold() in {root + stem for root in ROOTS}]


def _ends(name: str, key: str) -> bool:
    """Return whether one path ends with the other, whole parts only; a path with ".." ends with nothing."""
    if ".." in key.split("/") or ".." in name.split("/"):
        return False
    bare = name.removeprefix("images/")
    return name.endswith("/" + key) or key.endswith("/" + name) or ("/" in bare and key.endswith("/" + bare))


def _readings(text: str) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for how, form in (
        (OTHER_FORM, text),
        (SLASHES, _plain(text)),
        (ADDRESS, _plain(unquote(text))),
        *((ADDRESS, _plain(part)) for part in _address(text)),
    ):
        key = _nfc(form)
        if key and key not in seen:
            seen.add(key)
            yield how, key


def _address(text: str) -> Iterator[str]:
    try:
        parts = urlsplit(text)
    except ValueError:
        return
    if parts.query and parts.query.startswith("d="):
        yield parse_qs(parts.query).get("d", [""])[0]
    if parts.scheme in ("http", "https", "s3", "gs", "file"):
        yield unquote(parts.path)


def _plain(text: str) -> str:
    path = _DRIVE.sub("", text.strip().replace("\\", "/")).lstrip("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _stem(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)

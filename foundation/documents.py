"""Structured documents: JSON and TOML are decoded strictly into frozen dataclasses by msgspec, within bounds.

The dataclass of a document declares its types, defaults and bounds (`Annotated[int, Meta(ge=1)]`). A wrong type, a value
out of bounds, a duplicate key, a number that is not finite, too many bytes and too deep nesting are each refused with
the location, the value and the bound. Values are never coerced.

Documents evolve in two ways:
- An unknown key is skipped, unless its object lists it under `must_understand`: then the object is refused. For
  configuration, which people write, every unknown key is refused (`refuse_unknown`).
- A change that a skipped key cannot express makes a new version; `DocumentType` keeps a reader for each version that was
  ever released.
A row that cannot be read does not affect the other rows: `read_rows` returns it with the reason.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import (
    Any,
    Final,
    Generic,
    TypeVar,
)

import msgspec
from msgspec import Meta

from foundation.document_messages import WORDS, Place, brief, brief_text, explain, foreign, refusal
from foundation.errors import CorruptError, FleetLoopError

__all__ = ["Meta"]  # for the bounds of a field: Annotated[int, Meta(ge=1)]

T = TypeVar("T")
S = TypeVar("S")
Family = Callable[[str], FleetLoopError]
"""Creates the error to raise from a message."""

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 64
"""Bound on the nesting of objects and lists."""
MUST_UNDERSTAND: Final = "must_understand"

_MAX_KEY_PARTS = 64
_LONG_KEY = re.compile(rf"(?:\.[ \t]*[A-Za-z0-9_\-\"']+[ \t]*){{{_MAX_KEY_PARTS}}}")


def parse_json(
    data: bytes | str, name: str, *, family: Family = CorruptError, max_bytes: int = MAX_DOCUMENT_BYTES
) -> Any:
    """Parse JSON text into plain values (dicts, lists, text, numbers).

    Args:
        name: the name of the document in messages.
        family: creates the error to raise.

    Raises:
        FleetLoopError: made by `family`, for too many bytes, invalid UTF-8 or JSON, a duplicate key, a number that is not
            finite or has too many digits, and nesting beyond MAX_DEPTH.
    """
    _check_size(data, name, family, max_bytes)
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        text.encode("utf-8")
        tree = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if "\\ud" in text.lower():  # a lone surrogate could not be written again
            json.dumps(tree, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise family(f"{name} is not JSON: {brief_text(error) or 'nested too deeply'}") from error
    check_plain(tree, name, family=family)
    return tree


def parse_toml(
    data: bytes, name: str, *, family: Family = CorruptError, max_bytes: int = MAX_DOCUMENT_BYTES
) -> dict[str, Any]:
    """Parse TOML text into a plain dict. Raises FleetLoopError as `parse_json` does."""
    _check_size(data, name, family, max_bytes)
    try:
        text = data.decode("utf-8")
        if _LONG_KEY.search(text):  # tomllib's memory for a key grows with the square of its parts
            raise family(f"{name} holds a key of more than {_MAX_KEY_PARTS} parts")
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise family(f"{name} is not TOML: {brief_text(error) or 'nested too deeply'}") from error
    return tree


def check_plain(tree: object, name: str, *, family: Family = CorruptError) -> None:
    """Raise FleetLoopError for a number that is not finite, or for nesting beyond MAX_DEPTH.

    A value that occurs in several places (a YAML alias) is checked once.
    """
    seen: set[int] = set()
    open_: list[tuple[object, Place]] = [(tree, ())]
    while open_:
        value, path = open_.pop()
        if isinstance(value, float):
            if not isfinite(value):
                raise family(refusal(name, path, value, "a finite number"))
            continue
        if not isinstance(value, Mapping | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        if len(path) >= MAX_DEPTH:
            raise family(f"{name} is nested deeper than {MAX_DEPTH}")
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        open_ += [
            (item, (*path, key)) for key, item in items if isinstance(item, float | Mapping | list | tuple)
        ]


def encode_json(document: object, **more: object) -> bytes:
    """Encode a dataclass or plain value as JSON: sorted keys, indent 2, a final newline. `more` adds keys to the object."""
    tree = plain(document)
    if more:
        tree = {**tree, **more}
    return json.dumps(tree, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def plain(document: object) -> Any:
    """Convert a dataclass into plain dicts, lists, text and numbers."""
    return msgspec.to_builtins(document, str_keys=True, enc_hook=str)


def build(
    kind: type[T], tree: object, name: str, *, family: Family = CorruptError, refuse_unknown: bool = False
) -> T:
    """Build the dataclass `kind` from a plain value.

    Args:
        kind: a frozen dataclass, or any other type that msgspec supports.
        tree: the result of `parse_json` or `parse_toml`.
        name: the name of the document in messages; "" for messages that begin with the key.
        refuse_unknown: whether every unknown key is refused.

    Raises:
        FleetLoopError: made by `family`, with location, value and bound; also any error that `kind` raises itself.
    """
    try:
        document = msgspec.convert(tree, kind, strict=True, dec_hook=foreign, str_keys=True)
    except msgspec.ValidationError as error:
        raise family(explain(kind, tree, name, str(error))) from error
    except RecursionError as error:
        raise family(f"{name or 'the document'} is nested too deeply") from error
    for path, value, known, is_listed in _unknown(tree, plain(document), ()):
        if is_listed or refuse_unknown:
            near = ", ".join(sorted(known)) or "none"
            why = (
                "understood, and this version does not know it"
                if is_listed
                else "left out: there is no such key"
            )
            raise family(refusal(name, path, value, f"{why} (known: {near})"))
    return document


def decode(kind: type[T], data: bytes | str, name: str, *, family: Family = CorruptError) -> T:
    """Decode JSON text into the dataclass `kind`: `build` of `parse_json`."""
    return build(kind, parse_json(data, name, family=family), name, family=family)


_BOUNDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})


@dataclass(frozen=True, slots=True)
class Version(Generic[S, T]):
    """A released version of a document: it is read into `kind`, then converted to the present type by `upgrade`.

    With `is_whole`, `upgrade` is given the plain object, of which `kind` is the part that is read.
    """

    kind: type[S]
    upgrade: Callable[[S], T]
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class DocumentType(Generic[T]):
    """A type of document with a reader for every version that was ever released.

    `version_key` is the key that holds the version number; `absent` is the version of a document without that key
    (None: refused). An unknown version is refused; a new version is made only for changes that older readers cannot
    skip.
    """

    name: str
    versions: Mapping[int, Version[Any, T]]
    version_key: str = "format_version"
    family: Family = CorruptError
    absent: int | None = None
    max_bytes: int = MAX_DOCUMENT_BYTES

    @classmethod
    def first(cls, name: str, kind: type[T], **more: Any) -> DocumentType[T]:
        """Define a document of one version, 1 by the key `format`; earlier releases wrote none."""
        return cls(name, {1: Version(kind, _same)}, "format", absent=1, **more)

    @staticmethod
    def whole(name: str, kind: type[Any], **more: Any) -> DocumentType[dict[str, Any]]:
        """As `first`, of a document that is passed on as a plain object; `kind` is the part of it that is read."""
        versions = {1: Version(kind, _same, is_whole=True)}
        return DocumentType(name, versions, "format", absent=1, **more)

    def read(self, data: bytes | str, *, family: Family | None = None) -> T:
        """Read the document from JSON text. Raises FleetLoopError as `family`, with location, value and bound."""
        chosen = family or self.family
        return self.of(parse_json(data, self.name, family=chosen, max_bytes=self.max_bytes), family=chosen)

    def of(self, tree: object, *, family: Family | None = None) -> T:
        """Read the document from a plain value. Raises FleetLoopError as `family`, with location, value and bound."""
        chosen = family or self.family
        if self.absent is not None and isinstance(tree, Mapping) and self.version_key not in tree:
            tree = {self.version_key: self.absent, **tree}
        number = version_of(tree, self.name, self.version_key, self.versions, family=chosen)
        version = self.versions[number]
        inner = {key: value for key, value in tree.items() if key != self.version_key}  # type: ignore[attr-defined]
        document = build(version.kind, inner, self.name, family=chosen)
        return version.upgrade(tree if version.is_whole else document)

    def tree(self, document: object) -> dict[str, Any]:
        """Return a document in its newest version as a plain object, which `of` reads back."""
        return {**plain(document), self.version_key: max(self.versions)}

    def schema(self, number: int, **about: str) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of one version; `about` adds title, description and similar keys."""
        (outer,), parts = msgspec.json.schema_components(
            [self.versions[number].kind],
            ref_template="#/$defs/{name}",
            schema_hook=lambda _: {"type": "string"},
        )
        inner = dict(parts.pop(outer["$ref"].rpartition("/")[2]))
        inner["properties"] = {self.version_key: {"const": number}, **inner["properties"]}
        inner["required"] = sorted([self.version_key, *inner["required"]])
        head = {"$schema": "https://json-schema.org/draft/2020-12/schema", **about}
        inner = {key: value for key, value in inner.items() if key not in head}
        found: dict[str, Any] = _whole_bounds({**head, **inner, **({"$defs": parts} if parts else {})})
        return found


def _whole_bounds(tree: Any) -> Any:
    """Return a JSON Schema whose bounds are whole numbers where they can be.

    Why: `typing` keeps one object for equal annotations, so which of 1 and 1.0 a bound is depends on what was imported first.
    """
    if isinstance(tree, list):
        return [_whole_bounds(each) for each in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: int(value)
        if key in _BOUNDS and isinstance(value, float) and value.is_integer()
        else _whole_bounds(value)
        for key, value in tree.items()
    }


def _same(document: T) -> T:
    return document


def version_of(
    tree: object,
    name: str,
    key: str,
    known: Mapping[int, object] | set[int],
    *,
    family: Family = CorruptError,
) -> int:
    """Return the version number of an object, one of `known`. Raises FleetLoopError as `family`."""
    if not isinstance(tree, Mapping):
        raise family(refusal(name, (), tree, WORDS["object"]))
    number = tree.get(key)
    if type(number) is not int or number not in known:
        words = ", ".join(map(str, sorted(known)))
        raise family(refusal(name, (key,), number, f"a supported version ({words})"))
    return number


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row of a list that could not be read, and the row itself; `index` counts from 0."""

    index: int
    why: str
    row: Any = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """The rows of a list that were read, in order, and those that could not be read."""

    read: tuple[T, ...] = ()
    unreadable: tuple[UnreadableRow, ...] = field(default=())


def read_rows(rows: object, read: Callable[[Any], T], name: str, *, family: Family = CorruptError) -> Rows[T]:
    """Read each row on its own; a row that `read` refuses is returned apart with the reason.

    Raises:
        FleetLoopError: made by `family`, if `rows` is not a list.
    """
    if not isinstance(rows, list):
        raise family(refusal(name, (), rows, WORDS["array"]))
    good, bad = [], []
    for index, row in enumerate(rows):
        try:
            good.append(read(row))
        except FleetLoopError as error:
            bad.append(UnreadableRow(index, str(error), row))
    return Rows(tuple(good), tuple(bad))


def _check_size(data: bytes | str, name: str, family: Family, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise family(f"{name} has {len(data)} bytes; the limit is {max_bytes}")


def _unknown(tree: object, known: object, path: Place) -> Iterator[tuple[Place, object, set[str], bool]]:
    """Yield keys of `tree` missing from the document built from it: location, value, known keys, must be understood."""
    if isinstance(tree, Mapping) and isinstance(known, dict):
        listed = tree.get(MUST_UNDERSTAND, ())
        if not isinstance(listed, list | tuple):
            listed = [listed]
        is_free = not path and MUST_UNDERSTAND in known  # any keys, of which none is understood here
        for name in listed:
            if is_free or not isinstance(name, str) or name not in known:
                yield (*path, str(name)[:100]), tree.get(str(name)), set(known), True
        for key, value in tree.items():
            if key in known:
                yield from _unknown(value, known[key], (*path, key))
            else:
                yield (*path, key), value, set(known), False
    elif isinstance(tree, list | tuple) and isinstance(known, list | tuple):
        for index, (item, other) in enumerate(zip(tree, known, strict=False)):
            yield from _unknown(item, other, (*path, index))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        last = {name: index for index, (name, _) in enumerate(pairs)}
        twice = next(name for index, (name, _) in enumerate(pairs) if last[name] != index)
        raise ValueError(f"the key {brief(twice)} is given twice")
    return result


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number")

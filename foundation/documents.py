"""Structured documents: JSON and TOML are decoded strictly into frozen dataclasses, by msgspec, within bounds.

What a document may hold is said once, in its dataclass: types, defaults and bounds (`Annotated[int, Meta(ge=1)]`). A
wrong type, a value out of its bounds, a key given twice, a number that is not finite, too many bytes and too deep
nesting are each refused with the place, the value and the bound. No value is ever converted to fit.

Documents evolve in two ways:
- a key that the reader does not know is skipped, unless its object lists it under `must_understand`: then the reader
  refuses the object. Configuration, which a person types, refuses every unknown key instead (`refuse_unknown`).
- a change that a skipped key cannot express is a new version: `DocumentType` keeps a reader for each version that was
  ever released.
One row that cannot be read never spoils its neighbours: `read_rows` counts it and says why.
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

from foundation.document_messages import WORDS, Place, brief, brief_text, explained, foreign, said
from foundation.errors import CorruptError, FleetLoopError

__all__ = ["Meta"]  # for the bounds of a field: Annotated[int, Meta(ge=1)]

T = TypeVar("T")
S = TypeVar("S")
Family = Callable[[str], FleetLoopError]
"""Makes the error that the caller of this module raises, from a message."""

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 64
"""Objects and lists within each other."""
MUST_UNDERSTAND: Final = "must_understand"

_MAX_KEY_PARTS = 64
_LONG_KEY = re.compile(rf"(?:\.[ \t]*[A-Za-z0-9_\-\"']+[ \t]*){{{_MAX_KEY_PARTS}}}")


def parse_json(
    data: bytes | str, name: str, *, family: Family = CorruptError, max_bytes: int = MAX_DOCUMENT_BYTES
) -> Any:
    """The plain value that JSON text stands for.

    Args:
        name: what the document is called in messages.
        family: makes the error to raise.

    Raises:
        FleetLoopError: as `family` makes it: too many bytes, not UTF-8 JSON, a key given twice in one object, a number
            that is not finite or has too many digits, nesting beyond MAX_DEPTH.
    """
    _check_size(data, name, family, max_bytes)
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        text.encode("utf-8")
        tree = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if "\\ud" in text.lower():  # half of a pair of code units cannot be written again
            json.dumps(tree, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise family(f"{name} is not JSON: {brief_text(error) or 'nested too deeply'}") from error
    check_plain(tree, name, family=family)
    return tree


def parse_toml(
    data: bytes, name: str, *, family: Family = CorruptError, max_bytes: int = MAX_DOCUMENT_BYTES
) -> dict[str, Any]:
    """The plain table that TOML text stands for. Raises FleetLoopError as `parse_json` does."""
    _check_size(data, name, family, max_bytes)
    try:
        text = data.decode("utf-8")
        if _LONG_KEY.search(
            text
        ):  # the memory that tomllib takes for a key grows with the square of its parts
            raise family(f"{name} holds a key of more than {_MAX_KEY_PARTS} parts")
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise family(f"{name} is not TOML: {brief_text(error) or 'nested too deeply'}") from error
    return tree


def check_plain(tree: object, name: str, *, family: Family = CorruptError) -> None:
    """Raises FleetLoopError for a number that is not finite, and for nesting beyond MAX_DEPTH.

    A value that stands in several places (an alias of YAML) is looked at once.
    """
    seen: set[int] = set()
    open_: list[tuple[object, Place]] = [(tree, ())]
    while open_:
        value, path = open_.pop()
        if isinstance(value, float):
            if not isfinite(value):
                raise family(said(name, path, value, "a finite number"))
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
    """A dataclass or a plain value as JSON: sorted keys, indent 2, a newline. `more` are further keys of the object."""
    tree = plain(document)
    if more:
        tree = {**tree, **more}
    return json.dumps(tree, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def plain(document: object) -> Any:
    """A dataclass as plain dicts, lists, text and numbers."""
    return msgspec.to_builtins(document, str_keys=True, enc_hook=str)


def build(
    kind: type[T], tree: object, name: str, *, family: Family = CorruptError, refuse_unknown: bool = False
) -> T:
    """The dataclass `kind` of a plain value.

    Args:
        kind: a frozen dataclass, or any type that msgspec knows.
        tree: as `parse_json` and `parse_toml` give it.
        name: what the document is called in messages; "" leaves the key alone.
        refuse_unknown: also a key that nobody must understand is refused.

    Raises:
        FleetLoopError: as `family` makes it, with place, value and bound; also whatever family `kind` raises itself.
    """
    try:
        document = msgspec.convert(tree, kind, strict=True, dec_hook=foreign, str_keys=True)
    except msgspec.ValidationError as error:
        raise family(explained(kind, tree, name, str(error))) from error
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
            raise family(said(name, path, value, f"{why} (known: {near})"))
    return document


def decode(kind: type[T], data: bytes | str, name: str, *, family: Family = CorruptError) -> T:
    """`build` of `parse_json`."""
    return build(kind, parse_json(data, name, family=family), name, family=family)


@dataclass(frozen=True, slots=True)
class Version(Generic[S, T]):
    """How one released version of a document is read: into `kind`, then into today's type by `upgrade`."""

    kind: type[S]
    upgrade: Callable[[S], T]


@dataclass(frozen=True, slots=True)
class DocumentType(Generic[T]):
    """A kind of document, and a reader for every version of it that was ever released.

    `version_key` is the key whose whole number says which version a document is. An unknown version is refused: only
    what older readers cannot skip makes a new version.
    """

    name: str
    versions: Mapping[int, Version[Any, T]]
    version_key: str = "format_version"
    family: Family = CorruptError

    def read(self, data: bytes | str, *, family: Family | None = None) -> T:
        """The document in JSON text. Raises FleetLoopError as `family`, with place, value and bound."""
        chosen = family or self.family
        return self.of(parse_json(data, self.name, family=chosen), family=chosen)

    def of(self, tree: object, *, family: Family | None = None) -> T:
        """The document in a plain value. Raises FleetLoopError as `family`, with place, value and bound."""
        chosen = family or self.family
        number = version_of(tree, self.name, self.version_key, self.versions, family=chosen)
        version = self.versions[number]
        inner = {key: value for key, value in tree.items() if key != self.version_key}  # type: ignore[attr-defined]
        return version.upgrade(build(version.kind, inner, self.name, family=chosen))

    def schema(self, number: int, **about: str) -> dict[str, Any]:
        """The JSON Schema (2020-12) of one version; `about` are its title, description and such."""
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
        return {**head, **inner, **({"$defs": parts} if parts else {})}


def version_of(
    tree: object,
    name: str,
    key: str,
    known: Mapping[int, object] | set[int],
    *,
    family: Family = CorruptError,
) -> int:
    """Which of the known versions an object says it is. Raises FleetLoopError as `family`."""
    if not isinstance(tree, Mapping):
        raise family(said(name, (), tree, WORDS["object"]))
    number = tree.get(key)
    if type(number) is not int or number not in known:
        words = ", ".join(map(str, sorted(known)))
        raise family(said(name, (key,), number, f"a version that is read here ({words})"))
    return number


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """One row of a list that could not be read; `index` counts from 0."""

    index: int
    why: str


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """The rows of a list that could be read, in order, and those that could not."""

    read: tuple[T, ...] = ()
    unreadable: tuple[UnreadableRow, ...] = field(default=())


def read_rows(rows: object, read: Callable[[Any], T], name: str, *, family: Family = CorruptError) -> Rows[T]:
    """Each row by itself: one that `read` refuses is kept apart with the reason.

    Raises:
        FleetLoopError: as `family` makes it, when `rows` is no list.
    """
    if not isinstance(rows, list):
        raise family(said(name, (), rows, WORDS["array"]))
    good, bad = [], []
    for index, row in enumerate(rows):
        try:
            good.append(read(row))
        except FleetLoopError as error:
            bad.append(UnreadableRow(index, str(error)))
    return Rows(tuple(good), tuple(bad))


def _check_size(data: bytes | str, name: str, family: Family, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise family(f"{name} has {len(data)} bytes; at most {max_bytes} are read")


def _unknown(tree: object, known: object, path: Place) -> Iterator[tuple[Place, object, set[str], bool]]:
    """Keys of `tree` that are not in the document built from it: place, value, keys beside it, must be understood."""
    if isinstance(tree, Mapping) and isinstance(known, dict):
        listed = tree.get(MUST_UNDERSTAND, ())
        if not isinstance(listed, list | tuple):
            listed = [listed]
        for name in listed:
            if not isinstance(name, str) or name not in known:
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

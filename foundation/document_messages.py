"""Error messages for invalid documents, with the location, the value and both bounds.

msgspec's messages give the location and one bound, but neither the value nor the key of a mapping. This module adds them
from the plain value and the types that it was checked against.
"""

from __future__ import annotations

import re
import reprlib
import types
from dataclasses import is_dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from foundation.errors import FleetLoopError

_BRIEF_CHARACTERS = 100
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel = 4
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 2 * _BRIEF_CHARACTERS
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 20
_PART = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_WANTED = re.compile(r"Expected `([\w |]+)`")
NO_NEWLINE: Final = r"(?!\n)"
"""Follows the `$` of a pattern: in Python `$` alone also matches before a final newline."""
WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "a table of keys",
    "path": "a path",
    "null": "null",
}

Place = tuple[str | int, ...]
"""A location in a document: keys of objects and indices of lists, outermost first."""


def brief(value: object) -> str:
    """Return at most 100 characters of a value's repr, in bounded time and memory.

    A few bytes of YAML can define a list that contains itself a billion times, and a few kilobytes of TOML a number that
    Python refuses to print.
    """
    try:
        return _BRIEF.repr(value)[:_BRIEF_CHARACTERS]
    except (ValueError, RecursionError):
        return f"too long to show ({type(value).__name__})"


def brief_text(error: object) -> str:
    """Return at most 200 characters of a message."""
    return str(error)[: 2 * _BRIEF_CHARACTERS]


def place(name: str, path: Place) -> str:
    """Return a location as it is written in messages: release.waves[0].number."""
    text = name
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{str(part)[:_BRIEF_CHARACTERS]}"
    return text.removeprefix(".") or "the document"


def refusal(name: str, path: Place, value: object, bound: str) -> str:
    """Return the message of every refusal: location, value, bound."""
    return f"{place(name, path)} is {brief(value)}; it must be {bound}"


def explain(kind: Any, tree: object, name: str, message: str) -> str:
    """Return msgspec's message completed by the value, both bounds, and the key of a mapping."""
    what, _, rest = message.rpartition(" - at `$") if " - at `$" in message else (message, "", "")
    hint, value, path = kind, tree, ()  # type: tuple[Any, Any, Place]
    for found in _PART.finditer(rest):
        key, index = found.groups()
        part: str | int = key or (int(index) if index.isdigit() else "")
        try:
            inner = _inner(hint, part)
            if index == "...":
                part = next(each for each in value if not _fits(value[each], inner))
            value = value[part]
        except (LookupError, StopIteration, TypeError):
            break  # the location as far as it is known
        hint, path = inner, (*path, part)
    if missing := _MISSING.match(what):
        return f"{place(name, (*path, missing[1]))} is missing; it must be given"
    bound = _bound(hint, what, value)
    return refusal(name, path, value, bound) if bound else f"{place(name, path)}: {brief_text(what)}"


def _bound(hint: Any, what: str, value: object) -> str:
    """Return the bound on a value as text; empty if `what` is a message of the dataclass itself."""
    metas = _metas(hint)
    bare = _bare(hint)
    choices = _choices(bare)
    if what == "Number out of range":
        return "a finite number"
    if what.startswith("Invalid enum value") or (choices and what.startswith("Expected")):
        return f"one of {choices}"
    if "`array` of length" in what and get_origin(bare) is tuple and get_args(bare)[-1:] != (Ellipsis,):
        return f"a list of {len(get_args(bare))}"
    wanted = _WANTED.match(what)
    if wanted is None:
        return ""
    if ", got" not in what and metas:
        return " and ".join(filter(None, (_bound_of(meta, value) for meta in metas)))
    return " or ".join(WORDS.get(word.strip(), word.strip()) for word in wanted[1].split("|"))


def _metas(hint: Any) -> list[Meta]:
    own = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Meta)]
    inner = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
    return own + [meta for each in inner for meta in _metas(each)]


def _bound_of(meta: Meta, value: object) -> str:
    if meta.pattern is not None and isinstance(value, str) and not re.search(meta.pattern, value):
        return f"of the form {meta.pattern.removesuffix(NO_NEWLINE)}"
    if meta.min_length is not None or meta.max_length is not None:
        unit = "characters" if isinstance(value, str) else "items"
        size = f", not {len(value)}" if isinstance(value, str | list | tuple | dict) else ""
        return f"of {_range(meta.min_length or 0, meta.max_length)} {unit}{size}"
    if (meta.ge, meta.gt, meta.le, meta.lt) != (None, None, None, None):
        low = f"({_plain(meta.gt)}" if meta.gt is not None else f"[{_plain(meta.ge, '-inf')}"
        high = f"{_plain(meta.lt)})" if meta.lt is not None else f"{_plain(meta.le, 'inf')}]"
        return f"in {low}, {high}"
    return ""


def _plain(bound: float | None, otherwise: str = "") -> str:
    """Return a bound as text, a whole number without a decimal point."""
    if bound is None:
        return otherwise
    return str(int(bound) if float(bound).is_integer() else bound)


def _range(low: int, high: int | None) -> str:
    return f"at least {low}" if high is None else f"{low} to {high}"


def _fits(value: object, hint: Any) -> bool:
    try:
        msgspec.convert(value, hint, strict=True, dec_hook=foreign, str_keys=True)
    except msgspec.ValidationError:
        return False
    except FleetLoopError:
        return True
    return True


def _inner(hint: Any, part: str | int) -> Any:
    """Return the type of a field, an item or a value of `hint`. Raises LookupError."""
    bare = _bare(hint)
    if is_dataclass(bare):
        return get_type_hints(bare, include_extras=True)[str(part)]
    args = get_args(bare)
    if isinstance(part, int):
        return args[part if get_origin(bare) is tuple and args[-1:] != (Ellipsis,) else 0]
    return args[1]


def _bare(hint: Any) -> Any:
    """Return a type without its bounds and without None."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        inner = [each for each in get_args(hint) if each is not type(None)]
        return _bare(inner[0]) if len(inner) == 1 else hint
    return hint


def _choices(bare: Any) -> str:
    if get_origin(bare) is Literal:
        return ", ".join(map(repr, get_args(bare)))
    if isinstance(bare, type) and issubclass(bare, Enum):
        words = [member.name.lower() if issubclass(bare, IntEnum) else str(member.value) for member in bare]
        return ", ".join(words)
    return ""


def foreign(kind: Any, value: object) -> object:
    """Decode types that msgspec does not know: paths, and subclasses of str such as `Secret`."""
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    if isinstance(kind, type) and isinstance(value, str) and issubclass(kind, Path | str):
        return kind(value)
    raise TypeError(f"Expected `{'path' if kind is Path else 'str'}`, got `{type(value).__name__}`")

"""A component's settings are one frozen dataclass, read once from TOML; what does not fit is an error.

Tables are nested dataclasses, keys are field names with their unit. An unknown key, a wrong type and a value
out of bounds are each refused with the key, the value, the bound and the file. Secrets never stand in a
file: they come from the environment (FLEETLOOP_<TABLE>_<KEY>) and are masked wherever they are shown.
"""

from __future__ import annotations

import os
import re
import reprlib
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from enum import Enum
from math import inf, isfinite
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from foundation.errors import MisconfiguredError, without_credentials

T = TypeVar("T")

ENV_PREFIX: Final = "FLEETLOOP"
MASK: Final = "********"


_MAX_KEY_PARTS = 64
_LONG_KEY = re.compile(rf"(?:\.[ \t]*[A-Za-z0-9_\-\"']+[ \t]*){{{_MAX_KEY_PARTS}}}")
_BRIEF_CHARACTERS = 100
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel = 4
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 2 * _BRIEF_CHARACTERS
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 20


class Secret(str):
    """Text that does not show itself: `reveal()` gives it, repr and str give a mask."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def reveal(self) -> str:
        """The text itself, for the one call that needs it."""
        return str.__str__(self)


def setting(
    default: Any = MISSING,
    *,
    min: float | None = None,  # noqa: A002 - reads as the bound that it is
    max: float | None = None,  # noqa: A002
    secret: bool = False,
    help: str = "",  # noqa: A002
    default_factory: Any = MISSING,
) -> Any:
    """A dataclass field with its inclusive bounds (of the length, for text and lists) and its explanation."""
    metadata = {"min": min, "max": max, "secret": secret, "help": help}
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def load_settings(
    cls: type[T], source: Path | str | Mapping[str, Any], *, env: Mapping[str, str] | None = None
) -> T:
    """The settings `cls` of a TOML file (or of a mapping that came from one).

    Args:
        cls: a frozen dataclass; nested dataclasses are tables; dict[str, X] is a table with free keys.
        source: a file's path, or a mapping.
        env: where secrets come from; os.environ by default.

    Raises:
        MisconfiguredError: names the file, the key, the value and the bound.
    """
    place = "settings"
    if isinstance(source, Mapping):
        table: Mapping[str, Any] = source
    else:
        place = str(source)
        table = _read_toml(Path(source))
    return _Loader(place, os.environ if env is None else env).table(cls, table, ())


def print_config(settings: object) -> str:
    """The settings as TOML that `load_settings` reads back, secrets masked in a comment. Raises TypeError."""
    if not is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"{settings!r} is not a settings object")
    lines: list[str] = []
    _print_table(settings, (), lines)
    return "\n".join(lines).strip() + "\n"


def brief(value: object) -> str:
    """At most 100 characters of what a value looks like, also when all of it would take more time and memory than there is.

    A few bytes of YAML can name a list that holds itself a billion times, a few kilobytes of TOML a number that Python
    refuses to write down.
    """
    try:
        return _BRIEF.repr(value)[:_BRIEF_CHARACTERS]
    except (ValueError, RecursionError):
        return f"too long to show ({type(value).__name__})"


def _read_toml(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8")
        if _LONG_KEY.search(
            text
        ):  # the memory that tomllib takes for a key grows with the square of its parts
            raise MisconfiguredError(f"{path} holds a key of more than {_MAX_KEY_PARTS} parts")
        return tomllib.loads(text)
    except OSError as error:
        raise MisconfiguredError(f"cannot read the settings {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MisconfiguredError(f"{path} is not TOML: {error or 'nested too deeply'}") from error


class _Loader:
    """Turns one parsed file into settings; knows the file's name for the messages."""

    def __init__(self, place: str, env: Mapping[str, str]) -> None:
        self._place = place
        self._env = env

    def table(self, cls: type[T], table: Any, path: tuple[str, ...]) -> T:
        if not isinstance(table, Mapping):
            raise self._error(path, table, "a table")
        if not is_dataclass(cls):
            raise TypeError(f"{cls!r} is not a dataclass")
        hints = get_type_hints(cls)
        known = {item.name: item for item in fields(cls) if item.init}
        for key in table:
            if key not in known:
                near = ", ".join(sorted(known)) or "none"
                raise self._error((*path, key), table[key], f"left out: there is no such key (known: {near})")
        values: dict[str, Any] = {}
        for name, item in known.items():
            where = (*path, name)
            if item.metadata.get("secret"):
                self._secret(item, where, name in table, values)
            elif name in table:
                values[name] = self._bounded(item, self._value(hints[name], table[name], where), where)
            elif is_dataclass(hints[name]):
                if (item.default is MISSING and item.default_factory is MISSING) or _has_secret(
                    cast("type[Any]", hints[name])
                ):
                    values[name] = self.table(cast("type[Any]", hints[name]), {}, where)
            elif item.default is MISSING and item.default_factory is MISSING:
                raise MisconfiguredError(f"{self._place}: {'.'.join(where)} is missing and has no default")
        try:
            return cls(**values)
        except MisconfiguredError as error:
            raise MisconfiguredError(f"{self._place}: {'.'.join(path) or 'settings'}: {error}") from error

    def _secret(self, item: Field[Any], path: tuple[str, ...], in_file: bool, values: dict[str, Any]) -> None:
        variable = "_".join((ENV_PREFIX, *path)).upper()
        if in_file:
            raise MisconfiguredError(
                f"{self._place}: {'.'.join(path)} is a secret; it comes from the environment as {variable}"
            )
        if variable in self._env:
            values[item.name] = self._bounded(item, Secret(self._env[variable]), path)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise MisconfiguredError(f"{self._place}: the secret {variable} is not in the environment")

    def _value(self, hint: Any, value: Any, path: tuple[str, ...]) -> Any:
        origin, args = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            (inner,) = (arg for arg in args if arg is not type(None))  # only Optional: TOML has no null
            return self._value(inner, value, path)
        if origin is Literal:
            if not any(value == word and type(value) is type(word) for word in args):
                raise self._error(path, value, "one of " + ", ".join(map(repr, args)))
            return value
        if origin is tuple or origin is list:
            return self._list(origin, args, value, path)
        if origin is dict or origin is Mapping or getattr(origin, "__name__", "") == "Mapping":
            if not isinstance(value, Mapping):
                raise self._error(path, value, "a table")
            return {key: self._value(args[1], item, (*path, key)) for key, item in value.items()}
        if is_dataclass(hint):
            return self.table(cast("type[Any]", hint), value, path)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return self._enum(hint, value, path)
        return self._scalar(hint, value, path)

    def _list(self, origin: Any, args: tuple[Any, ...], value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, list | tuple):
            raise self._error(path, value, "a list")
        if origin is tuple and args[-1:] != (Ellipsis,):
            if len(value) != len(args):
                raise self._error(path, value, f"a list of {len(args)}")
            hints = args
        else:
            hints = (args[0],) * len(value)
        items = [
            self._value(hint, item, (*path, str(index)))
            for index, (hint, item) in enumerate(zip(hints, value, strict=True))
        ]
        return origin(items)

    def _enum(self, hint: type[Enum], value: Any, path: tuple[str, ...]) -> Enum:
        for member in hint:
            if value == member.value or (isinstance(value, str) and value == member.name.lower()):
                return member
        raise self._error(path, value, "one of " + ", ".join(str(member.value) for member in hint))

    def _scalar(self, hint: Any, value: Any, path: tuple[str, ...]) -> Any:
        is_int = isinstance(value, int) and not isinstance(value, bool)
        if hint is bool and isinstance(value, bool):
            return value
        if hint is int and is_int:
            return value
        if hint is float and (is_int or isinstance(value, float)):
            try:
                number = float(value)
            except OverflowError:
                number = inf
            if not isfinite(number):
                raise self._error(path, value, "a finite number")
            return number
        if hint is str and isinstance(value, str):
            return value
        if hint is Path and isinstance(value, str | Path):
            return Path(value)
        if hint is Any:
            return value
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
        raise self._error(path, value, words.get(hint, f"of type {hint}"))

    def _bounded(self, item: Field[Any], value: Any, path: tuple[str, ...]) -> Any:
        low, high = item.metadata.get("min"), item.metadata.get("max")
        if (low is None and high is None) or value is None:
            return value
        is_number = isinstance(value, int | float)
        measure = value if is_number else len(value)
        if (low is not None and measure < low) or (high is not None and measure > high):
            bound = f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]"
            raise self._error(path, value, f"in {bound}" if is_number else f"of a length in {bound}")
        return value

    def _error(self, path: tuple[str, ...], value: Any, bound: str) -> MisconfiguredError:
        shown = "(hidden)" if isinstance(value, Secret) else brief(value)
        return MisconfiguredError(
            f"{self._place}: {'.'.join(path) or 'settings'} is {shown}; it must be {bound}"
        )


def _has_secret(cls: type[Any]) -> bool:
    hints = get_type_hints(cls)
    return any(
        item.metadata.get("secret")
        or (is_dataclass(hints[item.name]) and _has_secret(cast("type", hints[item.name])))
        for item in fields(cls)
    )


def _print_table(settings: Any, path: tuple[str, ...], lines: list[str]) -> None:
    inner: list[tuple[str, Any]] = []
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value) or (isinstance(value, Mapping) and not item.metadata.get("secret")):
            inner.append((item.name, value))
        elif item.metadata.get("secret"):
            variable = "_".join((ENV_PREFIX, *path, item.name)).upper()
            lines.append(
                f"# {item.name} = {MASK!r}  (from {variable})" if value else f"# {variable} is not set"
            )
        elif value is not None:
            shown = without_credentials(value) if type(value) is str else value
            lines.append(f"{item.name} = {_toml(shown)}")
    for name, value in inner:
        where = (*path, name)
        lines += ["", f"[{'.'.join(_toml_key(part) for part in where)}]"]
        if isinstance(value, Mapping):
            _print_mapping(value, where, lines)
        else:
            _print_table(value, where, lines)


def _print_mapping(mapping: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    for key, value in mapping.items():
        if not is_dataclass(value):
            lines.append(f"{_toml_key(key)} = {_toml(value)}")
    for key, value in mapping.items():
        if is_dataclass(value):
            where = (*path, key)
            lines += ["", f"[{'.'.join(_toml_key(part) for part in where)}]"]
            _print_table(value, where, lines)


def _toml_key(key: str) -> str:
    bare = key.replace("-", "a").replace("_", "a")
    return key if bare.isascii() and bare.isalnum() else _toml(key)


def _toml(value: Any) -> str:
    if isinstance(value, Enum):
        return _toml(value.value if isinstance(value.value, str) else value.name.lower())
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str | Path):
        return '"' + "".join(_escaped(character) for character in str(value)) + '"'
    raise TypeError(f"{value!r} cannot be written as TOML")


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"

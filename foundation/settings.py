"""Load the settings of a component, one frozen dataclass, strictly from TOML.

Tables are nested dataclasses; keys are field names with their unit. An unknown key, a wrong type and a value out of
bounds are each refused with the file, the key, the value and the bound. The key `format` may give the version of a
file. Secrets are never in a file: they come from the environment (FLEETLOOP_<TABLE>_<KEY>) and are masked wherever they
are shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from enum import Enum, IntEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, cast, get_args, get_type_hints

from foundation.documents import Meta, build, check_plain, parse_toml, version_of
from foundation.errors import FleetLoopError, MisconfiguredError, without_credentials

T = TypeVar("T")

ENV_PREFIX: Final = "FLEETLOOP"
MASK: Final = "********"
VERSION_KEY: Final = "format"


class Secret(str):
    """Text that repr and str mask; `reveal()` returns it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def reveal(self) -> str:
        """Return the text itself, for the call that needs it."""
        return str.__str__(self)


def setting(
    default: Any = MISSING,
    *,
    min: Any = None,  # noqa: A002 - reads as the bound that it is
    max: Any = None,  # noqa: A002
    secret: bool = False,
    help: str = "",  # noqa: A002
    default_factory: Any = MISSING,
) -> Any:
    """Return a dataclass field with inclusive bounds (on the length, for text and lists) and a help text."""
    metadata = {"min": min, "max": max, "secret": secret, "help": help}
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


class _RefusedError(MisconfiguredError):
    """A refusal whose message already names the key."""


def load_settings(
    cls: type[T], source: Path | str | Mapping[str, Any], *, env: Mapping[str, str] | None = None
) -> T:
    """Load the settings `cls` from a TOML file, or from a mapping parsed from one.

    Args:
        cls: a frozen dataclass; nested dataclasses are tables; dict[str, X] is a table with arbitrary keys.
        source: the path of a file, or a mapping.
        env: the environment that holds the secrets; os.environ by default.

    Raises:
        MisconfiguredError: names the file, the key, the value and the bound.
    """
    if isinstance(source, Mapping):
        name, table = "settings", dict(source)
    else:
        name, table = str(source), without_version(_read(Path(source)), str(source))
    _annotate_bounds(cast("Any", cls))
    try:
        check_plain(table, "", family=_RefusedError)
        table = _prepared(cls, table, (), os.environ if env is None else env)
        return build(cls, table, "", family=_RefusedError, refuse_unknown=True)
    except _RefusedError as error:
        raise MisconfiguredError(f"{name}: {error}") from error
    except MisconfiguredError as error:  # from a table's own checks, which do not know its name
        where = ".".join(_where(cls, table, ()))
        raise MisconfiguredError(f"{name}: {where}{': ' if where else ''}{error}") from error


def without_version(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the table without its key `format`, the version of the file; a file without it is of version 1.

    Raises:
        MisconfiguredError: a version that is not read here.
    """
    inner = {VERSION_KEY: 1, **table}
    version_of(inner, name, VERSION_KEY, {1}, family=MisconfiguredError)
    del inner[VERSION_KEY]
    return inner


def print_config(settings: object) -> str:
    """Return the settings as TOML that `load_settings` can read, with secrets masked in comments. Raises TypeError."""
    if not is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"{settings!r} is not a settings object")
    lines: list[str] = []
    _print_table(settings, (), lines)
    return "\n".join(lines).strip() + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MisconfiguredError(f"cannot read the settings {path}: {error.strerror}") from error
    return parse_toml(data, str(path), family=MisconfiguredError)


def _prepared(
    cls: type, table: Mapping[str, Any], path: tuple[str, ...], env: Mapping[str, str]
) -> dict[str, Any]:
    """Return the table with secrets from the environment filled in, and names of IntEnum members as numbers.

    Raises:
        MisconfiguredError: a secret is in the file, or is required and missing.
    """
    result = dict(table)
    hints = get_type_hints(cls)
    for item in fields(cls):
        hint, where = hints[item.name], (*path, item.name)
        variable = "_".join((ENV_PREFIX, *where)).upper()
        if is_dataclass(hint):
            inner = table.get(item.name, {})
            if isinstance(inner, Mapping) and (filled := _prepared(cast("type", hint), inner, where, env)):
                result[item.name] = filled
        elif item.metadata.get("secret"):
            if item.name in table:
                raise _RefusedError(
                    f"{'.'.join(where)} is a secret; it must come from the environment as {variable}"
                )
            if variable in env:
                result[item.name] = Secret(env[variable])
            elif item.default is MISSING and item.default_factory is MISSING:
                raise _RefusedError(f"the secret {variable} is not in the environment")
        elif isinstance(hint, type) and issubclass(hint, IntEnum) and isinstance(table.get(item.name), str):
            members = {member.name.lower(): member.value for member in hint}
            result[item.name] = members.get(table[item.name], table[item.name])
    return result


@cache
def _annotate_bounds(cls: type) -> None:
    """Copy the bounds of `setting` into the annotations, where msgspec reads them."""
    hints = get_type_hints(cls, include_extras=True)
    for item in fields(cls):
        hint = hints[item.name]
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner):
                _annotate_bounds(cast("type", inner))
        low, high = item.metadata.get("min"), item.metadata.get("max")
        if low is None and high is None:
            continue
        number = next((inner for inner in (int, float) if inner in (hint, *get_args(hint))), None)
        meta = Meta(min_length=low, max_length=high) if number is None else Meta(ge=low, le=high)
        bounded: Any = Annotated[number or hint, meta]
        cls.__annotations__[item.name] = bounded | None if type(None) in get_args(hint) else bounded


def _where(kind: Any, table: object, path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the innermost table that its own checks (`__post_init__`) refuse although msgspec accepts it."""
    hints = get_type_hints(kind)
    for name, value in table.items() if isinstance(table, Mapping) else ():
        if is_dataclass(hints.get(name)):
            try:
                build(cast("type", hints[name]), value, "")
            except FleetLoopError:
                return _where(hints[name], value, (*path, name))
    return path


def _print_table(settings: Any, path: tuple[str, ...], lines: list[str]) -> None:
    inner: list[tuple[str, Any]] = []
    for item in fields(settings):
        value = getattr(settings, item.name)
        if (
            (isinstance(value, tuple) and value and is_dataclass(value[0]))
            or is_dataclass(value)
            or (isinstance(value, Mapping) and not item.metadata.get("secret"))
        ):
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
        if isinstance(value, tuple):
            for one in value:
                lines += ["", f"[[{'.'.join(_toml_key(part) for part in where)}]]"]
                _print_table(one, where, lines)
            continue
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

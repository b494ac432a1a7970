"""params.yaml, section by section: each stage reads its own only, so that DVC re-runs exactly what a change concerns.

It refuses what is no mapping of sections, an unknown key and a value out of its bound, each by file and name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from foundation.document_messages import brief
from foundation.errors import MisconfiguredError
from foundation.settings import load_settings

T = TypeVar("T")
MAX_NESTING = 20
"""Mappings and lists within each other in params.yaml."""


def read_params(path: Path) -> Mapping[str, Any]:
    """All of params.yaml as plain values. Raises MisconfiguredError without a file, or when it is not YAML."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        _refuse_deep_nesting(path, text)
        document = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise MisconfiguredError(f"there is no {path}; run `fleetloop init` first") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MisconfiguredError(f"{path} is not YAML: {error or 'nested too deeply'}") from error
    if not isinstance(document, Mapping):
        raise MisconfiguredError(f"{path} holds {type(document).__name__}, expected a mapping of sections")
    return document


def _refuse_deep_nesting(path: Path, text: str) -> None:
    """Why? Building a value recurses, as deep as the interpreter's limit allows, and a library may have raised that."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_NESTING:
            raise MisconfiguredError(f"{path} nests deeper than {MAX_NESTING} at {event.start_mark}")


def load_section(path: Path, name: str, cls: type[T]) -> T:
    """The section `name` as `cls`; a missing section means the defaults.

    Raises:
        MisconfiguredError: names the file, the section, the key, the value and the bound.
    """
    section = read_params(path).get(name) or {}
    if not isinstance(section, Mapping):
        raise MisconfiguredError(f"{path}: {name} holds {brief(section)}, expected a mapping")
    try:
        return load_settings(cls, section, env={})
    except MisconfiguredError as error:
        raise MisconfiguredError(f"{path}, section {name}: {error}") from error


def load_classes(path: Path, *, at_least: int = 1) -> tuple[str, ...]:
    """The list `classes`: every class of the model contract, in the order of its outputs, none twice."""
    value = read_params(path).get("classes")
    is_list = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
    if not is_list or len(cast("list[str]", value)) < at_least:
        raise MisconfiguredError(
            f"{path}: classes is {brief(value)}, expected a list of at least {at_least} name(s)"
        )
    names = cast("list[str]", value)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MisconfiguredError(f"{path}: classes names {twice} twice")
    return tuple(names)

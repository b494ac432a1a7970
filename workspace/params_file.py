"""Read params.yaml by section: each stage reads its own only, so that DVC re-runs exactly the stages that changed.

A file that is not a mapping of sections, an unknown key and a value out of bounds are refused, with file and key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from foundation.document_messages import brief
from foundation.documents import MAX_DOCUMENT_BYTES
from foundation.errors import MisconfiguredError
from foundation.settings import load_settings, without_version
from modelkit.tasks import LEARNED, Task

T = TypeVar("T")
MAX_NESTING = 20
"""Bound on the nesting of mappings and lists in params.yaml."""


def read_params(path: Path) -> Mapping[str, Any]:
    """Read params.yaml into plain values. Raises MisconfiguredError if there is no file, or if it is not YAML."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > MAX_DOCUMENT_BYTES:
            raise MisconfiguredError(
                f"{path} has {len(text)} characters; at most {MAX_DOCUMENT_BYTES} are read"
            )
        _refuse_deep_nesting(path, text)
        document = _safe_loader()(text).get_single_data()
    except FileNotFoundError as error:
        raise MisconfiguredError(f"there is no {path}; run `fleetloop init` first") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MisconfiguredError(f"{path} is not YAML: {error or 'nested too deeply'}") from error
    if not isinstance(document, Mapping):
        raise MisconfiguredError(f"{path} holds {type(document).__name__}, expected a mapping of sections")
    return without_version(document, str(path))


def _safe_loader() -> Any:
    """Return PyYAML's safe loader: that of libyaml, which is ten times as fast, where PyYAML was built with it."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _refuse_deep_nesting(path: Path, text: str) -> None:
    """Refuse deep nesting before values are built, because building recurses and a library may have raised the limit."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=_safe_loader()):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_NESTING:
            raise MisconfiguredError(f"{path} is nested deeper than {MAX_NESTING} at {event.start_mark}")


def load_section(path: Path, name: str, cls: type[T]) -> T:
    """Load the section `name` as `cls`; a missing section gives the defaults.

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


def load_task(path: Path) -> Task[Any, Any]:
    """Return the parameter `task`; classification without it, as before there was another task."""
    value = read_params(path).get("task", "classification")
    if not isinstance(value, str) or value not in LEARNED:
        raise MisconfiguredError(
            f"{path}: task is {brief(value)}, expected one of {', '.join(sorted(LEARNED))}"
        )
    return LEARNED[value]


def load_classes(path: Path, *, at_least: int = 1) -> tuple[str, ...]:
    """Load the list `classes`: all classes of the model contract in the order of its outputs, without duplicates."""
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

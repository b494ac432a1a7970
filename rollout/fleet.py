"""Which vehicles are in the fleet: enrolled with a key that is not revoked, each with its tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from foundation.errors import CorruptError, MisconfiguredError
from foundation.files import read_json, write_json_atomic
from schemas.enrolment import Enrolment

FORMAT = 1
_MAX_TAG_CHARACTERS = 256


def active_vehicles(enrolment: Enrolment) -> list[str]:
    """Vehicles with at least one key that is not revoked, sorted."""
    return sorted(
        name for name, keys in enrolment.vehicles.items() if any(key.revoked_time_ns is None for key in keys)
    )


def read_tags(path: Path) -> dict[str, tuple[str, ...]]:
    """Vehicle -> tags, as saved; empty when nobody has any. Raises CorruptError."""
    if not path.exists():
        return {}
    document = read_json(path)
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or not isinstance(document.get("tags"), dict)
    ):
        raise CorruptError(f"is not a format {FORMAT} list of tags", path=path)
    found: dict[str, tuple[str, ...]] = {}
    for name, tags in document["tags"].items():
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise CorruptError(f"the tags of {name} are {tags!r}, not a list of text", path=path)
        found[name] = tuple(tags)
    return found


def write_tags(path: Path, tags: Mapping[str, Sequence[str]]) -> None:
    """Replace the file. Raises MisconfiguredError for an empty or overlong tag."""
    for name, words in tags.items():
        for word in words:
            if not 1 <= len(word) <= _MAX_TAG_CHARACTERS:
                raise MisconfiguredError(
                    f"tag {word[:40]!r} of {name}: 1 to {_MAX_TAG_CHARACTERS} characters"
                )
    document = {"format": FORMAT, "tags": {name: sorted(set(words)) for name, words in tags.items()}}
    write_json_atomic(path, document)

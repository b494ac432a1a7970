"""The vehicles of the fleet, which have an enrolled key that is not revoked, and their tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from foundation.documents import DocumentType
from foundation.errors import MisconfiguredError
from foundation.files import MAX_FILE_BYTES, read_document, write_document
from schemas.enrolment import Enrolment

_MAX_TAG_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class FleetTags:
    """The tags of each vehicle."""

    tags: dict[str, tuple[str, ...]]


TAGS: Final = DocumentType.first("tags of the fleet", FleetTags, max_bytes=MAX_FILE_BYTES)


def active_vehicles(enrolment: Enrolment) -> list[str]:
    """Return the vehicles with at least one key that is not revoked, sorted."""
    return sorted(
        name for name, keys in enrolment.vehicles.items() if any(key.revoked_time_ns is None for key in keys)
    )


def read_tags(path: Path) -> dict[str, tuple[str, ...]]:
    """Read the tags of each vehicle; empty if there is no file. Raises CorruptError."""
    if not path.exists():
        return {}
    return read_document(path, TAGS).tags


def write_tags(path: Path, tags: Mapping[str, Sequence[str]]) -> None:
    """Write the tags of each vehicle. Raises MisconfiguredError for an empty or overlong tag."""
    for name, words in tags.items():
        for word in words:
            if not 1 <= len(word) <= _MAX_TAG_CHARACTERS:
                raise MisconfiguredError(
                    f"tag {word[:40]!r} of {name} has {len(word)} characters; it must have 1 to {_MAX_TAG_CHARACTERS}"
                )
    document = FleetTags({name: tuple(sorted(set(words))) for name, words in tags.items()})
    write_document(path, TAGS, document)

"""The schema registry: every version of every record schema, by fingerprint.

Versions are the files schemas/avro/<name>.v<N>.avsc; the newest is written, all are read. A released version is never
edited: `python -m scripts.schema_compatibility` compares it with its frozen copy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from foundation.documents import parse_json
from foundation.errors import CorruptError

NAMES: Final = ("sample", "telemetry", "notice")
MARKER: Final = b"\xc3\x01"
"""First bytes of a single object, before the little-endian fingerprint (Avro 1.12, "Single object encoding")."""
HEADER_BYTES: Final = 10

_file_name = re.compile(r"(?P<name>[a-z]+)\.v(?P<version>[1-9][0-9]*)\.avsc").fullmatch


@dataclass(frozen=True, slots=True)
class Schema:
    """One schema version: the JSON of its file, fastavro's parsed form, and the 10 bytes that begin each record."""

    name: str
    version: int
    raw: Mapping[str, Any]
    parsed: Any
    header: bytes


@cache
def schemas() -> Mapping[bytes, Schema]:
    """Return all schema versions by their header of 10 bytes.

    Raises:
        CorruptError: two versions have the same fingerprint, or a version from 1 to the newest is missing.
    """
    found: dict[bytes, Schema] = {}
    for entry in sorted(resources.files("schemas").joinpath("avro").iterdir(), key=lambda item: item.name):
        parts = file_name_parts(entry.name)
        if parts is None:
            continue
        schema = load(*parts, entry.read_text("utf-8"))
        twin = found.get(schema.header)
        if twin is not None:
            raise CorruptError(
                f"has the same fingerprint as {twin.name} version {twin.version}; readers cannot distinguish them",
                path=entry.name,
            )
        found[schema.header] = schema
    for name in NAMES:
        versions = sorted(schema.version for schema in found.values() if schema.name == name)
        if versions != list(range(1, len(versions) + 1)) or not versions:
            raise CorruptError(
                f"versions of {name} are {versions}; they must be 1, 2, ...", path="schemas/avro"
            )
    return MappingProxyType(found)


@cache
def newest(name: str) -> Schema:
    """Return the newest version, which is written. Raises KeyError for a name that is not in NAMES."""
    if name not in NAMES:
        raise KeyError(name)
    return max((s for s in schemas().values() if s.name == name), key=lambda schema: schema.version)


def file_name_parts(file_name: str) -> tuple[str, int] | None:
    """Return name and version of a schema file, or None for any other file."""
    match = _file_name(file_name)
    return None if match is None else (match["name"], int(match["version"]))


def load(name: str, version: int, text: str) -> Schema:
    """Load a schema from the text of its file. The fingerprint is CRC-64-AVRO of the parsing canonical form."""
    raw = parse_json(text, f"{name}.v{version}.avsc")
    # fastavro gives the fingerprint in the byte order of the specification's single object encoding.
    rabin = bytes.fromhex(fingerprint(to_parsing_canonical_form(raw), "CRC-64-AVRO"))
    return Schema(name, version, raw, parse_schema(raw), MARKER + rabin)

"""JSON documents are checked against the JSON Schema files that we publish, with no library on the vehicle.

Exactly the keywords in KEYWORDS (JSON Schema 2020-12) are understood; a schema that uses another is refused
when it is loaded, so that a rule is never silently ignored. Numbers with a zero fraction are not integers
here: our own documents never need it, and a reader in another language would disagree about them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from foundation.errors import CorruptError, RejectedError
from schemas.reasons import RejectReason

KEYWORDS: Final = frozenset(
    {
        "$schema", "$id", "title", "description", "type", "const", "enum", "anyOf", "properties", "required",
        "additionalProperties", "items", "minItems", "maxItems", "minLength", "maxLength", "pattern",
        "minimum", "maximum",
    }
)  # fmt: skip
MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024


def parse(data: bytes | str, schema_name: str) -> dict[str, Any]:
    """The JSON object in `data`, which follows schemas/json/<schema_name>.schema.json.

    Raises:
        RejectedError: (invalid_value, oversize) names the place in the document, the value and the bound.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise RejectedError(
            f"the {schema_name} has {len(data)} bytes; at most {MAX_DOCUMENT_BYTES} are read",
            reason=RejectReason.OVERSIZE,
        )
    try:
        document = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise _invalid(schema_name, "deeply nested", "JSON") from error
    except ValueError as error:
        raise _invalid(schema_name, error, "JSON") from error
    check(document, schema_name)
    return document  # type: ignore[no-any-return]


def check(document: object, schema_name: str) -> None:
    """Raises RejectedError (invalid_value) for the first place where the document leaves its schema."""
    _check(document, load(schema_name), schema_name)


@cache
def load(schema_name: str) -> Mapping[str, Any]:
    """The schema in schemas/json. Raises CorruptError when it uses a keyword that is not checked here."""
    entry = resources.files("schemas").joinpath("json", f"{schema_name}.schema.json")
    schema: Mapping[str, Any] = json.loads(entry.read_text("utf-8"))
    _check_keywords(schema, entry.name)
    return schema


def _check_keywords(schema: Mapping[str, Any], name: str) -> None:
    unknown = set(schema) - KEYWORDS
    if unknown:
        raise CorruptError(f"uses keywords that are not checked: {sorted(unknown)}", path=name)
    if schema.get("additionalProperties", False) is not False:
        raise CorruptError("additionalProperties must be false", path=name)
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    if "items" in schema:
        inner.append(schema["items"])
    for part in inner:
        _check_keywords(part, name)


def _check(value: Any, schema: Mapping[str, Any], place: str) -> None:
    if "anyOf" in schema:
        _check_any(value, schema["anyOf"], place)
    if "const" in schema and not _same(value, schema["const"]):
        raise _invalid(place, value, repr(schema["const"]))
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        raise _invalid(place, value, "one of " + ", ".join(map(repr, schema["enum"])))
    kind = schema.get("type")
    if kind is not None and not _is(kind, value):
        raise _invalid(place, value, f"of type {kind}")
    if isinstance(value, dict):
        _check_object(value, schema, place)
    elif isinstance(value, list):
        _check_length(value, schema, place, "Items", "items")
        if "items" in schema:
            for index, item in enumerate(value):
                _check(item, schema["items"], f"{place}[{index}]")
    elif isinstance(value, str):
        _check_length(value, schema, place, "Length", "characters")
        # `$` also matches before a final newline in Python and not in JSON Schema: fullmatch needs no anchor.
        if "pattern" in schema and not re.fullmatch(schema["pattern"].removesuffix("$"), value):
            raise _invalid(place, value, f"of the form {schema['pattern']}")
    elif _is("number", value):
        low, high = schema.get("minimum"), schema.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            raise _invalid(place, value, f"in [{low}, {high}]")


def _check_any(value: Any, choices: list[Mapping[str, Any]], place: str) -> None:
    last: RejectedError | None = None
    for choice in choices:
        try:
            _check(value, choice, place)
            return
        except RejectedError as error:
            last = error
    if last is not None:
        raise last


def _check_object(value: dict[str, Any], schema: Mapping[str, Any], place: str) -> None:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise _invalid(f"{place}.{name}", "missing", "given")
    for name, item in value.items():
        if name in properties:
            _check(item, properties[name], f"{place}.{name}")
        elif "additionalProperties" in schema:
            raise _invalid(f"{place}.{name}", item, f"left out (known: {', '.join(sorted(properties))})")


def _check_length(
    value: str | list[Any], schema: Mapping[str, Any], place: str, word: str, unit: str
) -> None:
    low, high = schema.get(f"min{word}", 0), schema.get(f"max{word}")
    if len(value) < low or (high is not None and len(value) > high):
        raise _invalid(place, f"{len(value)} {unit}", f"of {low} to {high} {unit}")


def _is(kind: str, value: Any) -> bool:
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return type(value) is int
        case "number":
            return type(value) in (int, float)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
    return False


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number")


def _invalid(place: str, value: object, bound: str) -> RejectedError:
    return RejectedError(
        f"{place} is {str(value)[:100]!r}; it must be {bound}", reason=RejectReason.INVALID_VALUE
    )

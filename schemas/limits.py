"""Bounds checks for single values; each message names field, value and bound."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from typing import Final

from foundation.errors import RejectedError
from schemas.reasons import RejectReason

MAX_TEXT_CHARS: Final = 256
MAX_DETAIL_CHARS: Final = 4096
MAX_FLOAT32: Final = 3.4028234663852886e38
MAX_LONG: Final = 2**63 - 1

_sha256 = re.compile(r"[0-9a-f]{64}").fullmatch


def invalid(field: str, value: object, bound: str) -> RejectedError:
    """Return the error for one field, with its name, its value (cut to 100 characters) and its bound."""
    return RejectedError(
        f"{field} is {str(value)[:100]!r}; it must be {bound}", reason=RejectReason.INVALID_VALUE
    )


def text(name: str, value: object, *, least: int = 0, most: int = MAX_TEXT_CHARS) -> None:
    """Raise RejectedError unless `value` is text of `least` to `most` characters."""
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise invalid(name, value, f"text of {least} to {most} characters")


def whole(name: str, value: object, *, least: int) -> None:
    """Raise RejectedError unless `value` is an integer from `least` to 2**63 - 1."""
    if type(value) is not int or not least <= value <= MAX_LONG:
        raise invalid(name, value, f"a whole number in [{least}, {MAX_LONG}]")


def digest(name: str, value: object) -> None:
    """Raise RejectedError unless `value` is a SHA-256 in lower-case hex."""
    if not isinstance(value, str) or _sha256(value) is None:
        raise invalid(name, value, "64 lower-case hex characters (sha256)")


def member(name: str, value: object, kind: type) -> None:
    """Raise RejectedError unless `value` is a member of the enumeration `kind`."""
    if type(value) is not kind:
        raise invalid(name, value, f"a {kind.__name__}")


def vector(name: str, values: Sequence[float], most: int) -> None:
    """Raise RejectedError unless `values` are at most `most` finite numbers within the range of float32."""
    if len(values) > most:
        raise invalid(name, len(values), f"at most {most} numbers")
    # The sum finds a NaN, which min and max may miss; all three run in C.
    if values and not (isfinite(sum(values)) and min(values) >= -MAX_FLOAT32 and max(values) <= MAX_FLOAT32):
        raise invalid(
            name, "nan, infinite or too large", f"finite numbers within {MAX_FLOAT32:.8g} of 0 (float32)"
        )

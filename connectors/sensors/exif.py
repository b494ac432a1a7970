"""Read the capture time of a picture from its EXIF data. A missing time zone is reported as uncertainty, not guessed."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from foundation.picture_header import HEAD_BYTES, picture_format, read_header

_DATE_TIME: Final = 0x0132
_EXIF_FOLDER: Final = 0x8769
_ORIGINAL: Final = 0x9003
_OFFSETS: Final = (0x9011, 0x9010)
_SUBSECONDS: Final = 0x9291
_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MAX_PIXELS: Final = 25_000_000
"""Equals the largest picture that is decoded; opening an animation may allocate for all of its pixels."""
SECOND_NS: Final = 1_000_000_000
UNKNOWN_ZONE_NS: Final = 14 * 3600 * SECOND_NS
"""No time zone is further from UTC than 14 hours."""


@dataclass(frozen=True, slots=True)
class TakenTime:
    """A capture time in nanoseconds since 1970 (UTC), and its largest error in nanoseconds."""

    time_ns: int
    uncertainty_ns: int


def taken_time(payload: bytes, zone_minutes: int | None = None) -> TakenTime | None:
    """Return the capture time of a picture; None if its EXIF data has none.

    Args:
        payload: the encoded picture.
        zone_minutes: the camera's time zone in minutes east of UTC, for pictures without a zone. If it is None, their
            time is read as UTC with an uncertainty of 14 hours.
    """
    found = picture_format(payload)
    if found is None or not (b"Exif" in payload[:HEAD_BYTES] or found in ("PNG", "WEBP", "TIFF")):
        return None
    values = _values(payload, found) if _is_bounded(payload) else {}
    match = _TIME.match(values.get("time", ""))
    if match is None:
        return None
    offset = _OFFSET.match(values.get("offset", ""))
    minutes = zone_minutes
    if offset is not None:
        minutes = (1 if offset[1] == "+" else -1) * (int(offset[2]) * 60 + int(offset[3]))
    try:
        zone = timezone(timedelta(minutes=minutes or 0))
        when = datetime(*(int(part) for part in match.groups()), tzinfo=zone)  # type: ignore[arg-type,misc]
    except ValueError:
        return None
    digits = re.match(r"\d{1,9}", values.get("subseconds", ""))
    part_ns = int(digits[0].ljust(9, "0")) if digits else 0
    step_ns = SECOND_NS if digits is None else 10 ** (9 - len(digits[0]))
    whole = when - _EPOCH
    time_ns = (whole.days * 86_400 + whole.seconds) * SECOND_NS + part_ns
    return TakenTime(time_ns, step_ns + (UNKNOWN_ZONE_NS if minutes is None else 0))


def _is_bounded(payload: bytes) -> bool:
    """Return whether opening the picture allocates little; a decoder may allocate for the size that the file claims."""
    try:
        header = read_header(payload)
    except ValueError:
        return False
    return header.width * header.height <= MAX_PIXELS


def _values(payload: bytes, name: str) -> dict[str, str]:
    """Return the time tags as text; empty if there are none or they cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(payload), formats=(name,)) as image:
            if name in ("PNG", "WEBP") and "exif" not in image.info:
                return {}
            exif = image.getexif()
            part = exif.get_ifd(_EXIF_FOLDER)
            offsets = (part.get(tag) for tag in _OFFSETS)
            return {
                "time": _text(part.get(_ORIGINAL) or exif.get(_DATE_TIME)),
                "subseconds": _text(part.get(_SUBSECONDS)),
                "offset": _text(next((each for each in offsets if each), "")),
            }
    # Damaged tags leave the time unknown; the picture is still used.
    except Exception:  # noqa: BLE001
        return {}


def _text(value: object) -> str:
    return str(value).strip("\0 ") if value is not None else ""

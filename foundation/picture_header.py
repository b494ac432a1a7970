"""Read format and size of an encoded picture from its header, without running a decoder or allocating pixels.

A decoder allocates memory for the size that a file claims, some decoders already on opening it. So the size is read here
first and bounded by the caller. An unknown format is refused, never guessed.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

HEAD_BYTES: Final = 65_536
"""Bytes from the start of a file that suffice to tell its format (not always its size, see `read_header`)."""
CONTENT_TYPES: Final = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "PPM": "image/x-portable-anymap",
}
_TIFF_COMPRESSIONS: Final = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate"}
_TIFF_TYPES: Final = {3: "H", 4: "I"}
_MAX_TIFF_ENTRIES: Final = 4096
_MAX_PNG_CHUNKS: Final = 16_384
"""Equals a file of 20 MB in chunks of 1.3 kB; encoders write chunks of 8 kB or more."""
_MAX_JPEG_MARKERS: Final = 2048
_MAX_JPEG_FILL_BYTES: Final = 512
_JPEG_MARKER = re.compile(rb"\xff{1,%d}+([^\xff])" % _MAX_JPEG_FILL_BYTES, re.DOTALL)
_MAX_GIF_BLOCKS: Final = 4096
_PPM_NUMBER = re.compile(rb"(?:\s|#[^\r\n]*+[\r\n])++(\d{1,10})(?!\d)")


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """The format (a key of `CONTENT_TYPES`) and the size in stored pixels, before an orientation tag is applied."""

    format: str
    width: int
    height: int


def picture_format(head: bytes) -> str | None:
    """Return the format by the first bytes of a file, whatever its name; None if it is unknown."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if head.startswith(b"BM") and len(head) >= 26 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\t", b"\n", b"\r", b"#"):
        return "PPM"
    return None


def read_header(data: bytes) -> PictureHeader:
    """Return format and size of an encoded picture.

    Raises:
        ValueError: an unknown format, a truncated file, or an unsupported variant, which is named.
    """
    found = picture_format(data)
    if found is None:
        raise ValueError(f"not a picture: it begins with {data[:8]!r}" if data else "an empty file")
    try:
        width, height = _SIZES[found](data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"{found} truncated in its header") from error
    return PictureHeader(found, width, height)


def _png(data: bytes) -> tuple[int, int]:
    """Read IHDR (PNG 3rd edition, 11.2.1). The number of chunks is bounded, because decoders visit each."""
    if data[12:16] != b"IHDR":
        raise ValueError("PNG without an IHDR chunk in front")
    place = 8
    for _ in range(_MAX_PNG_CHUNKS):
        if place + 12 > len(data) or data[place + 4 : place + 8] == b"IEND":
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        (length,) = struct.unpack_from(">I", data, place)
        place += 12 + length
    raise ValueError(f"PNG with more than {_MAX_PNG_CHUNKS} chunks")


def _jpeg(data: bytes) -> tuple[int, int]:
    """Read the first frame header (SOF0 to SOF15 without DHT, JPG, DAC; ITU-T T.81, B.2.2).

    Every marker up to the first scan is visited, as decoders do, and their number is bounded.
    """
    size: tuple[int, int] | None = None
    place = 2
    for _ in range(_MAX_JPEG_MARKERS):
        found = _JPEG_MARKER.match(data, place)
        if found is None:
            raise ValueError(f"JPEG without a marker at byte {place}, or truncated there")
        marker = found[1][0]
        place = found.end()
        if marker in (0xD9, 0xDA):
            if size is None or marker == 0xD9:
                raise ValueError("JPEG without a frame header and a scan")
            return size
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        (length,) = struct.unpack_from(">H", data, place)
        if length < 2:
            raise ValueError(f"JPEG with a segment of {length} bytes at byte {place}; the minimum is 2")
        if size is None and 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 3)
            size = width, height
        place += length
    raise ValueError(f"JPEG of more than {_MAX_JPEG_MARKERS} markers before its first scan")


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(_exactly(data, 27, 3), "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f"WebP with a first chunk {kind!r}")


def _exactly(data: bytes, start: int, count: int) -> bytes:
    if len(data) < start + count:
        raise IndexError(start)
    return data[start : start + count]


_BMP_HEADERS: Final = frozenset({12, 40, 52, 56, 64, 108, 124})


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)


def _gif(data: bytes) -> tuple[int, int]:
    """Read the screen size. The blocks before the first image are visited, as decoders do, and their number is bounded."""
    width, height = struct.unpack_from("<HH", data, 6)
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    is_within = False
    for _ in range(_MAX_GIF_BLOCKS):
        kind = data[place]
        if is_within:
            place += 1 + kind
            is_within = kind != 0
        elif kind == 0x21:
            place += 2
            is_within = True
        elif kind == 0x2C:
            return width, height
        else:
            raise ValueError(f"GIF without an image at byte {place}")
    raise ValueError(f"GIF of more than {_MAX_GIF_BLOCKS} blocks before its first image")


def _tiff(data: bytes) -> tuple[int, int]:
    """Read width, height and compression from the first directory (TIFF 6.0, section 2)."""
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, directory)
    values: dict[int, int] = {259: 1}
    for number in range(min(entries, _MAX_TIFF_ENTRIES)):
        place = directory + 2 + 12 * number
        tag, kind, _count = struct.unpack_from(order + "HHI", data, place)
        if tag in (256, 257, 259) and kind in _TIFF_TYPES:
            (values[tag],) = struct.unpack_from(order + _TIFF_TYPES[kind], data, place + 8)
    if not {256, 257} <= set(values):
        raise ValueError("TIFF without a width and a height")
    if values[259] not in _TIFF_COMPRESSIONS:
        allowed = ", ".join(dict.fromkeys(_TIFF_COMPRESSIONS.values()))
        raise ValueError(f"TIFF of compression {values[259]}; supported are {allowed}")
    return values[256], values[257]


def _ppm(data: bytes) -> tuple[int, int]:
    """Read width and height; the maximum value, which all but bitmaps have, must be present."""
    numbers: list[int] = []
    place = 2
    for _ in range(2 if data[1:2] in b"14" else 3):
        found = _PPM_NUMBER.match(data, place, HEAD_BYTES)
        if found is None:
            raise ValueError(
                f"PPM without a number of at most ten digits at byte {place}, or truncated there"
            )
        numbers.append(int(found[1]))
        place = found.end()
    return numbers[0], numbers[1]


_SIZES: Final = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WEBP": _webp,
    "BMP": _bmp,
    "GIF": _gif,
    "TIFF": _tiff,
    "PPM": _ppm,
}

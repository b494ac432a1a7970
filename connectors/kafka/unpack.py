"""Decompress a record batch in bounded pieces, for every codec that Kafka defines.

Senders choose the codec, and so does a topic (`compression.type`: the broker recompresses), so none may be missing.
Nothing is decompressed ahead of what is asked for, except a snappy block, which can only be decompressed whole and
therefore has a bound of its own.
"""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable, Iterator
from typing import Final

from kafka.errors import CorruptRecordError, UnsupportedCodecError

PIECE_BYTES: Final = 1 << 20
MAX_SNAPPY_BLOCK_BYTES: Final = 64 << 20
"""Decompressed size. Java's client and brokers use blocks of 32 KiB; Go clients put a whole batch into one block."""
_SNAPPY_RATIO: Final = 22
"""Three bytes of snappy decompress to at most 64."""
_ZSTD_WINDOW_BYTES: Final = 1 << 27
"""The default limit of the zstd decoder; levels 20 to 22 of a sender need it."""
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16


def pieces(codec: int, packed: bytes) -> Iterator[bytes]:
    """Yield the decompressed content of `packed` in pieces of at most `PIECE_BYTES` (for snappy, one block).

    Raises UnsupportedCodecError for a codec that Kafka does not define or whose library is not installed, and any error
    of the codec for bytes that it cannot decompress.
    """
    unpack = _CODECS.get(codec)
    if unpack is None:
        raise UnsupportedCodecError(f"Kafka defines no codec {codec}")
    return unpack(packed)


def _gzip(packed: bytes) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece


def _snappy(packed: bytes) -> Iterator[bytes]:
    """Yield the blocks of Java's framing (a header, then lengths and blocks), or the input as one block."""
    if not packed.startswith(_XERIAL):
        yield _snappy_block(packed)
        return
    at = _XERIAL_HEADER_BYTES
    while at < len(packed):
        (size_bytes,) = struct.unpack_from(">i", packed, at)
        at += 4
        if not 0 < size_bytes <= len(packed) - at:
            raise CorruptRecordError(f"a snappy block claims {size_bytes} bytes; {len(packed) - at} are left")
        yield _snappy_block(packed[at : at + size_bytes])
        at += size_bytes


def _snappy_block(block: bytes) -> bytes:
    size_bytes = 0
    for place, byte in enumerate(block[:5]):
        size_bytes |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    bound_bytes = min(MAX_SNAPPY_BLOCK_BYTES, _SNAPPY_RATIO * len(block))
    if size_bytes > bound_bytes:
        raise CorruptRecordError(
            f"a snappy block of {len(block)} bytes claims {size_bytes} bytes; the bound is {bound_bytes}"
        )
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UnsupportedCodecError("snappy needs the package pyarrow, which is not installed") from error
    return bytes(pa.Codec("snappy").decompress(block, size_bytes, asbytes=True))


def _lz4(packed: bytes) -> Iterator[bytes]:
    import lz4.frame  # type: ignore[import-untyped]

    while packed:
        frame = lz4.frame.LZ4FrameDecompressor()
        while not frame.eof:
            piece = bytes(frame.decompress(packed, max_length=PIECE_BYTES))
            packed = b""
            if not piece and not frame.eof:
                raise CorruptRecordError("lz4 ends inside a frame")
            yield piece
        packed = frame.unused_data or b""


def _zstd(packed: bytes) -> Iterator[bytes]:
    import zstandard

    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    with reader.stream_reader(io.BytesIO(packed), read_across_frames=True) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield bytes(piece)


_CODECS: Final[dict[int, Callable[[bytes], Iterator[bytes]]]] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}

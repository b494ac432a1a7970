"""The frame format of all journals, from which intact frames are recovered whatever is damaged beside them.

A frame is a header and a body. The header is 24 fixed bytes and `meta` under one CRC; the body has its own. So a frame
with a damaged body still identifies its record, and an index is built without reading bodies.

    offset  bytes
    0       4     magic F4 4C 46 4A
    4       1     version (1)
    5       1     kind, defined by the owner of the journal
    6       2     zero
    8       4     meta_bytes, little endian, at most MAX_META_BYTES
    12      4     body_bytes, little endian
    16      4     CRC-32 of the body
    20      4     CRC-32 of bytes [0, 20) and meta
    24            meta, then body

After damage a reader continues at the next magic number whose header CRC is right. The length in the header of a frame
with a damaged body is trusted only if another frame, or the end, follows there. Nothing but a torn tail is ever repaired.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

from foundation.errors import CorruptError, RejectedError

MAGIC: Final = b"\xf4LFJ"
VERSION: Final = 1
HEADER_BYTES: Final = 24
MAX_META_BYTES: Final = 65_536
MAX_BODY_BYTES: Final = 256 * 1024 * 1024

_HEAD: Final = struct.Struct("<4sBBHIII")
_CRC: Final = struct.Struct("<I")
_WINDOW_BYTES: Final = 1024 * 1024
_ONE_HEAD_BYTES: Final = 1024
_HEADS_BYTES: Final = 8 * 1024
"""Bytes per read when bodies are skipped; most headers fit, and so do small frames."""

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Frame:
    """The content of a frame: a kind (0 to 255), a short meta and a body."""

    kind: int
    meta: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """A header whose CRC is right. Offsets are byte offsets in the file."""

    offset: int
    kind: int
    meta: bytes
    body_bytes: int
    body_crc: int

    @property
    def body_offset(self) -> int:
        """Offset of the first byte of the body."""
        return self.offset + HEADER_BYTES + len(self.meta)

    @property
    def end(self) -> int:
        """Offset one past the body."""
        return self.body_offset + self.body_bytes


@dataclass(frozen=True, slots=True)
class ScannedFrame:
    """An intact frame at [offset, end); its body is at [body_offset, body_offset + body_bytes)."""

    offset: int
    end: int
    kind: int
    meta: bytes
    body_offset: int
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes [begin, end) without an intact frame. `header` is set if the header was intact."""

    begin: int
    end: int
    header: FrameHeader | None = None


def encode_frame(kind: int, meta: Buffer, body: Buffer) -> bytes:
    """Return the bytes of one frame. Raises as `frame_parts`."""
    return b"".join(frame_parts(kind, meta, body))


def frame_parts(kind: int, meta: Buffer, body: Buffer) -> tuple[Buffer, Buffer, Buffer, Buffer]:
    """Return the bytes of one frame in parts, so that joining many frames copies each body once.

    Raises:
        RejectedError: kind, meta or body is out of bounds (reason invalid_value or oversize).
    """
    if not 0 <= kind <= 255:
        raise RejectedError(f"kind is {kind}; it must be in [0, 255]", reason="invalid_value")
    if len(meta) > MAX_META_BYTES or len(body) > MAX_BODY_BYTES:
        raise RejectedError(
            f"meta has {len(meta)} bytes (at most {MAX_META_BYTES}),"
            f" body {len(body)} (at most {MAX_BODY_BYTES})",
            reason="oversize",
        )
    head = _HEAD.pack(MAGIC, VERSION, kind, 0, len(meta), len(body), crc32(body))
    return head, _CRC.pack(crc32(meta, crc32(head))), meta, body


def scan(
    source: Buffer | Path | int, start: int = 0, end: int | None = None, *, check_bodies: bool = True
) -> Iterator[ScannedFrame | Damage]:
    """Yield every intact frame in [start, end) in order, and the bytes between them as Damage.

    Args:
        source: bytes, a file, or an open descriptor (which keeps its position).
        start: the offset at which a frame is expected.
        end: the offset at which to stop; by default the present size of the source.
        check_bodies: whether to check the body CRC too; if not, bodies are not read at all.

    Raises:
        CorruptError: the file cannot be read.
    """
    if isinstance(source, Path):
        try:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CorruptError(f"cannot be opened: {error.strerror}", path=source) from error
        try:
            yield from _scan(_File(fd, end, str(source), check_bodies), start, check_bodies)
        finally:
            os.close(fd)
    elif isinstance(source, int):
        yield from _scan(_File(source, end, f"descriptor {source}", check_bodies), start, check_bodies)
    else:
        yield from _scan(_Memory(memoryview(source)[:end]), start, check_bodies)


def read_frame(fd: int, offset: int, end: int) -> tuple[FrameHeader, bytes] | None:
    """Return the checked header (offsets relative to `offset`) and body of the frame at [offset, end).

    Returns None if there is no such frame any more. The body is not copied. Raises OSError.
    """
    head = os.pread(fd, min(_ONE_HEAD_BYTES, end - offset), offset)
    if len(head) >= HEADER_BYTES:
        whole_bytes = HEADER_BYTES + min(_HEAD.unpack_from(head)[4], MAX_META_BYTES)
        if whole_bytes > len(head):
            head = os.pread(fd, min(whole_bytes, end - offset), offset)
    header = _header_at(_Memory(memoryview(head)), 0)
    if header is None or header.end != end - offset:
        return None
    body = os.pread(fd, header.body_bytes, offset + header.body_offset)
    if len(body) != header.body_bytes or crc32(body) != header.body_crc:
        return None
    return header, body


class _Memory:
    """A source in memory."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.size = len(data)

    def read(self, begin: int, length: int) -> memoryview:
        return self._data[begin : begin + length]


class _File:
    """A file read through a window, by pread and not mmap, because another process may truncate it meanwhile."""

    def __init__(self, fd: int, end: int | None, name: str, check_bodies: bool) -> None:
        self._fd = fd
        self._ahead_bytes = _WINDOW_BYTES if check_bodies else _HEADS_BYTES
        self._name = name
        self._window = memoryview(b"")
        self._begin = 0
        size = os.fstat(fd).st_size
        self.size = size if end is None else min(size, end)

    def read(self, begin: int, length: int) -> memoryview:
        """Return `length` bytes from `begin`, fewer only at the end."""
        length = max(0, min(length, self.size - begin))
        at = begin - self._begin
        if at < 0 or at + length > len(self._window):
            want = min(max(length, self._ahead_bytes), self.size - begin)
            try:
                data = os.pread(self._fd, want, begin)
            except OSError as error:
                raise CorruptError(
                    f"cannot be read: {error.strerror}", path=self._name, offset_bytes=begin
                ) from error
            self._window, self._begin, at = memoryview(data), begin, 0
        return self._window[at : at + length]


def _header_at(source: _Memory | _File, offset: int) -> FrameHeader | None:
    """Return the header at `offset` if its magic number, version, lengths and CRC are right."""
    head = source.read(offset, HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        return None
    magic, version, kind, zero, meta_bytes, body_bytes, body_crc = _HEAD.unpack_from(head)
    if (
        magic != MAGIC
        or version != VERSION
        or zero
        or meta_bytes > MAX_META_BYTES
        or body_bytes > MAX_BODY_BYTES
    ):
        return None
    (head_crc,) = _CRC.unpack_from(head, _HEAD.size)
    fixed_crc = crc32(head[: _HEAD.size])
    meta = bytes(source.read(offset + HEADER_BYTES, meta_bytes))
    if len(meta) < meta_bytes or crc32(meta, fixed_crc) != head_crc:
        return None
    return FrameHeader(offset, kind, meta, body_bytes, body_crc)


def _is_whole(source: _Memory | _File, header: FrameHeader, check_bodies: bool) -> bool:
    if header.end > source.size:
        return False
    if not check_bodies:
        return True
    body = source.read(header.body_offset, header.body_bytes)
    return len(body) == header.body_bytes and crc32(body) == header.body_crc


def _next_header(source: _Memory | _File, start: int) -> FrameHeader | None:
    """Return the first intact header at or after `start`."""
    at = start
    while at < source.size:
        block = bytes(source.read(at, _WINDOW_BYTES))
        found = block.find(MAGIC)
        while found >= 0:
            header = _header_at(source, at + found)
            if header is not None:
                return header
            found = block.find(MAGIC, found + 1)
        if len(block) < len(MAGIC):
            return None
        at += max(1, len(block) - len(MAGIC) + 1)  # the magic number may span two blocks
    return None


def _scan(source: _Memory | _File, start: int, check_bodies: bool) -> Iterator[ScannedFrame | Damage]:
    at = start
    while at < source.size:
        header = _header_at(source, at)
        if header is not None and _is_whole(source, header, check_bodies):
            yield ScannedFrame(
                at, header.end, header.kind, header.meta, header.body_offset, header.body_bytes
            )
            at = header.end
            continue
        if header is None:
            follower = _next_header(source, at + 1)
            resume = follower.offset if follower is not None else source.size
        elif header.end == source.size or (
            header.end < source.size and _header_at(source, header.end) is not None
        ):
            resume = header.end  # only the body is damaged: its length is confirmed by what follows
        else:
            follower = _next_header(source, header.body_offset)
            resume = follower.offset if follower is not None else source.size
        yield Damage(at, resume, header)
        at = resume

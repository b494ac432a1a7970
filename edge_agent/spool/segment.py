"""The format of a segment: a file of frames of one value class; its records are wire records.

    frame 1       kind HEAD, meta = JSON: number, value_class, epoch, previous_epoch, created_ns
    frame 2...    kind RECORD, meta = epoch (8 bytes), seq (8), class (1), topic, key, headers; body = the
    wire value; before a record that has one, its step: kind STEP, meta = version (1 byte), seq (8), body = JSON

A step is data of the writer's caller that belongs to the record (see `edge_agent.spool.steps`): both are written at once
and durable with one fsync. A frame of an unknown kind is skipped.

The head of a frame has its own CRC, so an index is built without reading a body. Refuses to know what is
accepted:
the ledger says how far a segment counts.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from foundation.errors import CorruptError
from foundation.framing import Buffer, Damage, encode_frame, frame_parts, read_frame, scan
from schemas.reasons import ValueClass
from schemas.wire import WireRecord

FOLDER: Final = "segments"
_NAME: Final = re.compile(r"([0-9])-([a-z]+)-([0-9]{12})\.segment")
_IDENTITY: Final = struct.Struct("<8sQB")
_LENGTH: Final = struct.Struct("<H")
_STEP: Final = struct.Struct("<BQ")
STEP_VERSION: Final = 1


class SegmentKind(IntEnum):
    """The kinds of frame in a segment."""

    HEAD = 1
    RECORD = 2
    STEP = 3


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """The first frame of a segment."""

    number: int
    value_class: ValueClass
    epoch: str
    previous_epoch: str
    created_ns: int


@dataclass(frozen=True, slots=True)
class RecordEntry:
    """Where a record lies: its frame is [offset, end) of the segment."""

    epoch: str
    seq: int
    value_class: ValueClass
    offset: int
    end: int
    body_offset: int


@dataclass(frozen=True, slots=True)
class StepEntry:
    """Where the step of the record `seq` lies: its frame is [offset, end), its body begins at `body_offset`."""

    seq: int
    offset: int
    end: int
    body_offset: int


def segment_name(value_class: ValueClass, number: int) -> str:
    """Return the file name of a segment: `ls` lists the lowest class first and, in a class, the oldest segment first."""
    return f"{int(value_class)}-{value_class.label}-{number:012d}.segment"


def list_segments(folder: Path) -> dict[int, tuple[ValueClass, Path]]:
    """Return the segments in `folder` by number; other files are left alone."""
    found: dict[int, tuple[ValueClass, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _NAME.fullmatch(path.name)
        if match is not None and any(match[1] == str(int(known)) for known in ValueClass):
            found[int(match[3])] = (ValueClass(int(match[1])), path)
    return found


def encode_head(head: SegmentHead) -> bytes:
    """Return the first frame of a segment, encoded."""
    meta = json.dumps(
        {
            "number": head.number,
            "value_class": head.value_class.label,
            "epoch": head.epoch,
            "previous_epoch": head.previous_epoch,
            "created_ns": head.created_ns,
        }
    )
    return encode_frame(SegmentKind.HEAD, meta.encode(), b"")


def decode_head(meta: bytes) -> SegmentHead:
    """Return the head of a segment. Raises CorruptError."""
    try:
        value = json.loads(meta)
        return SegmentHead(
            value["number"],
            ValueClass.from_label(value["value_class"]),
            _text(value["epoch"]),
            _text(value["previous_epoch"]),
            value["created_ns"],
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CorruptError(f"not the head of a segment: {error!r}") from error


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"a text is wanted, not {type(value).__name__}")


def record_parts(epoch: str, seq: int, value_class: ValueClass, wire: WireRecord) -> tuple[Buffer, ...]:
    """Return one record's frame as parts to be joined; its body is `wire.value`, byte for byte."""
    parts = [_IDENTITY.pack(bytes.fromhex(epoch), seq, int(value_class))]
    topic = wire.topic.encode()
    for text in (topic, wire.key):
        parts += (_LENGTH.pack(len(text)), text)
    for name, value in wire.headers:
        word = name.encode()
        parts += (_LENGTH.pack(len(word)), word, _LENGTH.pack(len(value)), value)
    return frame_parts(SegmentKind.RECORD, b"".join(parts), wire.value)


def step_parts(seq: int, body: bytes) -> tuple[Buffer, ...]:
    """Return the frame of the step of record `seq` as parts to be joined."""
    return frame_parts(SegmentKind.STEP, _STEP.pack(STEP_VERSION, seq), body)


def decode_wire(meta: bytes, value: bytes) -> WireRecord:
    """Return the wire record of a record frame. Raises CorruptError when `meta` is not what `record_parts` wrote."""
    texts: list[bytes] = []
    at, size, length_at = _IDENTITY.size, len(meta), _LENGTH.unpack_from
    while at < size:
        begin = at + 2
        if begin > size:
            raise CorruptError(f"record meta of {size} bytes ends inside a length")
        at = begin + length_at(meta, at)[0]
        if at > size:
            raise CorruptError(f"record meta of {size} bytes ends inside a text of {at - begin} bytes")
        texts.append(meta[begin:at])
    if len(texts) < 2 or len(texts) % 2:
        raise CorruptError(
            f"record meta holds {len(texts)} texts; topic, key and pairs of headers are needed"
        )
    try:
        topic, names = texts[0].decode(), [name.decode() for name in texts[2::2]]
    except UnicodeDecodeError as error:
        raise CorruptError(f"record meta holds a name that is not UTF-8: {error}") from error
    return WireRecord(topic, texts[1], value, tuple(zip(names, texts[3::2], strict=True)))


def scan_segment(
    fd: int, start: int = 0, end: int | None = None, *, check_bodies: bool = False
) -> Iterator[SegmentHead | RecordEntry | StepEntry | Damage]:
    """Yield heads, records, steps and damaged ranges of [start, end), in order; bodies are read only on request.

    Raises CorruptError when the file cannot be read.
    """
    for item in scan(fd, start, end, check_bodies=check_bodies):
        if isinstance(item, Damage):
            yield item
        elif item.kind == SegmentKind.HEAD:
            yield decode_head(item.meta)
        elif item.kind == SegmentKind.RECORD and len(item.meta) >= _IDENTITY.size:
            epoch, seq, rank = _IDENTITY.unpack_from(item.meta)
            if rank in ValueClass.__members__.values():
                yield RecordEntry(epoch.hex(), seq, ValueClass(rank), item.offset, item.end, item.body_offset)
            else:
                yield Damage(item.offset, item.end)
        elif item.kind == SegmentKind.STEP and len(item.meta) == _STEP.size:
            version, seq = _STEP.unpack(item.meta)
            if version == STEP_VERSION:
                yield StepEntry(seq, item.offset, item.end, item.body_offset)
        elif item.kind == SegmentKind.RECORD:
            yield Damage(item.offset, item.end)


def read_record(fd: int, offset: int, end: int) -> tuple[RecordEntry, WireRecord] | None:
    """Return the record at [offset, end), checked byte for byte; None when it is not there any more as it was written."""
    try:
        found = read_frame(fd, offset, end)
    except OSError:
        return None  # a sector that cannot be read is damage like any other
    if found is None:
        return None
    header, value = found
    if header.kind != SegmentKind.RECORD or len(header.meta) < _IDENTITY.size:
        return None
    epoch, seq, rank = _IDENTITY.unpack_from(header.meta)
    entry = RecordEntry(epoch.hex(), seq, ValueClass(rank), offset, end, offset + header.body_offset)
    return entry, decode_wire(header.meta, value)

"""A batch of records that cannot be read costs its own offsets and a bounded number of bytes, never the partition.

Why: the client unpacks a compressed batch whole and without a bound, and raises for the whole partition when it cannot
read one record. A megabyte of compressed zeros takes a gigabyte; a header whose name is no UTF-8 or a batch that ends
inside a record would stop a reader at that offset for ever: one sender could stop the ingest of a fleet. Here a batch
is unpacked as a stream, and bounds count per record: what one sender packs into one batch is his choice, and the
broker's. A record that is too large or cannot be read becomes one unreadable record for its offset; the first of a
batch holds the bytes of the batch as they are in the log, so that a replay can read them (`records_of`). A wrong
checksum of a batch is still an error: another fetch may be whole.

Batches in the formats before Kafka 0.11 are left to the client: Kafka 4 takes none.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import kafka.record.memory_records
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

from connectors.kafka.unpack import pieces
from foundation.errors import RejectedError

MAX_RECORD_BYTES: Final = 2 << 20
"""Of one record of a packed batch with its key and headers. A value may have 1,000,000 bytes
(`schemas.topics.MAX_RECORD_BYTES`), so nothing that could land is refused."""
MAX_BATCH_BYTES: Final = 256 << 20
"""Unpacked, of one batch. Never in memory at once: it bounds the time that a batch may cost. A sender's largest request
(1 MB by default, 10 MB where somebody raised it) would have to shrink to a twenty-fifth to pass it."""
MAX_HEADERS: Final = 4_096
"""Of one record. Each costs about 200 bytes of memory, whatever it says."""
_LEAST_HEADER_BYTES: Final = 2
_VARINT_BYTES: Final = 10
_FORMAT: Final = 2
_LEAST_TIME: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """Stands for one offset of a batch that cannot be read; the client hands it on like a record."""

    offset: int
    timestamp: int
    timestamp_type: int
    value: bytes | None
    checksum: str
    """What is wrong, where a record of the old formats has its checksum: the field that reaches the caller."""
    key: None = None
    headers: tuple[()] = ()

    @property
    def size_in_bytes(self) -> int:
        """Bytes of the value."""
        return len(self.value or b"")

    def validate_crc(self) -> bool:
        """The batch's checksum held."""
        return True


class _Shown(threading.local):
    """Whether the caller's thread sees control batches (`markers_shown`)."""

    markers = False


_shown = _Shown()


@contextlib.contextmanager
def markers_shown() -> Iterator[None]:
    """Within, a consumer of this thread that reads uncommitted records gets transaction markers as records too.

    So whatever it does not get is not in the log any more.
    """
    _shown.markers = True
    try:
        yield
    finally:
        _shown.markers = False


class CautiousBatch(DefaultRecordBatch):  # type: ignore[misc]
    """The client's batch (format 2), read as a stream with bounds, and as far as it can be read."""

    _buffer: bytearray
    _pos: int
    _decompressed: bool
    _packed: bytearray | None
    """The batch as it is in the log, until an unreadable record took it."""

    @property
    def is_control_batch(self) -> bool:
        """Whether the batch is a transaction marker, which the client keeps to itself."""
        return not _shown.markers and bool(self.attributes & self.CONTROL_MASK)

    def __iter__(self) -> Iterator[Any]:
        self._packed, expected = self._buffer, self.base_offset
        try:
            for record in self._whole():
                yield record
                expected = record.offset + 1
        except MemoryError:
            raise  # this machine's trouble, not the batch's
        except Exception as error:  # noqa: BLE001 - whatever the bytes of a stranger made a codec or the client raise
            for offset in range(expected, self.last_offset + 1):
                yield self._unreadable(offset, f"{type(error).__name__}: {error}")

    def _whole(self) -> Iterator[Any]:
        """The records, until one cannot be read; bytes behind the last hold no offset and are left."""
        self._begin()
        least, last = self.base_offset, self.last_offset
        for _ in range(self.records_count):
            record = self._one()
            if not least <= record.offset <= last:
                raise CorruptRecordError(f"offset {record.offset} outside [{least}, {last}]")
            if not _LEAST_TIME <= record.timestamp <= -_LEAST_TIME - 1:
                raise CorruptRecordError(
                    f"time {record.timestamp} of offset {record.offset} is no 64-bit number"
                )
            if self._pos > len(self._buffer):
                raise CorruptRecordError(f"the record at offset {record.offset} ends beyond the batch")
            yield record
            least = record.offset + 1

    def _unreadable(self, offset: int, why: str) -> UnreadableRecord:
        value, self._packed = None if self._packed is None else bytes(self._packed), None
        told = f"the batch at offset {self.base_offset} cannot be read: {why}"[:500]
        return UnreadableRecord(offset, self.max_timestamp, self.timestamp_type, value, told)

    def _begin(self) -> None:
        """Put what is to be read into `_buffer` from `_pos` on, or the stream that fills it."""
        self._pieces: Iterator[bytes] | None = None
        self._unpacked_bytes = 0
        if not self._decompressed and self.compression_type != self.CODEC_NONE:
            packed = bytes(memoryview(self._buffer)[self._pos :])
            self._pieces, self._buffer, self._pos = pieces(self.compression_type, packed), bytearray(), 0
        self._decompressed = True

    def _fill(self, least_bytes: int) -> None:
        """Unpack until `least_bytes` of what follows are in the buffer, or all there is."""
        del self._buffer[: self._pos]
        self._pos = 0
        while self._pieces is not None and len(self._buffer) < least_bytes:
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
                return
            self._unpacked_bytes += len(piece)
            if self._unpacked_bytes > MAX_BATCH_BYTES:
                raise CorruptRecordError(f"more than {MAX_BATCH_BYTES} bytes unpacked, the bound of a batch")
            self._buffer += piece

    def _one(self) -> Any:
        """The next record, or what stands for it when it is beyond a bound."""
        most_bytes = MAX_RECORD_BYTES + _VARINT_BYTES
        if self._pieces is not None and len(self._buffer) - self._pos < most_bytes:
            self._fill(most_bytes)
        buffer, pos = self._buffer, self._pos
        # A length of three bytes or more is 8,192 at least: a shorter record is below every bound.
        if len(buffer) - pos > _LEAST_HEADER_BYTES * MAX_HEADERS and buffer[pos] & buffer[pos + 1] & 0x80:
            length, begin = decode_varint(self._buffer, self._pos)
            if self._is_stream and length > MAX_RECORD_BYTES:
                return self._passed_over(
                    length, begin, f"a record of {length} bytes; the bound is {MAX_RECORD_BYTES}"
                )
            if (
                length > _LEAST_HEADER_BYTES * MAX_HEADERS
                and (count := self._headers_at(begin)) > MAX_HEADERS
            ):
                return self._passed_over(
                    length, begin, f"a record of {count} headers; the bound is {MAX_HEADERS}"
                )
        return self.__next__()

    @property
    def _is_stream(self) -> bool:
        return self._unpacked_bytes > 0

    def _headers_at(self, begin: int) -> int:
        """How many headers the record whose fields begin at `begin` says that it has."""
        _, at = self._place_at(begin)
        for _ in ("key", "value"):
            size_bytes, at = decode_varint(self._buffer, at)
            at += max(0, size_bytes)
        return int(decode_varint(self._buffer, at)[0])

    def _place_at(self, begin: int) -> tuple[int, int]:
        """Offset of the record whose fields begin at `begin`, and where its key begins."""
        at = begin + 1  # attributes
        _, at = decode_varint(self._buffer, at)  # time
        delta, at = decode_varint(self._buffer, at)
        return self.base_offset + delta, at

    def _passed_over(self, length: int, begin: int, why: str) -> UnreadableRecord:
        offset, _ = self._place_at(begin)
        left_bytes = begin - self._pos + length
        while left_bytes > len(self._buffer) - self._pos and self._pieces is not None:
            left_bytes -= len(self._buffer) - self._pos
            self._pos = len(self._buffer)
            self._fill(1)
        self._pos += left_bytes
        return self._unreadable(offset, why)


def records_of(packed: bytes) -> Iterator[Any]:
    """The records of one batch as it is in the log: as the client gives them, or `UnreadableRecord`.

    Raises RejectedError (reason unreadable_batch) when the bytes are no batch of format 2.
    """
    try:
        batch = CautiousBatch(packed)
    except struct.error as error:
        raise RejectedError(
            f"{len(packed)} bytes are no batch: {error}", reason="unreadable_batch"
        ) from error
    if batch.magic != _FORMAT:
        raise RejectedError(
            f"a batch of format {batch.magic}; only format {_FORMAT} is read", reason="unreadable_batch"
        )
    return iter(batch)


def install() -> None:
    """From now on every consumer of this process reads batches cautiously; again costs nothing.

    Raises AttributeError when the client no longer has what is replaced: the tests of this module say so.
    """
    if kafka.record.memory_records.DefaultRecordBatch is not CautiousBatch:
        kafka.record.memory_records.DefaultRecordBatch = CautiousBatch

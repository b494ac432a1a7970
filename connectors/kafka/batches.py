"""Read record batches as bounded streams, so that a malformed batch costs its own offsets and never the partition.

kafka-python decompresses a batch whole and without a bound, and raises for the whole partition if it cannot read one
record. A megabyte of compressed zeros takes a gigabyte; a header whose name is not UTF-8, or a batch that ends inside a
record, would stop a reader at that offset for ever: one sender could stop the ingest of a fleet. Here a batch is
decompressed as a stream, with bounds per record. A record that is too large or cannot be read becomes one unreadable
record for its offset; the first one of a batch holds the bytes of the batch as they are in the log, so that a replay
can read them (`records_of`). A wrong checksum of a batch is still an error, because another fetch may return it whole.

Batches in the formats before Kafka 0.11 are left to the client; Kafka 4 does not accept them.
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
"""Bound of one record of a compressed batch, key and headers included. A value may have 1,000,000 bytes
(`schemas.topics.MAX_RECORD_BYTES`), so no record that could land is refused."""
MAX_BATCH_BYTES: Final = 256 << 20
"""Bound of one decompressed batch. It is never in memory at once: the bound limits the time that a batch may cost. A
request of 10 MB (the default is 1 MB) reaches it only if its content compresses to a twenty-fifth."""
MAX_HEADERS: Final = 4_096
"""Bound of one record. Each header costs about 200 bytes of memory beside its content."""
_LEAST_HEADER_BYTES: Final = 2
_VARINT_BYTES: Final = 10
_FORMAT: Final = 2
_LEAST_TIME: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """A placeholder for one offset of a batch that cannot be read; the client passes it on like a record."""

    offset: int
    timestamp: int
    timestamp_type: int
    value: bytes | None
    checksum: str
    """The error message, in the field that holds the checksum of old formats, because it reaches the caller."""
    key: None = None
    headers: tuple[()] = ()

    @property
    def size_in_bytes(self) -> int:
        """Return the size of the value in bytes."""
        return len(self.value or b"")

    def validate_crc(self) -> bool:
        """Return True: the checksum of the batch was right."""
        return True


class _Shown(threading.local):
    """Whether the calling thread sees control batches (`markers_shown`)."""

    markers = False


_shown = _Shown()


@contextlib.contextmanager
def markers_shown() -> Iterator[None]:
    """Give a read_uncommitted consumer of this thread transaction markers as records too, inside the context.

    An offset that it does not get is then no longer in the log.
    """
    _shown.markers = True
    try:
        yield
    finally:
        _shown.markers = False


class BoundedBatch(DefaultRecordBatch):  # type: ignore[misc]
    """The client's batch (format 2), read as a bounded stream as far as it can be read."""

    _buffer: bytearray
    _pos: int
    _decompressed: bool
    _packed: bytearray | None
    """The batch as it is in the log, until the first unreadable record has taken it over."""

    @property
    def is_control_batch(self) -> bool:
        """Return whether the batch is a transaction marker, which the client does not pass on."""
        return not _shown.markers and bool(self.attributes & self.CONTROL_MASK)

    def __iter__(self) -> Iterator[Any]:
        self._packed, expected = self._buffer, self.base_offset
        try:
            for record in self._whole():
                yield record
                expected = record.offset + 1
        except MemoryError:
            raise  # a condition of this machine, not of the batch
        except Exception as error:  # noqa: BLE001 - foreign bytes can make a codec or the client raise anything
            for offset in range(expected, self.last_offset + 1):
                yield self._unreadable(offset, f"{type(error).__name__}: {error}")

    def _whole(self) -> Iterator[Any]:
        """Yield the records until one cannot be read; bytes after the last record hold no offset and are ignored."""
        self._begin()
        least, last = self.base_offset, self.last_offset
        for _ in range(self.records_count):
            record = self._one()
            if not least <= record.offset <= last:
                raise CorruptRecordError(f"offset {record.offset} outside [{least}, {last}]")
            if not _LEAST_TIME <= record.timestamp <= -_LEAST_TIME - 1:
                raise CorruptRecordError(
                    f"timestamp {record.timestamp} of offset {record.offset} is not a signed 64-bit number"
                )
            if self._pos > len(self._buffer):
                raise CorruptRecordError(
                    f"the record at offset {record.offset} ends after the end of its batch"
                )
            yield record
            least = record.offset + 1

    def _unreadable(self, offset: int, why: str) -> UnreadableRecord:
        value, self._packed = None if self._packed is None else bytes(self._packed), None
        told = f"the batch at offset {self.base_offset} cannot be read: {why}"[:500]
        return UnreadableRecord(offset, self.max_timestamp, self.timestamp_type, value, told)

    def _begin(self) -> None:
        """Put the bytes to read into `_buffer` at `_pos`, or set up the stream that fills it."""
        self._pieces: Iterator[bytes] | None = None
        self._unpacked_bytes = 0
        if not self._decompressed and self.compression_type != self.CODEC_NONE:
            packed = bytes(memoryview(self._buffer)[self._pos :])
            self._pieces, self._buffer, self._pos = pieces(self.compression_type, packed), bytearray(), 0
        self._decompressed = True

    def _fill(self, least_bytes: int) -> None:
        """Decompress until `least_bytes` are in the buffer, or until the end."""
        del self._buffer[: self._pos]
        self._pos = 0
        while self._pieces is not None and len(self._buffer) < least_bytes:
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
                return
            self._unpacked_bytes += len(piece)
            if self._unpacked_bytes > MAX_BATCH_BYTES:
                raise CorruptRecordError(
                    f"the batch decompresses to more than {MAX_BATCH_BYTES} bytes, the bound"
                )
            self._buffer += piece

    def _one(self) -> Any:
        """Return the next record, or an unreadable record if it exceeds a bound."""
        most_bytes = MAX_RECORD_BYTES + _VARINT_BYTES
        if self._pieces is not None and len(self._buffer) - self._pos < most_bytes:
            self._fill(most_bytes)
        buffer, pos = self._buffer, self._pos
        # A varint length of three bytes or more is at least 8,192: a shorter record is below every bound.
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
        """Return how many headers the record whose fields begin at `begin` claims to have."""
        _, at = self._place_at(begin)
        for _ in ("key", "value"):
            size_bytes, at = decode_varint(self._buffer, at)
            at += max(0, size_bytes)
        return int(decode_varint(self._buffer, at)[0])

    def _place_at(self, begin: int) -> tuple[int, int]:
        """Return the offset of the record whose fields begin at `begin`, and the position of its key."""
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
    """Return the records of one batch in its log format: as the client gives them, or `UnreadableRecord`.

    Raises RejectedError (reason unreadable_batch) if the bytes are not a batch of format 2.
    """
    try:
        batch = BoundedBatch(packed)
    except struct.error as error:
        raise RejectedError(
            f"{len(packed)} bytes are not a record batch: {error}", reason="unreadable_batch"
        ) from error
    if batch.magic != _FORMAT:
        raise RejectedError(
            f"the batch has format {batch.magic}; only format {_FORMAT} is read", reason="unreadable_batch"
        )
    return iter(batch)


def install() -> None:
    """Make every consumer of this process read batches through `BoundedBatch`. Calling it again does nothing.

    Raises AttributeError if the client no longer has the replaced name; the tests of this module check it.
    """
    if kafka.record.memory_records.DefaultRecordBatch is not BoundedBatch:
        kafka.record.memory_records.DefaultRecordBatch = BoundedBatch

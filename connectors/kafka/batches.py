"""A batch of records that cannot be read costs its own offsets and a bounded number of bytes, never the partition.

Why: the client unpacks a compressed batch without a bound, and raises for the whole partition when it cannot read one
record. A megabyte of compressed zeros takes a gigabyte; a codec that is not installed, a header whose name is no
UTF-8 or a batch that ends inside a record would stop a reader at that offset for ever: one sender could stop the
ingest of a fleet. Here such a batch becomes one unreadable record for each of its offsets that could not be read; the
first holds the bytes of the batch as they are in the log. A wrong checksum of a batch is still an error: another
fetch may be whole.

Refuses to unpack beyond MAX_UNPACKED_BYTES: what a sender of ours packs is smaller, and so is every batch that is not
compressed. Batches in the formats before Kafka 0.11 are left to the client: Kafka 4 takes none.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import kafka.codec
import kafka.record.memory_records
from kafka.errors import CorruptRecordError, UnsupportedCodecError
from kafka.record.default_records import DefaultRecordBatch

MAX_UNPACKED_BYTES: Final = 1_100_000
"""Of one batch: above the broker's bound on a batch that is not compressed (max.message.bytes, 1,048,588)."""
_LEAST_TIME: Final = -(2**63)
_ZSTD_WINDOW_BYTES: Final = 8 << 20
"""What RFC 8878 recommends that every decoder takes; no more memory is set aside for a frame that claims more."""


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


class CautiousBatch(DefaultRecordBatch):  # type: ignore[misc]
    """The client's batch (format 2), read with a bound, and as far as it can be read."""

    _buffer: bytearray
    _pos: int
    _decompressed: bool

    def __iter__(self) -> Iterator[Any]:
        packed, expected = self._buffer, self.base_offset
        try:
            for record in self._whole():
                yield record
                expected = record.offset + 1
        except MemoryError:
            raise  # this machine's trouble, not the batch's
        except Exception as error:  # noqa: BLE001 - whatever the bytes of a stranger made a codec or the client raise
            yield from self._unreadable(bytes(packed), expected, error)

    def _whole(self) -> Iterator[Any]:
        """The records, until one cannot be read; bytes behind the last hold no offset and are left."""
        self._unpack()
        least, last = self.base_offset, self.last_offset
        for _ in range(self.records_count):
            record = self.__next__()
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

    def _unreadable(self, packed: bytes, begin: int, error: Exception) -> Iterator[UnreadableRecord]:
        why = f"the batch at offset {self.base_offset} cannot be read: {type(error).__name__}: {error}"[:500]
        for offset in range(begin, self.last_offset + 1):
            value = packed if offset == begin else None
            yield UnreadableRecord(offset, self.max_timestamp, self.timestamp_type, value, why)

    def _unpack(self) -> None:
        if self._decompressed or self.compression_type == self.CODEC_NONE:
            self._decompressed = True
            return
        packed = bytes(memoryview(self._buffer)[self._pos :])
        data = _unpacked(self.compression_type, packed, MAX_UNPACKED_BYTES + 1)
        if len(data) > MAX_UNPACKED_BYTES:
            raise CorruptRecordError(
                f"{len(packed)} packed bytes are more than {MAX_UNPACKED_BYTES} unpacked, the bound of a batch"
            )
        self._buffer, self._pos, self._decompressed = bytearray(data), 0, True


def _unpacked(codec: int, packed: bytes, most_bytes: int) -> bytes:
    """At most `most_bytes` of what is packed. Raises whatever the codec raises."""
    if codec == DefaultRecordBatch.CODEC_GZIP:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            return stream.read(most_bytes)
    if codec == DefaultRecordBatch.CODEC_ZSTD and kafka.codec.has_zstd():
        import zstandard

        reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        with reader.stream_reader(io.BytesIO(packed), read_across_frames=True) as stream:
            return bytes(stream.read(most_bytes))
    if codec == DefaultRecordBatch.CODEC_LZ4 and kafka.codec.has_lz4():
        import lz4.frame  # type: ignore[import-untyped]

        frame = lz4.frame.LZ4FrameDecompressor()
        data = bytes(frame.decompress(packed, max_length=most_bytes))
        if not frame.eof and len(data) < most_bytes:
            raise CorruptRecordError(f"lz4 ends inside a frame after {len(data)} bytes")
        return data
    names = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
    raise UnsupportedCodecError(f"codec {names.get(codec, codec)} is not read here")


def install() -> None:
    """From now on every consumer of this process reads batches cautiously; again costs nothing.

    Raises AttributeError when the client no longer has what is replaced: the tests of this module say so.
    """
    if kafka.record.memory_records.DefaultRecordBatch is not CautiousBatch:
        kafka.record.memory_records.DefaultRecordBatch = CautiousBatch

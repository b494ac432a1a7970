"""The wire format: a record as it is sent to a broker, and as it is read back with its offset.

The Kafka key is the vehicle_id. Headers carry the CloudEvents attributes (Kafka protocol binding 1.0.2, binary mode) and
what a reader needs to verify the record without decoding it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.topics import MAX_RECORD_BYTES, TOPICS, Topics

__all__ = ["CE_TYPES", "MAX_RECORD_BYTES", "TOPICS", "Headers", "StoredRecord", "Topics", "WireRecord"]

Headers = tuple[tuple[str, bytes], ...]

KIND_SAMPLE: Final = "sample"
KIND_TELEMETRY: Final = "telemetry"
KIND_NOTICE: Final = "notice"

CE_SPECVERSION: Final = "ce_specversion"
CE_ID: Final = "ce_id"
CE_TYPE: Final = "ce_type"
CE_SOURCE: Final = "ce_source"
CONTENT_TYPE: Final = "content-type"
FL_VEHICLE: Final = "fl_vehicle"
FL_EPOCH: Final = "fl_epoch"
FL_SEQ: Final = "fl_seq"
FL_SHA256: Final = "fl_sha256"
FL_KEYID: Final = "fl_keyid"
FL_SIGNATURE: Final = "fl_signature"

SPECVERSION: Final = b"1.0"
AVRO: Final = b"application/avro"
CE_TYPES: Final = {
    KIND_SAMPLE: b"ai.fleetloop.sample.v1",
    KIND_TELEMETRY: b"ai.fleetloop.telemetry.v1",
    KIND_NOTICE: b"ai.fleetloop.notice.v1",
}


@dataclass(frozen=True, slots=True)
class WireRecord:
    """One record to be sent, byte for byte."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers

    @property
    def size_bytes(self) -> int:
        """Size of key, value and headers, which counts against the cap on bytes in flight."""
        total = len(self.key) + len(self.value)
        for name, value in self.headers:
            total += len(name) + len(value)
        return total


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One record of a broker's log, untrusted; key and value may be missing.

    If its batch cannot be read, `unreadable` holds the error, and the first such offset holds the batch as its value.
    """

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    unreadable: str = ""

"""Encode a notice as a wire record with CloudEvents headers and without a signature.

A notice needs no signature because it only asks a vehicle to refresh the signed repository now, as it would at its next
interval; the vehicle trusts the repository alone. A forged notice costs one refresh (the listener bounds how often), and a
suppressed one costs the wait until the next interval. Neither changes what a vehicle trusts or runs.
"""

from __future__ import annotations

from schemas.codec import encode_notice
from schemas.records import Notice
from schemas.topics import TOPICS
from schemas.wire import (
    AVRO,
    CE_ID,
    CE_SOURCE,
    CE_SPECVERSION,
    CE_TYPE,
    CE_TYPES,
    KIND_NOTICE,
    SPECVERSION,
    WireRecord,
)

SOURCE = b"/fleet"


def notice_record(notice: Notice) -> WireRecord:
    """Return the record to send to the topic of notices. Raises RejectedError (invalid_value)."""
    value = encode_notice(notice)
    headers = (
        (CE_SPECVERSION, SPECVERSION),
        (CE_ID, notice.notice_id.encode()),
        (CE_TYPE, CE_TYPES[KIND_NOTICE]),
        (CE_SOURCE, SOURCE),
        ("content-type", AVRO),
    )
    return WireRecord(TOPICS.notices, notice.target.encode(), value, headers)

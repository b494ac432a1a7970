"""A notice as a wire record: CloudEvents headers, no signature.

Why unsigned is safe: a notice only says "look now". The vehicle then refreshes the signed repository as it would
have done anyway at its next interval, and believes that alone. A forged notice costs one refresh (how often is
bounded by the listener), a suppressed one costs the wait until the next interval; neither changes what a vehicle
trusts or runs.
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
    """The record to send to the topic of notices. Raises RejectedError (invalid_value)."""
    value = encode_notice(notice)
    headers = (
        (CE_SPECVERSION, SPECVERSION),
        (CE_ID, notice.notice_id.encode()),
        (CE_TYPE, CE_TYPES[KIND_NOTICE]),
        (CE_SOURCE, SOURCE),
        ("content-type", AVRO),
    )
    return WireRecord(TOPICS.notices, notice.target.encode(), value, headers)

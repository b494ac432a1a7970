"""The one limit on a record's size that every sink enforces before it queues anything."""

from __future__ import annotations

from foundation.errors import RejectedError


def check_size(topic: str, value: bytes, max_record_bytes: int) -> None:
    """Return when `value` fits.

    Raises:
        RejectedError: reason oversize; it names the size and the bound, and no retry can help.
    """
    if len(value) > max_record_bytes:
        raise RejectedError(
            f"a value of {len(value)} bytes for topic {topic} is above the limit of {max_record_bytes} bytes",
            reason="oversize",
        )

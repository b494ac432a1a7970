"""The limit on the size of a record, which every sink enforces before it queues anything."""

from __future__ import annotations

from foundation.errors import RejectedError


def check_size(topic: str, value: bytes, max_record_bytes: int) -> None:
    """Check that `value` is within the limit.

    Raises:
        RejectedError: reason oversize, with size and bound; a retry cannot help.
    """
    if len(value) > max_record_bytes:
        raise RejectedError(
            f"a value of {len(value)} bytes for topic {topic} is above the limit of {max_record_bytes} bytes",
            reason="oversize",
        )

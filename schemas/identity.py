"""The identity of a sample, (vehicle_id, epoch, seq), which never changes.

A random epoch is drawn at each start of the agent; seq counts from 0 without gaps within an epoch. Records are ordered by
identity, never by wall time.
"""

from __future__ import annotations

import random
import re
import secrets
from dataclasses import dataclass
from typing import Final

from foundation.errors import RejectedError
from schemas.reasons import RejectReason

VEHICLE_ID_PATTERN: Final = r"[a-z0-9][a-z0-9-]{0,62}"
EPOCH_PATTERN: Final = r"[0-9a-f]{16}"
MAX_SEQ: Final = 2**63 - 1

_vehicle_id = re.compile(VEHICLE_ID_PATTERN).fullmatch
_epoch = re.compile(EPOCH_PATTERN).fullmatch
_seq = re.compile(r"0|[1-9][0-9]{0,18}").fullmatch


def is_vehicle_id(text: str) -> bool:
    """Return whether `text` is a valid vehicle id: 1 to 63 lower-case letters, digits or hyphens, no leading hyphen."""
    return _vehicle_id(text) is not None


def is_epoch(text: str) -> bool:
    """Return whether `text` is 16 lower-case hex characters."""
    return _epoch(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """The identity of one sample or one telemetry record. Sorts by vehicle, then epoch, then seq.

    Raises:
        RejectedError: reason malformed_identity; names the part, its value and the required form.
    """

    vehicle_id: str
    epoch: str
    seq: int

    def __post_init__(self) -> None:
        if _vehicle_id(self.vehicle_id) is None:
            raise _malformed("vehicle_id", self.vehicle_id, VEHICLE_ID_PATTERN)
        if _epoch(self.epoch) is None:
            raise _malformed("epoch", self.epoch, EPOCH_PATTERN)
        if type(self.seq) is not int or not 0 <= self.seq <= MAX_SEQ:
            raise _malformed("seq", self.seq, f"a whole number in [0, {MAX_SEQ}]")

    def __str__(self) -> str:
        return f"{self.vehicle_id}/{self.epoch}/{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Parse the form that `str` returns. Raises RejectedError (malformed_identity)."""
        parts = text.split("/")
        if len(parts) != 3 or _seq(parts[2]) is None:
            raise _malformed("identity", text, "vehicle_id/epoch/seq")
        return cls(parts[0], parts[1], int(parts[2]))


def new_epoch(rng: random.Random | None = None) -> str:
    """Return 64 random bits as 16 lower-case hex characters; `rng` replaces the system's source in tests."""
    return secrets.token_hex(8) if rng is None else f"{rng.getrandbits(64):016x}"


def _malformed(part: str, value: object, form: str) -> RejectedError:
    return RejectedError(
        f"{part} {str(value)[:100]!r} is not of the form {form}", reason=RejectReason.MALFORMED_IDENTITY
    )

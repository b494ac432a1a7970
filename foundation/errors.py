"""The error hierarchy of FleetLoop; each family says what the caller should do.

    FleetLoopError                something went wrong; the message says what, with the value and the bound
    +-- RetryLaterError           nothing is wrong with the input: do the same again later
    |   +-- BackPressureError     too much is in flight: slow down, then do the same again
    |   +-- DeadlineError         the time that was given ran out
    +-- RejectedError             this input can never be accepted: count it, keep it, go on with the next
    |   +-- OffsetsLostError      retention took offsets before they were read: count them, go on after
    +-- CorruptError              stored bytes are not what was written: stop using them, keep the evidence
    +-- UntrustedError            a signature or a chain of trust is not valid: never use what it covers
    +-- MisconfiguredError        a person must change a setting or install something
    +-- GuaranteeBrokenError      a guarantee of FleetLoop does not hold: stop, this is a defect

Exit codes follow sysexits.h, so that a service manager can tell "try again later" (75) from "correct the
settings" (78).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Final

_CREDENTIALS: Final = re.compile(r"""[^\s/@'",;=(:]*:[^\s/@'"]+@(?=[\w\[.-])""")
"""USER:PASSWORD@ before a host, as in an address."""


def without_credentials(text: str) -> str:
    """Mask user and password in every address of a text: `http://********@host/`."""
    return _CREDENTIALS.sub("********@", text) if "@" in text else text


class FleetLoopError(Exception):
    """The base class of all errors of FleetLoop; catch it only at the boundary of a process."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return without_credentials(super().__str__())


class RetryLaterError(FleetLoopError):
    """The same call may succeed later; nothing was left half done."""

    exit_code = 75


class BackPressureError(RetryLaterError):
    """Queueing would exceed the cap on bytes in flight; nothing was queued."""

    def __init__(self, in_flight_bytes: int, cap_bytes: int) -> None:
        super().__init__(f"{in_flight_bytes} bytes would be in flight; the cap is {cap_bytes} bytes")
        self.in_flight_bytes = in_flight_bytes
        self.cap_bytes = cap_bytes


class DeadlineError(RetryLaterError):
    """The time that the caller gave ran out."""


class RejectedError(FleetLoopError):
    """This input can never be accepted. `reason` is a stable identifier for counters and dead letters."""

    exit_code = 65

    def __init__(self, message: str, *, reason: str = "rejected") -> None:
        super().__init__(message)
        self.reason = str(reason)


class OffsetsLostError(RejectedError):
    """The offsets [lost_begin, lost_end) are no longer on the broker; the caller counts them as lost."""

    def __init__(self, topic: str, partition: int, lost_begin: int, lost_end: int) -> None:
        super().__init__(
            f"offsets [{lost_begin}, {lost_end}) of {topic}/{partition} are no longer retained",
            reason="offsets_lost",
        )
        self.topic = topic
        self.partition = partition
        self.lost_begin = lost_begin
        self.lost_end = lost_end


class CorruptError(FleetLoopError):
    """Stored bytes are not what was written. The message names the file and, if known, the byte offset."""

    exit_code = 74

    def __init__(self, message: str, *, path: Path | str = "", offset_bytes: int | None = None) -> None:
        place = str(path) + ("" if offset_bytes is None else f" at byte {offset_bytes}")
        super().__init__(f"{place}: {message}" if place else message)
        self.path = str(path)
        self.offset_bytes = offset_bytes


class UntrustedError(FleetLoopError):
    """A signature, a key or a chain of trust is not valid."""

    exit_code = 77


class MisconfiguredError(FleetLoopError):
    """A setting or a missing dependency that a person must fix."""

    exit_code = 78


class GuaranteeBrokenError(FleetLoopError):
    """A guarantee of FleetLoop was found broken."""

    exit_code = 70

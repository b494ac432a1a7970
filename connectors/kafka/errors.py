"""Translate kafka-python's errors into `foundation.errors`, with the causes that only its log contains.

A refused certificate, a plaintext port, a wrong password and a dead broker all end in the same "unable to bootstrap"
time-out; only the logger `kafka` says what happened.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

import kafka.errors as client_errors

from foundation.errors import (
    DeadlineError,
    FleetLoopError,
    MisconfiguredError,
    RejectedError,
    RetryLaterError,
    UntrustedError,
)

_REJECTED: Final = (
    (client_errors.MessageSizeTooLargeError, "oversize"),
    (client_errors.RecordListTooLargeError, "oversize"),
    (client_errors.InvalidTopicError, "invalid_topic"),
    (client_errors.InvalidRecordError, "invalid_record"),
    (client_errors.InvalidTimestampError, "invalid_record"),
)
_ACCESS: Final = (
    client_errors.AuthorizationError,
    client_errors.SaslAuthenticationFailedError,
    client_errors.UnsupportedSaslMechanismError,
    client_errors.IllegalSaslStateError,
    client_errors.SecurityDisabledError,
)
_NO_CAUSE: Final = ("not ready", "Unable to bootstrap", "Sending username and password")
_REFUSAL: Final = (
    "_ALERT_",
    "CERTIFICATE_VERIFY_FAILED",
    "AuthorizationFailed",
    "not authorized",
    "AuthenticationFailed",
)
_CLOSED_HINT: Final = (
    "the broker closed the connection: a wrong password, a missing certificate and another security_protocol"
    " look like this"
)
_SETTINGS: Final = (
    client_errors.KafkaConfigurationError,
    client_errors.UnsupportedVersionError,
    client_errors.UnsupportedCodecError,
    client_errors.UnrecognizedBrokerVersion,
)


def translated(error: BaseException, doing: str) -> FleetLoopError:
    """Return the FleetLoopError for a client's error; `doing` names the action, e.g. "sending to fleetloop.samples".

    Refused access is MisconfiguredError, never success and never a rejection of the record: the right may be granted
    again, and the record must still be there. An unknown error is RetryLaterError, so that no record is dropped for it.
    """
    if isinstance(error, FleetLoopError):
        return error
    text = f"{doing}: {error}"
    for kind, reason in _REJECTED:
        if isinstance(error, kind):
            return RejectedError(text, reason=reason)
    if isinstance(error, _ACCESS):
        return MisconfiguredError(f"{text} (the broker refuses this client)")
    if isinstance(error, _SETTINGS):
        return MisconfiguredError(text)
    if isinstance(error, client_errors.UnknownTopicOrPartitionError):
        return RejectedError(text, reason="no_such_topic")
    if isinstance(error, client_errors.LogTruncationError | client_errors.CorruptRecordError):
        return UntrustedError(f"{text} (the log was truncated or is corrupt)")
    if isinstance(error, client_errors.KafkaTimeoutError):
        return DeadlineError(text)
    return RetryLaterError(text)


@contextlib.contextmanager
def translating(doing: str) -> Iterator[None]:
    """Translate every error of the client that is raised inside the context."""
    try:
        yield
    except (client_errors.KafkaError, OSError) as error:
        raise translated(error, doing) from error


def is_refusal(text: str) -> bool:
    """Return whether a client's message means refused access: a certificate, a password or an ACL."""
    return any(words in text for words in _REFUSAL)


class ClientLog(logging.Handler):
    """Keeps the last warnings of the logger `kafka` in this process, so that a caller can report why nothing moves.

    The client's log does not name the owner of a connection: with two clusters in one process, a cause may belong to the
    other one. The handler also keeps the client's retries off the standard error stream.
    """

    def __init__(self, kept: int = 50) -> None:
        super().__init__(logging.WARNING)
        self._told: deque[tuple[float, str]] = deque(maxlen=kept)

    def emit(self, record: logging.LogRecord) -> None:
        """Store one message."""
        try:
            self._told.append((time.monotonic(), record.getMessage()))
        except (TypeError, ValueError):  # a malformed message of the client must not stop its network thread
            self.handleError(record)

    def since(self, monotonic_s: float) -> str:
        """Return the most specific message at or after `monotonic_s`, or an empty string.

        Monotonic time is used because a wall clock that jumps back would hide messages for that long.

        The cause ("Handshake failed: ...", "ECONNREFUSED") is in the message about a connection; later messages only say
        "not ready".
        """
        told = [text for created, text in list(self._told) if created >= monotonic_s]
        causes = [text for text in told if _is_cause(text)]
        text = (causes or told or [""])[-1]
        return f"{text}; {_CLOSED_HINT}" if "socket disconnected" in text else text


def _is_cause(text: str) -> bool:
    return not any(words in text for words in _NO_CAUSE)


_installing = threading.Lock()
_installed: ClientLog | None = None


def client_log() -> ClientLog:
    """Return this process's handler on the logger `kafka`, attached at the first call."""
    global _installed
    with _installing:
        if _installed is None:
            _installed = ClientLog()
            log = logging.getLogger("kafka")
            log.addHandler(_installed)
            log.propagate = (
                False  # Beam gives the root logger a handler, which would print each of the client's retries
            )
        return _installed

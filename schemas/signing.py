"""Sign records with the Ed25519 key of a vehicle, and verify them against the keys enrolled for it.

The signature covers the kind, the identity and the SHA-256 of the value, so that none of them can be replaced. The
signature ties a record to its vehicle, which the ACLs of a broker cannot do on a shared topic.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from foundation.errors import MisconfiguredError, RejectedError
from schemas import wire
from schemas.enrolment import EnrolledKey, Enrolment
from schemas.identity import Identity
from schemas.reasons import RejectReason

__all__ = ["EnrolledKey", "Enrolment", "VehicleKey", "sign_record", "verify"]

_DOMAIN: Final = b"fleetloop-record-v1\0"
_REQUIRED: Final = (
    wire.CE_ID,
    wire.CE_TYPE,
    wire.CE_SOURCE,
    wire.FL_VEHICLE,
    wire.FL_EPOCH,
    wire.FL_SEQ,
    wire.FL_SHA256,
    wire.FL_KEYID,
    wire.FL_SIGNATURE,
)


class VehicleKey:
    """The private key of a vehicle. Its repr shows the key id only."""

    __slots__ = ("_private", "_raw_public", "key_id")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._raw_public = private.public_key().public_bytes_raw()
        self.key_id: Final = hashlib.sha256(self._raw_public).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"VehicleKey({self.key_id})"

    @classmethod
    def generate(cls) -> Self:
        """Generate a key from the system's random source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, data: bytes, name: str = "the key") -> Self:
        """Load a key that `to_pem` wrote. Raises MisconfiguredError, which names `name`, for any other content."""
        try:
            private = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError) as error:
            raise MisconfiguredError(f"{name} is not an unencrypted PEM private key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise MisconfiguredError(f"{name} holds a {type(private).__name__}; it must be an Ed25519 key")
        return cls(private)

    def to_pem(self) -> bytes:
        """Return the private key as unencrypted PEM (PKCS #8), for a file that only its owner may read."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public_b64(self) -> str:
        """The 32 raw bytes of the public key in base64."""
        return base64.b64encode(self._raw_public).decode("ascii")

    def sign(self, message: bytes) -> bytes:
        """Sign a message and return the 64 raw signature bytes."""
        return self._private.sign(message)


def sign_record(topic: str, kind: str, identity: Identity, value: bytes, key: VehicleKey) -> wire.WireRecord:
    """Return the signed wire record of `value`, which `verify` accepts. Its Kafka key is the vehicle_id.

    Raises:
        RejectedError: reason unknown_schema; `kind` is not a kind of record.
    """
    ce_type = wire.CE_TYPES.get(kind)
    if ce_type is None:
        raise RejectedError(
            f"kind {kind!r} is not one of {', '.join(wire.CE_TYPES)}", reason=RejectReason.UNKNOWN_SCHEMA
        )
    digest = hashlib.sha256(value)
    name = str(identity).encode()
    vehicle = identity.vehicle_id.encode()
    signature = key.sign(_message(kind.encode(), name, digest.digest()))
    headers = (
        (wire.CE_SPECVERSION, wire.SPECVERSION),
        (wire.CE_ID, name),
        (wire.CE_TYPE, ce_type),
        (wire.CE_SOURCE, b"/vehicles/" + vehicle),
        (wire.CONTENT_TYPE, wire.AVRO),
        (wire.FL_VEHICLE, vehicle),
        (wire.FL_EPOCH, identity.epoch.encode()),
        (wire.FL_SEQ, b"%d" % identity.seq),
        (wire.FL_SHA256, digest.hexdigest().encode()),
        (wire.FL_KEYID, key.key_id.encode()),
        (wire.FL_SIGNATURE, signature),
    )
    return wire.WireRecord(topic, vehicle, value, headers)


def verify(
    headers: wire.Headers, key: bytes | None, value: bytes | None, kind: str, enrolment: Enrolment
) -> Identity:
    """Verify that a record was signed by a key of its vehicle, and return its identity.

    The signature, which is costly, is checked last. A revoked key is refused whatever time the record claims, because a
    vehicle's clock proves nothing.

    Raises:
        RejectedError: reason missing_header, malformed_identity, identity_mismatch, unknown_vehicle,
            revoked_key, hash_mismatch, unknown_schema or bad_signature.
    """
    found = dict(headers)
    if len(found) != len(headers):
        raise _rejected(RejectReason.MALFORMED_IDENTITY, "a header is given twice")
    if key is None or value is None:
        raise _rejected(
            RejectReason.MISSING_HEADER, "the record has no " + ("key" if key is None else "value")
        )
    for required in _REQUIRED:
        if found.get(required) is None:
            raise _rejected(RejectReason.MISSING_HEADER, f"the header {required} is missing")
    identity, name = _identity(found)
    vehicle = found[wire.FL_VEHICLE]
    if key != vehicle or found[wire.CE_ID] != name or found[wire.CE_SOURCE] != b"/vehicles/" + vehicle:
        raise _rejected(
            RejectReason.IDENTITY_MISMATCH,
            f"key {key[:80]!r}, ce_id {found[wire.CE_ID][:120]!r} and"
            f" ce_source {found[wire.CE_SOURCE][:80]!r} do not all name {identity}",
        )
    if found[wire.CE_TYPE] != wire.CE_TYPES.get(kind):
        raise _rejected(
            RejectReason.UNKNOWN_SCHEMA, f"ce_type {found[wire.CE_TYPE][:80]!r} is not the type of a {kind}"
        )
    enrolled = _enrolled(found[wire.FL_KEYID], identity, enrolment)
    digest = hashlib.sha256(value)
    if found[wire.FL_SHA256] != digest.hexdigest().encode():
        raise _rejected(
            RejectReason.HASH_MISMATCH,
            f"the value hashes to {digest.hexdigest()}; the header says {found[wire.FL_SHA256][:64]!r}",
        )
    try:
        _public_key(enrolled.public_b64).verify(
            found[wire.FL_SIGNATURE], _message(kind.encode(), name, digest.digest())
        )
    except InvalidSignature as error:
        raise _rejected(
            RejectReason.BAD_SIGNATURE, f"the signature of {identity} is not by key {enrolled.key_id}"
        ) from error
    return identity


def _identity(found: dict[str, bytes]) -> tuple[Identity, bytes]:
    """Return the identity in the fl_ headers and its text form; only the canonical form is accepted."""
    name = found[wire.FL_VEHICLE] + b"/" + found[wire.FL_EPOCH] + b"/" + found[wire.FL_SEQ]
    try:
        return Identity.parse(name.decode("ascii")), name
    except UnicodeDecodeError as error:
        raise _rejected(RejectReason.MALFORMED_IDENTITY, f"identity {name[:100]!r} is not ASCII") from error


def _enrolled(key_id_header: bytes, identity: Identity, enrolment: Enrolment) -> EnrolledKey:
    keys = enrolment.vehicles.get(identity.vehicle_id)
    if keys is None:
        raise _rejected(RejectReason.UNKNOWN_VEHICLE, f"vehicle {identity.vehicle_id} is not enrolled")
    key_id = key_id_header.decode("ascii", "replace")
    for candidate in keys:
        if candidate.key_id == key_id:
            if candidate.revoked_time_ns is not None:
                raise _rejected(
                    RejectReason.REVOKED_KEY,
                    f"key {key_id} of {identity.vehicle_id} was revoked at {candidate.revoked_time_ns} ns",
                )
            return candidate
    raise _rejected(RejectReason.BAD_SIGNATURE, f"key {key_id[:32]!r} is not a key of {identity.vehicle_id}")


def _message(kind: bytes, identity: bytes, digest: bytes) -> bytes:
    return _DOMAIN + kind + b"\0" + identity + b"\0" + digest


@lru_cache(maxsize=100_000)
def _public_key(public_b64: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(public_b64))


def _rejected(reason: RejectReason, message: str) -> RejectedError:
    return RejectedError(message, reason=reason)

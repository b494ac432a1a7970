"""The enrolment: the public keys of each vehicle that ingest trusts, stored as JSON."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Self

from foundation.documents import (
    Meta,
    UnreadableRow,
    build,
    encode_json,
    parse_json,
    plain,
    read_rows,
    version_of,
)
from foundation.errors import CorruptError, MisconfiguredError
from schemas.identity import VEHICLE_ID_PATTERN, is_vehicle_id

FORMAT: Final = 1
TimeNs = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


@dataclass(frozen=True, slots=True)
class EnrolledKey:
    """One public key of one vehicle. `key_id` is the first 16 hex characters of the SHA-256 of the raw key.

    Raises:
        CorruptError: a field is out of bounds, or the key id does not match the key.
    """

    vehicle_id: str
    key_id: str
    public_b64: str
    enrolled_time_ns: TimeNs
    revoked_time_ns: TimeNs | None = None

    def __post_init__(self) -> None:
        if not is_vehicle_id(self.vehicle_id):
            raise CorruptError(f"vehicle_id {self.vehicle_id!r} is not of the form {VEHICLE_ID_PATTERN}")
        try:
            raw = base64.b64decode(self.public_b64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CorruptError(f"public_b64 of {self.vehicle_id} is not base64") from error
        if len(raw) != 32 or hashlib.sha256(raw).hexdigest()[:16] != self.key_id:
            raise CorruptError(f"key_id {self.key_id!r} of {self.vehicle_id} does not match its public_b64")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The keys of each vehicle, oldest first. Immutable: each change returns a new enrolment.

    A row that cannot be read is listed in `unreadable`. Its key is not trusted, other rows are unaffected, and it is written
    back unchanged (`kept_rows`), because a newer version may be able to read it.
    """

    vehicles: Mapping[str, tuple[EnrolledKey, ...]] = field(default_factory=lambda: MappingProxyType({}))
    unreadable: tuple[UnreadableRow, ...] = ()
    kept_rows: tuple[Any, ...] = ()

    @classmethod
    def of(cls, *keys: EnrolledKey) -> Self:
        """Return an enrolment of these keys.

        Raises:
            MisconfiguredError: a key occurs twice, for one vehicle or for two.
        """
        vehicles: dict[str, tuple[EnrolledKey, ...]] = {}
        owner: dict[str, str] = {}
        for key in keys:
            if key.key_id in owner:
                raise MisconfiguredError(
                    f"key {key.key_id} is already enrolled for {owner[key.key_id]};"
                    f" it cannot be enrolled for {key.vehicle_id}"
                )
            owner[key.key_id] = key.vehicle_id
            vehicles[key.vehicle_id] = (*vehicles.get(key.vehicle_id, ()), key)
        return cls(MappingProxyType(vehicles))

    @property
    def keys(self) -> tuple[EnrolledKey, ...]:
        """All keys, ordered by vehicle."""
        return tuple(key for name in sorted(self.vehicles) for key in self.vehicles[name])

    def with_key(self, key: EnrolledKey) -> Self:
        """Return the enrolment with one more key. Raises MisconfiguredError if the key is enrolled already."""
        return self._with(*self.keys, key)

    def with_revoked(self, vehicle_id: str, revoked_time_ns: int, key_id: str | None = None) -> Self:
        """Return the enrolment with a key of the vehicle revoked, or all without `key_id`; revoked keys keep their time.

        Raises:
            MisconfiguredError: the vehicle has no such key.
        """
        if not any(k.vehicle_id == vehicle_id and key_id in (None, k.key_id) for k in self.keys):
            raise MisconfiguredError(f"{vehicle_id} has no key {key_id or ''}".rstrip())
        return self._with(
            *(
                replace(key, revoked_time_ns=revoked_time_ns)
                if key.vehicle_id == vehicle_id
                and key_id in (None, key.key_id)
                and key.revoked_time_ns is None
                else key
                for key in self.keys
            )
        )

    def _with(self, *keys: EnrolledKey) -> Self:
        return replace(self.of(*keys), unreadable=self.unreadable, kept_rows=self.kept_rows)

    def to_json(self) -> str:
        """Encode as JSON with sorted keys."""
        return encode_json({"keys": [*map(plain, self.keys), *self.kept_rows]}, format=FORMAT).decode()

    @classmethod
    def from_json(cls, text: str | bytes, *, path: Path | str = "") -> Self:
        """Decode what `to_json` wrote. Raises CorruptError, which names `path`, and MisconfiguredError."""

        def corrupt(message: str) -> CorruptError:
            return CorruptError(message, path=path)

        tree = parse_json(text, "enrolment", family=corrupt)
        version_of(tree, "enrolment", "format", {FORMAT}, family=corrupt)
        listed = tree.get("keys")
        rows = read_rows(
            listed, lambda row: build(EnrolledKey, row, "key", family=corrupt), "keys", family=corrupt
        )
        kept = tuple(row.row for row in rows.unreadable)
        return replace(cls.of(*rows.read), unreadable=rows.unreadable, kept_rows=kept)

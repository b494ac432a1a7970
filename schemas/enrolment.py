"""Which public keys are a vehicle's own: the list that ingest trusts, as JSON that a person can read."""

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
    """One public key of one vehicle. `key_id`: first 16 hex characters of the sha256 of the raw key.

    Raises:
        CorruptError: a field is out of its bounds, or the key id is not that of the key.
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
            raise CorruptError(f"key_id {self.key_id!r} of {self.vehicle_id} is not that of its public_b64")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Vehicle -> its keys, oldest first. Never changed in place: each change gives a new one.

    A row that cannot be read is told in `unreadable`: its key is not trusted, its neighbours are, and it is written back
    as it was found (`kept_rows`), because a newer program may know what it says.
    """

    vehicles: Mapping[str, tuple[EnrolledKey, ...]] = field(default_factory=lambda: MappingProxyType({}))
    unreadable: tuple[UnreadableRow, ...] = ()
    kept_rows: tuple[Any, ...] = ()

    @classmethod
    def of(cls, *keys: EnrolledKey) -> Self:
        """An enrolment of these keys.

        Raises:
            MisconfiguredError: one key is given to two vehicles, or twice.
        """
        vehicles: dict[str, tuple[EnrolledKey, ...]] = {}
        owner: dict[str, str] = {}
        for key in keys:
            if key.key_id in owner:
                raise MisconfiguredError(
                    f"key {key.key_id} is enrolled for {owner[key.key_id]} already;"
                    f" it cannot be {key.vehicle_id}'s"
                )
            owner[key.key_id] = key.vehicle_id
            vehicles[key.vehicle_id] = (*vehicles.get(key.vehicle_id, ()), key)
        return cls(MappingProxyType(vehicles))

    @property
    def keys(self) -> tuple[EnrolledKey, ...]:
        """Every key, by vehicle."""
        return tuple(key for name in sorted(self.vehicles) for key in self.vehicles[name])

    def with_key(self, key: EnrolledKey) -> Self:
        """Also this key. Raises MisconfiguredError when it is enrolled already."""
        return self._with(*self.keys, key)

    def with_revoked(self, vehicle_id: str, revoked_time_ns: int, key_id: str | None = None) -> Self:
        """The vehicle's key (all of them, without `key_id`) revoked; one revoked before keeps its time.

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
        """Sorted keys, indent 2, a newline at the end."""
        return encode_json({"keys": [*map(plain, self.keys), *self.kept_rows]}, format=FORMAT).decode()

    @classmethod
    def from_json(cls, text: str | bytes, *, path: Path | str = "") -> Self:
        """What `to_json` wrote. Raises CorruptError naming `path`, MisconfiguredError."""

        def corrupt(message: str) -> CorruptError:
            return CorruptError(message, path=path)

        tree = parse_json(text, "enrolment", family=corrupt)
        version_of(tree, "enrolment", "format", {FORMAT}, family=corrupt)
        listed = tree.get("keys")
        rows = read_rows(
            listed, lambda row: build(EnrolledKey, row, "key", family=corrupt), "keys", family=corrupt
        )
        kept = tuple(listed[row.index] for row in rows.unreadable)
        return replace(cls.of(*rows.read), unreadable=rows.unreadable, kept_rows=kept)

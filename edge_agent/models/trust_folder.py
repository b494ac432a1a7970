"""The fleet's trusted metadata on disk, and the time floor.

python-tuf judges expiry by the wall clock, which a vehicle cannot rely on. A signed timestamp says when it was
issued; time on this vehicle is never before that, plus what the monotonic clock has counted since in the same
boot, whatever the wall clock says. A clock in 1970 therefore judges an expired document expired. The wall clock
never raises the floor, so one that ran ahead for a day does no lasting harm; a floor whose signer is no longer
trusted is dropped (recovery from a stolen timestamp key).

Files under `state/trust`: bootstrap_root.json (enrolment), metadata/ and targets/ (deliver), floor.json
(deliver). Refuses to decide what is trusted: that is `edge_agent.models.trust`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata

# Why internal? No public class verifies metadata from bytes alone; ngclient's Updater needs a network.
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from foundation.clock import Clock, boot_id
from foundation.documents import DocumentType
from foundation.errors import CorruptError, FleetLoopError, RetryLaterError, UntrustedError
from foundation.files import read_document, write_atomic, write_document
from schemas.downlink import INDEX, INDEX_1, ISSUED_FIELD

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOLD_NS = 60 * 1_000_000_000
_LAST_S = 253_402_300_799
"""The last second that a datetime can hold."""


@dataclass(frozen=True, slots=True)
class TimeFloor:
    """No earlier than `floor_ns` (UTC) when the monotonic clock of boot `boot` read `monotonic_ns`.

    `key_ids` are the timestamp keys that the root trusted when the floor was set.
    """

    floor_ns: int
    boot: str
    monotonic_ns: int
    key_ids: tuple[str, ...] = ()

    def at(self, clock: Clock) -> int:
        """Return the floor now: it moves with the monotonic clock, but only within one boot."""
        if self.boot != boot_id():
            return self.floor_ns
        return self.floor_ns + max(0, clock.monotonic_ns() - self.monotonic_ns)


FLOOR: Final = DocumentType.first("floor under time", TimeFloor)


class TrustFolder:
    """The files under `state/trust`."""

    def __init__(self, state_folder: Path) -> None:
        self.path = state_folder / "trust"
        self.metadata = self.path / "metadata"

    def install(self, root_bytes: bytes) -> None:
        """Pin the first root, at enrolment. Raises UntrustedError when it does not even sign itself."""
        with our_errors():
            TrustedMetadataSet(root_bytes, EnvelopeType.METADATA)
        self.metadata.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / "bootstrap_root.json", root_bytes)

    def newest_root(self) -> bytes:
        """Return the newest root that was verified and saved, else the one of enrolment.

        Starting from the newest keeps a chain of any length followable, 256 rotations a refresh.

        Raises:
            UntrustedError: the vehicle was never given a root.
        """
        history = self.metadata / "root_history"
        versions = sorted((int(path.name.split(".")[0]), path) for path in history.glob("[0-9]*.root.json"))
        for version, path in reversed(versions):
            data = path.read_bytes()
            try:
                if TrustedMetadataSet(data, EnvelopeType.METADATA).root.version == version:
                    return data
            except tuf_errors.RepositoryError:
                continue
        try:
            return (self.path / "bootstrap_root.json").read_bytes()
        except OSError as error:
            raise UntrustedError(f"no trusted root in {self.path}: enrol this vehicle") from error

    def saved_index(self, target: str) -> Path:
        """Return where the index target `role/name` is kept once it was verified."""
        return self.path / "targets" / target.replace("/", ".")

    def stamp(self, role: str) -> tuple[tuple[int, int], ...]:
        """Return a value that changes whenever the saved metadata of a role does."""
        stamps = []
        indexes = (self.saved_index(f"{role}/{name}") for name in (INDEX, INDEX_1))
        for path in (self.metadata / f"{role}.json", *indexes):
            try:
                found = path.stat()
                stamps.append((found.st_mtime_ns, found.st_ino))
            except OSError:
                stamps.append((0, 0))
        return tuple(stamps)

    def read_floor(self) -> TimeFloor | None:
        """Return the saved floor; None when there is none or it is damaged."""
        try:
            return read_document(self.path / "floor.json", FLOOR)
        except (OSError, CorruptError):
            return None

    def raise_floor(self, issued_ns: int, key_ids: tuple[str, ...], clock: Clock) -> TimeFloor:
        """Save the higher of the floor so far and `issued_ns`; a floor by keys no longer trusted counts for nothing."""
        old = self.read_floor()
        kept_ns = old.at(clock) if old is not None and set(old.key_ids) & set(key_ids) else 0
        floor = TimeFloor(max(kept_ns, issued_ns), boot_id(), clock.monotonic_ns(), key_ids)
        write_document(self.path / "floor.json", FLOOR, floor)
        return floor

    def hold_floor(self, clock: Clock) -> None:
        """Save how far the floor has moved in this boot, so that a reboot with a clock in 1970 does not set it back.

        In a new boot, let it move from now on, also while every word is refused or none comes.
        """
        floor = self.read_floor()
        if floor is None:
            return
        if floor.boot != boot_id() or floor.at(clock) - floor.floor_ns > _HOLD_NS:
            self.raise_floor(0, floor.key_ids, clock)

    def reference_ns(self, root: Any, clock: Clock) -> int:
        """Return the time by which documents are judged: the wall clock, but never below the floor."""
        floor = self.read_floor()
        if floor is None:
            floor_ns = self._issued_of_saved(root)
        else:
            floor_ns = floor.at(clock) if set(floor.key_ids) & set(root.roles["timestamp"].keyids) else 0
        return max(clock.now_ns(), floor_ns)

    def _issued_of_saved(self, root: Any) -> int:
        try:
            metadata = Metadata.from_bytes((self.metadata / "timestamp.json").read_bytes())
            root.verify_delegate("timestamp", metadata.signed_bytes, metadata.signatures)
            return issued_ns(metadata.signed)
        except (OSError, tuf_errors.RepositoryError):
            return 0


def issued_ns(timestamp: Any) -> int:
    """When a (verified) timestamp was issued; 0 when it does not say."""
    value = timestamp.unrecognized_fields.get(ISSUED_FIELD)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LAST_S:
        return 0
    return value * 1_000_000_000


def as_datetime(time_ns: int) -> datetime:
    """Return the same instant, no later than a datetime can say."""
    return _EPOCH + timedelta(seconds=min(max(time_ns, 0) // 1_000_000_000, _LAST_S))


def check_fresh(documents: list[tuple[str, Any]], reference_ns: int) -> None:
    """Raises UntrustedError naming the first document that had expired at `reference_ns`."""
    reference = as_datetime(reference_ns)
    for name, signed in documents:
        if signed.is_expired(reference):
            raise UntrustedError(
                f"{name} expired at {signed.expires:%Y-%m-%dT%H:%M:%SZ}, it is {reference:%Y-%m-%dT%H:%M:%SZ}"
            )


class our_errors:  # noqa: N801 - reads as a statement: with our_errors()
    """The one map from python-tuf's errors to ours, most specific first."""

    _MAP: tuple[tuple[type[Exception], Callable[[str], FleetLoopError]], ...] = (
        (tuf_errors.DownloadLengthMismatchError, UntrustedError),
        (tuf_errors.DownloadError, RetryLaterError),
        (tuf_errors.ExpiredMetadataError, lambda text: UntrustedError(f"freeze protection: {text}")),
        (tuf_errors.RepositoryError, UntrustedError),
        (OSError, RetryLaterError),
    )

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for foreign, ours in self._MAP:
            if isinstance(error, foreign):
                raise ours(f"{type(error).__name__}: {error}") from error

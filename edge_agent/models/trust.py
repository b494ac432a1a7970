"""What this vehicle believes came from the fleet's keys, and until when: rollback, freeze and mix-and-match
end here.

python-tuf holds the chain (root, timestamp, snapshot, roles). This adds what it lacks:
- a floor under time. A signed timestamp says when it was issued; time on this vehicle is never before that,
  plus what the monotonic clock has counted since in the same boot, whatever the wall clock says. A clock in
  1970 therefore judges an expired document expired. The wall clock never raises the floor, so one that ran
  ahead for a day does no lasting harm; a floor whose signer is no longer trusted is dropped (recovery from a
  stolen timestamp key).
- durable metadata (fsync before rename), so that power loss cannot take rollback protection away;
- role separation: a model only by the role `models`, a plan only by `rollouts`, also against the top-level
targets;
- `SavedTrust.load`: the same check again without a network, from what is saved, just before a swap.

Files under `state/trust`: bootstrap_root.json (enrolment), metadata/ and targets/ (deliver), floor.json
(deliver).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from edge_agent.models.http import BoundedFetcher
from foundation.clock import Clock, boot_id
from foundation.errors import CorruptError, FleetLoopError, RetryLaterError, UntrustedError
from foundation.files import read_json, write_atomic, write_json_atomic

ISSUED_FIELD = "x-fleetloop-issued-s"
"""Signed field of timestamp.json: whole seconds since 1970 when it was issued."""
ROLES = ("rollouts", "models")
INDEX = "index.json"
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
    key_ids: tuple[str, ...]

    def at(self, clock: Clock) -> int:
        """The floor now: it moves with the monotonic clock, but only within one boot."""
        if self.boot != boot_id():
            return self.floor_ns
        return self.floor_ns + max(0, clock.monotonic_ns() - self.monotonic_ns)


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
        """The newest root that was verified and saved, else the one of enrolment.

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

    def stamp(self, role: str) -> tuple[tuple[int, int], ...]:
        """Changes whenever what is saved of a role does."""
        stamps = []
        for path in (self.metadata / f"{role}.json", self.path / "targets" / f"{role}.{INDEX}"):
            try:
                found = path.stat()
                stamps.append((found.st_mtime_ns, found.st_ino))
            except OSError:
                stamps.append((0, 0))
        return tuple(stamps)

    def read_floor(self) -> TimeFloor | None:
        """The saved floor; None when there is none or it is damaged."""
        try:
            document = read_json(self.path / "floor.json")
        except (OSError, CorruptError):
            return None
        if not isinstance(document, dict):
            return None
        floor_ns, boot, monotonic_ns, keys = (
            document.get(k) for k in ("floor_ns", "boot", "monotonic_ns", "key_ids")
        )
        if not (isinstance(floor_ns, int) and isinstance(boot, str) and isinstance(monotonic_ns, int)):
            return None
        return TimeFloor(
            floor_ns, boot, monotonic_ns, tuple(map(str, keys)) if isinstance(keys, list) else ()
        )

    def raise_floor(self, issued_ns: int, key_ids: tuple[str, ...], clock: Clock) -> TimeFloor:
        """Save the higher of the floor so far and `issued_ns`; a floor by keys no longer trusted counts for
        nothing.
        """
        old = self.read_floor()
        kept_ns = old.at(clock) if old is not None and set(old.key_ids) & set(key_ids) else 0
        floor = TimeFloor(max(kept_ns, issued_ns), boot_id(), clock.monotonic_ns(), key_ids)
        document = {
            "floor_ns": floor.floor_ns,
            "boot": floor.boot,
            "monotonic_ns": floor.monotonic_ns,
            "key_ids": list(floor.key_ids),
        }
        write_json_atomic(self.path / "floor.json", document)
        return floor

    def hold_floor(self, clock: Clock) -> None:
        """Save how far the floor has moved in this boot, so that a reboot with a clock in 1970 does not set
        it back.
        """
        floor = self.read_floor()
        if floor is not None and floor.at(clock) - floor.floor_ns > _HOLD_NS:
            self.raise_floor(0, floor.key_ids, clock)

    def reference_ns(self, root: Any, clock: Clock) -> int:
        """The time by which documents are judged: the wall clock, but never below the floor."""
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


class _FleetUpdater(Updater):  # type: ignore[misc]  # python-tuf is untyped here
    """python-tuf's updater with our time and durable files. Nothing of its verification is changed."""

    def __init__(self, trust: TrustFolder, base_url: str, fetcher: BoundedFetcher, clock: Clock) -> None:
        bootstrap = trust.newest_root()
        config = UpdaterConfig(targets_max_length=5_000_000, max_delegations=4)
        super().__init__(
            str(trust.metadata), f"{base_url}/metadata/", fetcher=fetcher, config=config, bootstrap=bootstrap
        )
        self._fleet_trust = trust
        self._fleet_clock = clock
        self._set_time()

    def _load_root(self) -> None:
        super()._load_root()
        self._set_time()  # a rotation may have dropped the floor's signer

    def _set_time(self) -> None:
        reference = self._fleet_trust.reference_ns(self.trusted.root, self._fleet_clock)
        self.trusted.reference_time = as_datetime(reference)

    @property
    def trusted(self) -> Any:
        """The pure state holder that decided."""
        return self._trusted_set

    def _persist_file(self, filename: str, data: bytes) -> None:
        write_atomic(filename, data)


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """A file that a role vouches for."""

    path: str
    length_bytes: int
    sha256: str

    def url(self, base_url: str) -> str:
        """Where it lies: consistent snapshots put the hash before the name."""
        folder, _, name = self.path.rpartition("/")
        return f"{base_url}/targets/{folder}/{self.sha256}.{name}"


class OnlineTrust:
    """One refresh of the chain over the network, in deliver. Saves what it verified; decides nothing about
    models.
    """

    def __init__(self, trust: TrustFolder, base_url: str, fetcher: BoundedFetcher, clock: Clock) -> None:
        self._trust = trust
        self._clock = clock
        self._base_url = base_url.rstrip("/")
        self._fetcher = fetcher
        with our_errors():
            self._updater = _FleetUpdater(trust, self._base_url, fetcher, clock)

    def refresh(self) -> None:
        """Bring root, timestamp, snapshot and targets up to date and raise the floor under time.

        Raises:
            UntrustedError: signature, version, hash or expiry does not hold; nothing of it was saved as
            trusted. RetryLaterError: not reachable, cut or too slow.
        """
        with our_errors():
            self._updater.refresh()
            trusted = self._updater.trusted
            issued = issued_ns(trusted.timestamp)
            judged = max(issued, self._trust.reference_ns(trusted.root, self._clock))
            check_fresh(
                [(name, trusted[name]) for name in ("root", "timestamp", "snapshot", "targets")], judged
            )
            self._trust.raise_floor(issued, tuple(trusted.root.roles["timestamp"].keyids), self._clock)

    def target(self, role: str, name: str) -> TargetInfo | None:
        """What `role` (and only it) says of target `role/name`; None when it lists no such target."""
        path = f"{role}/{name}"
        with our_errors():
            info = self._updater.get_targetinfo(path)
            if info is None:
                return None
            return _only_by(self._updater.trusted, role, path)

    def fetch_index(self, role: str) -> bytes | None:
        """The index target of a role, verified and saved for `SavedTrust`; None while the role has published
        nothing.
        """
        info = self.target(role, INDEX)
        if info is None:
            return None
        saved = self._trust.path / "targets" / f"{role}.{INDEX}"
        if saved.exists() and _matches(saved.read_bytes(), info):
            return saved.read_bytes()
        with our_errors():
            data: bytes = self._fetcher.download_bytes(info.url(self._base_url), info.length_bytes)
        if not _matches(data, info):
            raise UntrustedError(
                f"{info.path} is not the {info.length_bytes} bytes with sha256 {info.sha256}"
            )
        saved.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(saved, data)
        return data


class SavedTrust:
    """The chain as saved, verified again from its bytes without a network: what perceive asks just before a
    swap.
    """

    def __init__(self, trusted: Any, trust: TrustFolder) -> None:
        self._trusted = trusted
        self._trust = trust

    @classmethod
    def load(cls, trust: TrustFolder, clock: Clock, *, fresh: bool = True) -> SavedTrust:
        """Verify root, timestamp, snapshot and targets as they are on disk.

        Args:
            fresh: also refuse what has expired. Going back to an older model needs no fresh word, activating
                one does.

        Raises:
            UntrustedError: a signature, a version or an expiry does not hold.
            RetryLaterError: nothing was saved yet.
        """
        with our_errors():
            trusted = TrustedMetadataSet(trust.newest_root(), EnvelopeType.METADATA)
            reference = trust.reference_ns(trusted.root, clock) if fresh else 0
            trusted.reference_time = as_datetime(reference)
            trusted.update_timestamp(_saved(trust, "timestamp"))
            trusted.update_snapshot(_saved(trust, "snapshot"))
            trusted.update_targets(_saved(trust, "targets"))
        return cls(trusted, trust)

    def index(self, role: str) -> bytes | None:
        """The saved index of a role, its delegation, signature, version and hash checked; None when it has
        none.
        """
        with our_errors():
            if role not in self._trusted:
                self._trusted.update_delegated_targets(_saved(self._trust, role), role, "targets")
            info = _only_by(self._trusted, role, f"{role}/{INDEX}")
        if info is None:
            return None
        data = (self._trust.path / "targets" / f"{role}.{INDEX}").read_bytes()
        if not _matches(data, info):
            raise RetryLaterError(
                f"the saved {info.path} is not the one that the saved role names: refresh first"
            )
        return data

    def target(self, role: str, name: str) -> TargetInfo | None:
        """What the role says of a target; call `index` first."""
        return _only_by(self._trusted, role, f"{role}/{name}")


def issued_ns(timestamp: Any) -> int:
    """When a (verified) timestamp was issued; 0 when it does not say."""
    value = timestamp.unrecognized_fields.get(ISSUED_FIELD)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LAST_S:
        return 0
    return value * 1_000_000_000


def as_datetime(time_ns: int) -> datetime:
    """The same instant, no later than a datetime can say."""
    return _EPOCH + timedelta(seconds=min(max(time_ns, 0) // 1_000_000_000, _LAST_S))


def check_fresh(documents: list[tuple[str, Any]], reference_ns: int) -> None:
    """Raises UntrustedError naming the first document that had expired at `reference_ns`."""
    reference = as_datetime(reference_ns)
    for name, signed in documents:
        if signed.is_expired(reference):
            raise UntrustedError(
                f"{name} expired at {signed.expires:%Y-%m-%dT%H:%M:%SZ}, it is {reference:%Y-%m-%dT%H:%M:%SZ}"
            )


def parse_index(data: bytes, key: str) -> list[object]:
    """The list under `key` of an index document. Raises UntrustedError: a signed index that is none is not
    acted on.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UntrustedError(f"the signed index of {key} is not JSON: {error}") from error
    if (
        not isinstance(document, dict)
        or document.get("format") != 1
        or not isinstance(document.get(key), list)
    ):
        raise UntrustedError(f"the signed index is no format 1 list of {key}")
    rows: list[object] = document[key]
    return rows


def _only_by(trusted: Any, role: str, path: str) -> TargetInfo | None:
    if path in trusted.targets.targets:
        raise UntrustedError(f"{path} is listed by the top-level role; only {role} may vouch for it")
    info = trusted[role].targets.get(path) if role in trusted else None
    if info is None:
        return None
    if set(info.hashes) != {"sha256"}:
        raise UntrustedError(f"{path} is listed with hashes {sorted(info.hashes)}, not sha256 alone")
    return TargetInfo(path, info.length, info.hashes["sha256"])


def _matches(data: bytes, info: TargetInfo) -> bool:
    from modelkit.digest import sha256_hex

    return len(data) == info.length_bytes and sha256_hex(data) == info.sha256


def _saved(trust: TrustFolder, role: str) -> bytes:
    path = trust.metadata / f"{role}.json"
    try:
        return path.read_bytes()
    except OSError as error:
        raise RetryLaterError(f"no saved {role} metadata yet ({error.strerror})") from error


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

"""Verify the fleet's signed metadata, with protection against rollback, freeze and mix-and-match attacks.

python-tuf holds the chain (root, timestamp, snapshot, roles). This adds what it lacks:
- time that no wall clock can set back (the floor, see `edge_agent.models.trust_folder`);
- durable metadata (fsync before rename), so that power loss cannot take rollback protection away;
- role separation: a model only by the role `models`, a plan only by `rollouts`, also against the top-level
targets;
- delegations to the keys that the root names, so that the key of `targets` alone cannot put others in their place;
- `SavedTrust.load`: the same check again without a network, from what is saved, just before a swap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuf.ngclient import Updater, UpdaterConfig

# Why internal? No public class verifies metadata from bytes alone; ngclient's Updater needs a network.
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from edge_agent.models.http import BoundedFetcher
from edge_agent.models.trust_folder import (
    TrustFolder,
    as_datetime,
    check_fresh,
    issued_ns,
    our_errors,
)
from foundation.clock import Clock
from foundation.documents import build, parse_json
from foundation.errors import RetryLaterError, UntrustedError
from foundation.files import write_atomic
from modelkit.digest import sha256_hex
from schemas.downlink import DELEGATIONS_FIELD, INDEX, INDEX_1


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
    """A file that a role has signed."""

    path: str
    length_bytes: int
    sha256: str

    def url(self, base_url: str) -> str:
        """Return where it lies: consistent snapshots put the hash before the name."""
        folder, _, name = self.path.rpartition("/")
        return f"{base_url}/targets/{folder}/{self.sha256}.{name}"


@dataclass(frozen=True, slots=True)
class _Delegations:
    """What the root says of one delegated role: its keys by id, each as TUF writes it, and the least threshold."""

    keys: dict[str, dict[str, Any]]
    threshold: int


class OnlineTrust:
    """One refresh of the chain over the network, in deliver. Saves what it verified; decides nothing about models."""

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
        """Return what `role` (and only it) signed for target `role/name`; None when it lists no such target."""
        path = f"{role}/{name}"
        check_delegation(self._updater.trusted, role)
        with our_errors():
            info = self._updater.get_targetinfo(path)
            if info is None:
                return None
            return _only_by(self._updater.trusted, role, path)

    def fetch_index(self, role: str) -> bytes | None:
        """Return the newest index target of a role, verified and saved for `SavedTrust`; None while there is none."""
        info = self.target(role, INDEX) or self.target(role, INDEX_1)
        if info is None:
            return None
        saved = self._trust.saved_index(info.path)
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
    """The chain as saved, verified again from its bytes without a network: what perceive asks just before a swap."""

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
        """Return the saved index of a role, its delegation, signature, version and hash checked; None when it has none."""
        check_delegation(self._trusted, role)
        with our_errors():
            if role not in self._trusted:
                self._trusted.update_delegated_targets(_saved(self._trust, role), role, "targets")
            info = _only_by(self._trusted, role, f"{role}/{INDEX}")
            info = info or _only_by(self._trusted, role, f"{role}/{INDEX_1}")
        if info is None:
            return None
        try:
            data = self._trust.saved_index(info.path).read_bytes()
        except OSError as error:
            raise RetryLaterError(
                f"{info.path} is not saved yet ({error.strerror}): refresh first"
            ) from error
        if not _matches(data, info):
            raise RetryLaterError(
                f"the saved {info.path} is not the one that the saved role names: refresh first"
            )
        return data

    def target(self, role: str, name: str) -> TargetInfo | None:
        """Return what the role signed for a target; call `index` first."""
        return _only_by(self._trusted, role, f"{role}/{name}")


def parse_index(data: bytes, key: str) -> list[object]:
    """Return the list under `key` of an index document. Raises UntrustedError for anything else."""
    document = parse_json(data, f"the signed index of {key}", family=UntrustedError)
    if (
        not isinstance(document, dict)
        or document.get("format") not in (1, 2)
        or not isinstance(document.get(key), list)
    ):
        raise UntrustedError(f"the signed index is no format 1 or 2 list of {key}")
    rows: list[object] = document[key]
    return rows


def check_delegation(trusted: Any, role: str) -> None:
    """Check that `targets` delegates the role to keys that the root names for it, with no lower threshold.

    Raises:
        UntrustedError: it does not. A root of an earlier release names none and leaves it to `targets`.
    """
    named = trusted.root.unrecognized_fields.get(DELEGATIONS_FIELD)
    if named is None:
        return
    try:
        wanted = build(_Delegations, named[role], f"delegation of {role} in the root", family=UntrustedError)
    except (KeyError, TypeError) as error:
        raise UntrustedError(f"the root names no keys for the role {role}") from error
    delegations = trusted.targets.delegations
    delegation = (delegations.roles or {}).get(role) if delegations is not None else None
    if delegation is None:
        raise UntrustedError(f"the role targets does not delegate {role}")
    found = {key_id: delegations.keys[key_id].to_dict() for key_id in delegation.keyids}
    if delegation.threshold < wanted.threshold or any(
        wanted.keys.get(key_id) != key for key_id, key in found.items()
    ):
        raise UntrustedError(
            f"the role targets delegates {role} to {delegation.threshold} of the keys {sorted(found)}; the root names "
            f"{wanted.threshold} of {sorted(wanted.keys)}"
        )


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
    return len(data) == info.length_bytes and sha256_hex(data) == info.sha256


def _saved(trust: TrustFolder, role: str) -> bytes:
    path = trust.metadata / f"{role}.json"
    try:
        return path.read_bytes()
    except OSError as error:
        raise RetryLaterError(f"no saved {role} metadata yet ({error.strerror})") from error

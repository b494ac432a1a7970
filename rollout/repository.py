"""Write the TUF repository that vehicles read, so that clients can use it after a crash at any step.

The layout under `tuf_path` can be served by any static web server, object store or CDN:

    metadata/<N>.root.json  <N>.targets.json  <N>.models.json  <N>.rollouts.json  <N>.snapshot.json
    timestamp.json
    targets/models/<sha256>.<name>   targets/rollouts/<sha256>.<name>

Only what `timestamp.json` refers to is published. A publication writes target files, then the role, then the snapshot,
then the timestamp, each atomically: before the last rename clients see the complete old state, after it the complete new
one. A lock beside the files admits one writer at a time. The roles `models` (paths `models/*`) and `rollouts` (paths
`rollouts/*`) are delegated to keys of their own. `*` does not match a slash, so names are flat.

The timestamp carries its time of issue in an additional signed field, which vehicles use as their trust floor. Source:
TUF specification 1.0.34, sections 3 to 6.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from foundation.clock import Clock, SystemClock
from foundation.errors import MisconfiguredError, RejectedError
from foundation.files import FileLock
from foundation.settings import setting
from rollout.keys import DELEGATED_ROLES, ONLINE_ROLES, ROOT, KeyStore
from rollout.metadata_files import MetadataFiles
from schemas.downlink import DELEGATIONS_FIELD, INDEX, INDEX_1, ISSUED_FIELD

TOP_LEVEL = ("root", "timestamp", "snapshot", "targets")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")
_DAY_S = 86_400

OnStep = Callable[[str], None]
"""Called after each step of a publication is on disk; tests kill the writer there."""


@dataclass(frozen=True, slots=True)
class RepositorySettings:
    """How long documents of each role are valid. Without a newer one, vehicles stop activating after the shortest time."""

    root_expiry_s: int = setting(default=730 * _DAY_S, min=60, help="life of a root document")
    targets_expiry_s: int = setting(default=365 * _DAY_S, min=60, help="life of targets, models and rollouts")
    snapshot_expiry_s: int = setting(default=30 * _DAY_S, min=60, help="life of a snapshot")
    timestamp_expiry_s: int = setting(
        default=7 * _DAY_S, min=1, help="life of a timestamp: freeze protection"
    )
    lock_wait_s: float = setting(default=10.0, min=0.0, help="how long a second writer waits")


def init_repository(
    tuf_path: Path,
    keys_path: Path,
    *,
    threshold: int = 1,
    root_keys: int | None = None,
    settings: RepositorySettings | None = None,
    clock: Clock | None = None,
    passphrase: str | None = None,
) -> Repository:
    """Create the keys and the first, empty state of a repository. A second call on the same folder is refused.

    Args:
        threshold: how many of the offline root keys must sign a root document.
        root_keys: how many offline root keys to create; by default `threshold`.

    Raises:
        MisconfiguredError: the repository exists already, or `root_keys` is below the threshold.
    """
    settings = settings or RepositorySettings()
    count = threshold if root_keys is None else root_keys
    _check_threshold(threshold, count)
    repository = Repository(tuf_path, keys_path, settings=settings, clock=clock, passphrase=passphrase)
    with repository.lock():
        if MetadataFiles(tuf_path).exists():
            raise MisconfiguredError(f"{tuf_path} already holds a repository, which is never overwritten")
        repository.bootstrap(threshold, count)
    return repository


class Repository:
    """The repository at `tuf_path` for one writer, which signs with the keys under `keys_path`."""

    def __init__(
        self,
        tuf_path: Path,
        keys_path: Path,
        *,
        settings: RepositorySettings | None = None,
        clock: Clock | None = None,
        passphrase: str | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.path = tuf_path
        self._files = MetadataFiles(tuf_path)
        self.keys = KeyStore(keys_path, passphrase)
        self._settings = settings or RepositorySettings()
        self._clock: Clock = clock or SystemClock()
        self._on_step: OnStep = on_step or (lambda _step: None)

    def lock(self) -> FileLock:
        """Return the lock of the one writer, across processes."""
        self.path.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / ".writer.lock", wait_s=self._settings.lock_wait_s, clock=self._clock)

    # Reading: only what the timestamp names.

    def root_bytes(self, version: int | None = None) -> bytes:
        """See `MetadataFiles.root_bytes`."""
        return self._files.root_bytes(version)

    def read_target(self, role: str, name: str) -> bytes | None:
        """See `MetadataFiles.read_target`."""
        return self._files.read_target(role, name)

    def read_index(self, role: str) -> bytes | None:
        """Return the newest list of a delegated role; None if it has published nothing."""
        newest = self.read_target(role, INDEX)
        return newest if newest is not None else self.read_target(role, INDEX_1)

    def load(self, role: str) -> Any:
        """See `MetadataFiles.load`."""
        return self._files.load(role)

    # Writing.

    def bootstrap(self, threshold: int, root_keys: int) -> None:
        """Create keys and first documents; the caller holds the lock. After an interruption it can be called again."""
        for role, count in ((ROOT, root_keys), *((role, 1) for role in ONLINE_ROLES)):
            for _ in range(count - len(self.keys.signers(role))):
                self.keys.create(role)
        root = Root(version=1, consistent_snapshot=True, expires=self._expiry(ROOT))
        root.roles[ROOT].threshold = threshold
        for role in TOP_LEVEL:
            for signer in self.keys.signers(role):
                root.add_key(signer.public_key, role)
        targets = Targets(version=1, expires=self._expiry("targets"))
        targets.delegations = Delegations(keys={}, roles={})
        snapshot = Snapshot(version=1, expires=self._expiry("snapshot"), meta={})
        snapshot.unrecognized_fields[ISSUED_FIELD] = self._issued_s()
        for role in DELEGATED_ROLES:
            delegation = DelegatedRole(role, [], 1, terminating=True, paths=[f"{role}/*"])
            targets.delegations.roles[role] = delegation
            for signer in self.keys.signers(role):
                targets.add_key(signer.public_key, role)
            self._write_role(role, Targets(version=1, expires=self._expiry(role)), snapshot, role)
        self._write_role("targets", targets, snapshot, "targets")
        root.unrecognized_fields[DELEGATIONS_FIELD] = _pins(targets.delegations)
        self._write_root(root, self.keys.signers(ROOT))
        self._files.write_signed("1.snapshot", snapshot, self.keys.signers("snapshot"))
        timestamp = Timestamp(version=1, expires=self._expiry("timestamp"))
        self._write_timestamp(timestamp, 1, self.keys.signers("timestamp"))

    def publish(self, role: str, add: Mapping[str, bytes | Path], *, signing_role: str | None = None) -> int:
        """Publish the targets `role/<name>` and return the new version of the role; see `transact`."""
        return self.transact(role, lambda: add, signing_role=signing_role)

    def transact(
        self, role: str, build: Callable[[], Mapping[str, bytes | Path]], *, signing_role: str | None = None
    ) -> int:
        """Run a read-modify-publish cycle under the writer's lock and return the version of the role.

        `build` is called with the lock held and returns new targets by name, each as bytes or as a file to copy; if empty,
        nothing is published.

        Args:
            signing_role: the role whose key signs; the role itself, except to demonstrate the attack "a key of the wrong
                role". Clients refuse such a publication.

        Raises:
            RejectedError: `role` is not a delegated role, or a name is not flat (reason invalid_value).
            RetryLaterError: another writer holds the repository.
        """
        if role not in DELEGATED_ROLES:
            raise RejectedError(f"role {role!r} is not one of {DELEGATED_ROLES}", reason="invalid_value")
        with self.lock():
            published = self.load(role).signed
            snapshot = self.load("snapshot").signed
            added = build()
            if not added:
                return int(published.version)
            for name, data in added.items():
                if not _NAME.match(name):
                    raise RejectedError(
                        f"target name is {name!r}; it must match {_NAME.pattern}", reason="invalid_value"
                    )
                path = f"{role}/{name}"
                if isinstance(data, Path):
                    info = TargetFile.from_file(path, str(data), ["sha256"])
                else:
                    info = TargetFile.from_data(path, data, ["sha256"])
                self._files.write_target(role, info.hashes["sha256"], name, data)
                published.targets[info.path] = info
            self._on_step("targets")
            published.version = snapshot.meta[f"{role}.json"].version + 1
            published.expires = self._expiry(role)
            self._write_role(role, published, snapshot, signing_role or role)
            self._on_step("role")
            self._publish_snapshot(snapshot)
            return int(published.version)

    def refresh(self) -> list[str]:
        """Sign a new timestamp, and sign again every document past half of its validity; return the signed roles.

        Run it more often than every `timestamp_expiry_s`, by a timer or by any publication.
        """
        with self.lock():
            snapshot = self.load("snapshot").signed
            signed = ["timestamp"]
            for role in (*DELEGATED_ROLES, "targets"):
                document = self.load(role).signed
                published_version = snapshot.meta[f"{role}.json"].version
                if self._is_past_half(role, document) or document.version != published_version:
                    document.version = published_version + 1
                    document.expires = self._expiry(role)
                    self._write_role(role, document, snapshot, role)
                    signed.append(role)
            if len(signed) > 1 or self._is_past_half("snapshot", snapshot):
                signed.append("snapshot")
                self._publish_snapshot(snapshot)
            else:
                self._publish_timestamp(snapshot.version)
            return signed

    def rotate_root(self, *, threshold: int | None = None, root_keys: int | None = None) -> int:
        """Replace the offline root keys and return the version of the new root, signed by old and new keys.

        Both arguments are what they were by default. The old key files stay and are no longer trusted: archive or
        destroy them.

        Raises:
            MisconfiguredError: fewer old keys are here than their threshold, or `root_keys` is below the threshold.
        """
        with self.lock():
            root = self.load(ROOT).signed
            threshold = root.roles[ROOT].threshold if threshold is None else threshold
            root_keys = len(root.roles[ROOT].keyids) if root_keys is None else root_keys
            _check_threshold(threshold, root_keys)
            old = self.keys.trusted_signers(ROOT, root.roles[ROOT].keyids, root.roles[ROOT].threshold)
            new = [self.keys.create(ROOT) for _ in range(root_keys)]
            for signer in old:
                root.revoke_key(signer.public_key.keyid, ROOT)
            for key_id in list(root.roles[ROOT].keyids):
                root.revoke_key(key_id, ROOT)
            for signer in new:
                root.add_key(signer.public_key, ROOT)
            root.roles[ROOT].threshold = threshold
            return self._next_root(root, [*old, *new])

    def rotate_key(self, role: str) -> str:
        """Give an online role a new key without interruption for clients, and return the new key's id.

        A root that trusts both keys, documents signed by both, then a root that trusts only the new key. For a delegated
        role the root names the keys that may be delegated to; its delegation and its document change in one publication.
        """
        if role not in ONLINE_ROLES:
            raise RejectedError(f"role {role!r} is not one of {ONLINE_ROLES}", reason="invalid_value")
        with self.lock():
            new = self.keys.create(role).public_key
            if role in DELEGATED_ROLES:
                document = self.load(role).signed
                targets = self.load("targets").signed
                root, before = self.load(ROOT).signed, _pins(targets.delegations)
                for key_id in list(targets.delegations.roles[role].keyids):
                    targets.revoke_key(key_id, role)
                targets.add_key(new, role)
                after = _pins(targets.delegations)
                self._next_root(root, self._root_signers(root), _both(before, after))
                self._on_step("root-both")
                self._republish([("targets", targets), (role, document)], targets)
                self._on_step("republished")
                self._next_root(root, self._root_signers(root), after)
                return str(new.keyid)
            root = self.load(ROOT).signed
            old_ids = list(root.roles[role].keyids)
            root.add_key(new, role)
            self._next_root(root, self._root_signers(root))
            self._on_step("root-both")
            self._republish([("targets", self.load("targets").signed)] if role == "targets" else [])
            self._on_step("republished")
            for key_id in old_ids:
                root.revoke_key(key_id, role)
            self._next_root(root, self._root_signers(root))
            if role != "targets":
                self._republish([])
            return str(new.keyid)

    # Parts of a publication; the lock is held.

    def _republish(self, documents: list[tuple[str, Any]], delegator: Any = None) -> None:
        snapshot = self.load("snapshot").signed
        for role, document in documents:
            document.version = snapshot.meta[f"{role}.json"].version + 1
            self._write_role(role, document, snapshot, role, delegator)
        self._publish_snapshot(snapshot)

    def _publish_snapshot(self, snapshot: Any) -> None:
        snapshot.version = self.load("timestamp").signed.snapshot_meta.version + 1
        snapshot.expires = self._expiry("snapshot")
        snapshot.unrecognized_fields[ISSUED_FIELD] = self._issued_s()
        self._files.write_signed(f"{snapshot.version}.snapshot", snapshot, self._online_signers("snapshot"))
        self._on_step("snapshot")
        self._publish_timestamp(snapshot.version)

    def _publish_timestamp(self, snapshot_version: int) -> None:
        timestamp = self.load("timestamp").signed
        timestamp.version += 1
        timestamp.expires = self._expiry("timestamp")
        self._write_timestamp(timestamp, snapshot_version, self._online_signers("timestamp"))
        self._on_step("timestamp")

    def _write_timestamp(self, timestamp: Any, snapshot_version: int, signers: list[Any]) -> None:
        data = self._files.metadata_path(f"{snapshot_version}.snapshot").read_bytes()
        timestamp.snapshot_meta = MetaFile.from_data(snapshot_version, data, ["sha256"])
        timestamp.unrecognized_fields[ISSUED_FIELD] = self._issued_s()
        self._files.write_signed("timestamp", timestamp, signers)

    def _write_role(
        self, role: str, document: Any, snapshot: Any, signing_role: str, delegator: Any = None
    ) -> None:
        signers = self._signers_of(signing_role, delegator)
        data = self._files.write_signed(f"{document.version}.{role}", document, signers)
        snapshot.meta[f"{role}.json"] = MetaFile.from_data(document.version, data, ["sha256"])

    def _signers_of(self, role: str, delegator: Any = None) -> list[Any]:
        if not self._files.exists():
            return self.keys.signers(role)
        if role in DELEGATED_ROLES:
            delegation = (delegator or self.load("targets").signed).delegations.roles[role]
            return self.keys.trusted_signers(role, delegation.keyids, delegation.threshold)
        return self._online_signers(role)

    def _online_signers(self, role: str) -> list[Any]:
        trusted = self.load(ROOT).signed.roles[role]
        return self.keys.trusted_signers(role, trusted.keyids, trusted.threshold)

    def _root_signers(self, root: Any) -> list[Any]:
        return self.keys.trusted_signers(ROOT, root.roles[ROOT].keyids, root.roles[ROOT].threshold)

    def _next_root(self, root: Any, signers: list[Any], pins: Mapping[str, Any] | None = None) -> int:
        """Write the next root. What it says of delegations stays without `pins`; one that says nothing gets today's."""
        if pins is None and DELEGATIONS_FIELD not in root.unrecognized_fields:
            pins = _pins(self.load("targets").signed.delegations)
        if pins is not None:
            root.unrecognized_fields[DELEGATIONS_FIELD] = pins
        root.version = self._files.newest_root_version() + 1
        root.expires = self._expiry(ROOT)
        self._write_root(root, signers)
        return int(root.version)

    def _write_root(self, root: Any, signers: list[Any]) -> None:
        self._files.write_signed(f"{root.version}.root", root, signers)

    def _is_past_half(self, role: str, document: Any) -> bool:
        left_s = (document.expires - self._now()).total_seconds()
        return bool(left_s < self._life_s(role) / 2)

    def _expiry(self, role: str) -> datetime:
        return (self._now() + timedelta(seconds=self._life_s(role))).replace(microsecond=0)

    def _life_s(self, role: str) -> int:
        name = role if role in ("root", "snapshot", "timestamp") else "targets"
        return int(getattr(self._settings, f"{name}_expiry_s"))

    def _issued_s(self) -> int:
        return self._clock.now_ns() // 1_000_000_000

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC)


def _check_threshold(threshold: int, count: int) -> None:
    if not 1 <= threshold <= count <= 16:
        raise MisconfiguredError(
            f"root threshold is {threshold} of {count} keys; it must hold 1 <= threshold <= keys <= 16"
        )


def _pins(delegations: Any) -> dict[str, Any]:
    """Return the keys and the threshold of each delegated role, as the root names them."""
    return {
        role: {
            "keys": {key_id: delegations.keys[key_id].to_dict() for key_id in delegations.roles[role].keyids},
            "threshold": delegations.roles[role].threshold,
        }
        for role in DELEGATED_ROLES
    }


def _both(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {
        role: {
            "keys": {**before[role]["keys"], **after[role]["keys"]},
            "threshold": min(before[role]["threshold"], after[role]["threshold"]),
        }
        for role in before
    }

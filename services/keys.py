"""The keys that sign releases and rollouts: list them, rotate the key of a role, renew signatures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rollout.keys import DELEGATED_ROLES
from rollout.repository import Repository
from workspace.layout import Workspace


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One private key file on this machine. Trusted: the published metadata names it. Holds no private part."""

    role: str
    key_id: str
    is_trusted: bool
    is_encrypted: bool
    mode: str
    """Permissions of the file in octal, such as 0600."""
    path: Path


@dataclass(frozen=True, slots=True)
class Rotated:
    """The new key of a role, or for the root the new version of the root metadata."""

    role: str
    key_id: str = ""
    root_version: int | None = None


def open_repository(place: Workspace) -> Repository:
    """Open the signed repository of a workspace, with the keys that sign it."""
    return Repository(place.tuf_path, place.keys_path)


def list_keys(place: Workspace) -> tuple[KeyStatus, ...]:
    """Return every private key on this machine, and whether the repository trusts it."""
    repository = open_repository(place)
    root = repository.load("root").signed
    delegations = repository.load("targets").signed.delegations.roles
    found = []
    for key in repository.keys.list():
        trusted = delegations[key.role] if key.role in DELEGATED_ROLES else root.roles[key.role]
        is_trusted = key.key_id in trusted.keyids
        found.append(
            KeyStatus(key.role, key.key_id, is_trusted, key.is_encrypted, f"{key.mode:04o}", key.path)
        )
    return tuple(found)


def rotate_key(place: Workspace, role: str) -> Rotated:
    """Replace the key of root, targets, snapshot, timestamp, models or rollouts; vehicles follow at their next check."""
    repository = open_repository(place)
    if role == "root":
        return Rotated(role, root_version=repository.rotate_root())
    return Rotated(role, key_id=repository.rotate_key(role))


def refresh(place: Workspace) -> tuple[str, ...]:
    """Sign a new timestamp, and every document past half of its validity. Returns the roles that were signed."""
    return tuple(open_repository(place).refresh())

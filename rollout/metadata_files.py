"""The files of a TUF repository on disk: read published documents, and write signed documents one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from foundation.errors import MisconfiguredError, RetryLaterError, UntrustedError
from foundation.files import copy_atomic, write_atomic
from rollout.keys import DELEGATED_ROLES, ROOT


class MetadataFiles:
    """`metadata/` and `targets/` under `path`. Only what `timestamp.json` refers to, directly or not, is published."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Return whether anything was published here."""
        return self.metadata_path("timestamp").exists()

    def metadata_path(self, name: str) -> Path:
        """Return the path of a document, for example `3.models` or `timestamp`."""
        return self.path / "metadata" / f"{name}.json"

    def target_path(self, role: str, sha256: str, name: str) -> Path:
        """Return the path of the target `role/name`, with the hash in its name (consistent snapshots)."""
        return self.path / "targets" / role / f"{sha256}.{name}"

    def newest_root_version(self) -> int:
        """Return the newest version of the root document, or 0."""
        versions = [int(path.name.split(".")[0]) for path in (self.path / "metadata").glob("*.root.json")]
        return max(versions, default=0)

    def root_bytes(self, version: int | None = None) -> bytes:
        """Return the root document of `version`, by default the newest, which an enrolment installs.

        Raises:
            MisconfiguredError: there is no repository here, or no such version.
        """
        number = self.newest_root_version() if version is None else version
        path = self.metadata_path(f"{number}.root")
        if not path.exists():
            raise MisconfiguredError(f"no root version {number} in {self.path}: run `fleetloop init` first")
        return path.read_bytes()

    def load(self, role: str) -> Any:
        """Return the published metadata of `role`, as given by the timestamp and the snapshot."""
        if role == ROOT:
            return Metadata.from_bytes(self.root_bytes())
        path = self.metadata_path("timestamp")
        if not path.exists():
            raise MisconfiguredError(f"no repository in {self.path}: run `fleetloop init` first")
        timestamp = Metadata.from_bytes(path.read_bytes())
        if role == "timestamp":
            return timestamp
        snapshot = self._document("snapshot", timestamp.signed.snapshot_meta.version)
        if role == "snapshot":
            return snapshot
        version = snapshot.signed.meta[f"{role}.json"].version
        if role in DELEGATED_ROLES:
            return self._newest_trusted(role, version)
        return self._document(role, version)

    def read_target(self, role: str, name: str) -> bytes | None:
        """Return the published bytes of target `role/name`, or None if the role lists no such target."""
        info = self.load(role).signed.targets.get(f"{role}/{name}")
        if info is None:
            return None
        data = self.target_path(role, info.hashes["sha256"], name).read_bytes()
        info.verify_length_and_hashes(data)
        return data

    def write_target(self, role: str, sha256: str, name: str, data: bytes | Path) -> None:
        """Write a target, from bytes or by copying a file; clients see it once a published document refers to it.

        Raises:
            RetryLaterError: the file changed while it was copied.
        """
        path = self.target_path(role, sha256, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            write_atomic(path, data)
        elif not path.exists():  # a file of an earlier release too
            found = copy_atomic(data, path)
            if found != sha256:
                path.unlink()
                raise RetryLaterError(
                    f"{data} changed while it was published: sha256 {found}, before {sha256}"
                )

    def write_signed(self, name: str, document: Any, signers: list[Any]) -> bytes:
        """Sign a document with every signer, write it and return its bytes."""
        metadata = Metadata(document)
        for signer in signers:
            metadata.sign(signer, append=True)
        data: bytes = metadata.to_bytes()
        path = self.metadata_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        return data

    def _document(self, role: str, version: int) -> Any:
        return Metadata.from_bytes(self.metadata_path(f"{version}.{role}").read_bytes())

    def _newest_trusted(self, role: str, version: int) -> Any:
        """Return the newest document of a delegated role whose signatures its delegation accepts.

        A document that was signed with the key of a wrong role is skipped, so that the next publication does not sign its
        content.
        """
        delegator = self.load("targets").signed
        for number in range(version, 0, -1):
            metadata = self._document(role, number)
            try:
                delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            except UnsignedMetadataError:
                continue
            return metadata
        raise UntrustedError(f"no document of role {role} in {self.path} is signed by its key")

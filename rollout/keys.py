"""The private keys of the repository's roles, one file per key, readable by its owner only.

Layout: `offline/root-<id>.pem` (to be kept off the machine between uses) and `online/<role>-<id>.pem`, where `<id>` is the
first eight characters of the TUF key id. Keys are Ed25519 in PKCS #8 with mode 0600, encrypted if a passphrase is given
in the environment (`FLEETLOOP_KEYS_PASSPHRASE`). A key is never overwritten.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from foundation.errors import MisconfiguredError
from foundation.files import write_atomic
from foundation.private import make_private

PASSPHRASE_VARIABLE = "FLEETLOOP_KEYS_PASSPHRASE"  # noqa: S105 - the name, not the value
ROOT = "root"
ONLINE_ROLES = ("targets", "snapshot", "timestamp", "models", "rollouts")
DELEGATED_ROLES = ("models", "rollouts")


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key on disk: its role, its path and its protection."""

    role: str
    key_id: str
    path: Path
    mode: int
    is_encrypted: bool


class KeyStore:
    """The private keys of a repository, as files under `keys_path`."""

    def __init__(self, keys_path: Path, passphrase: str | None = None) -> None:
        self._path = keys_path
        given = passphrase if passphrase is not None else os.environ.get(PASSPHRASE_VARIABLE, "")
        self._passphrase = given.encode() or None

    def folder(self, role: str) -> Path:
        """Return the folder of the keys of `role`; root keys are apart from those for daily use."""
        return self._path / ("offline" if role == ROOT else "online")

    def create(self, role: str) -> Any:
        """Create an Ed25519 key for `role`, write it to disk, and return its signer."""
        private = Ed25519PrivateKey.generate()
        signer = CryptoSigner(private)
        encryption: KeySerializationEncryption = NoEncryption()
        if self._passphrase is not None:
            encryption = BestAvailableEncryption(self._passphrase)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        folder = self.folder(role)
        for each in (self._path, folder):
            make_private(each)
        write_atomic(folder / f"{role}-{signer.public_key.keyid[:8]}.pem", pem, mode=0o600)
        return signer

    def signers(self, role: str) -> list[Any]:
        """Return the signers of all present keys of `role`, ordered by file name.

        Raises:
            MisconfiguredError: a key is readable by others, damaged, or its passphrase is missing or wrong.
        """
        return [self._load(path) for path in sorted(self.folder(role).glob(f"{role}-*.pem"))]

    def trusted_signers(self, role: str, key_ids: list[str], threshold: int) -> list[Any]:
        """Return the signers of `role` whose keys are among `key_ids`.

        Raises:
            MisconfiguredError: fewer than `threshold` of them are present (for example, an offline key is not mounted).
        """
        found = [signer for signer in self.signers(role) if signer.public_key.keyid in key_ids]
        if len(found) < threshold:
            raise MisconfiguredError(
                f"role {role} needs {threshold} signature(s); "
                f"{self.folder(role)} holds {len(found)} of its trusted keys"
            )
        return found

    def list(self) -> list[KeyFile]:
        """Return the key files without their private parts. Encrypted keys are loaded to determine their id."""
        files = []
        for role in (ROOT, *ONLINE_ROLES):
            for path in sorted(self.folder(role).glob(f"{role}-*.pem")):
                signer = self._load(path)
                mode = stat.S_IMODE(path.stat().st_mode)
                encrypted = b"ENCRYPTED" in path.read_bytes()[:64]
                files.append(KeyFile(role, signer.public_key.keyid, path, mode, encrypted))
        return files

    def _load(self, path: Path) -> Any:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise MisconfiguredError(
                f"private key {path} has mode {mode:04o}; it must be 0600: run chmod 600 on it"
            )
        try:
            private = load_pem_private_key(path.read_bytes(), self._passphrase_for(path))
        except (ValueError, TypeError) as error:
            hint = f"set {PASSPHRASE_VARIABLE}" if self._passphrase is None else "is the passphrase right?"
            raise MisconfiguredError(f"private key {path} cannot be loaded ({error}); {hint}") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise MisconfiguredError(f"private key {path} is not an Ed25519 key")
        return CryptoSigner(private)

    def _passphrase_for(self, path: Path) -> bytes | None:
        """Return the passphrase for an encrypted file only, because cryptography refuses one for a plain file."""
        return self._passphrase if b"ENCRYPTED" in path.read_bytes()[:64] else None

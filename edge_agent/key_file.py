"""The vehicle's private key as a file: PEM PKCS8 that only its owner may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from foundation.errors import MisconfiguredError, UntrustedError
from foundation.files import write_atomic
from schemas.signing import VehicleKey


def load_key(path: Path | str) -> VehicleKey:
    """Return the key that `save_key` wrote.

    Raises:
        MisconfiguredError: no such file, or it is not an Ed25519 key in PEM PKCS8.
        UntrustedError: group or others may read or write the file.
    """
    try:
        mode = stat.S_IMODE(Path(path).stat().st_mode)
        data = Path(path).read_bytes()
    except OSError as error:
        raise MisconfiguredError(f"cannot read the key {path}: {error.strerror}") from error
    if mode & 0o077:
        raise UntrustedError(f"the key {path} has mode {mode:04o}; only its owner may use it (0600)")
    return VehicleKey.from_pem(data, str(path))


def save_key(key: VehicleKey, path: Path | str) -> None:
    """Write PEM PKCS8 atomically with mode 0600. Never overwrites another key.

    Raises:
        MisconfiguredError: there is a file already.
    """
    if os.path.lexists(path):
        raise MisconfiguredError(f"{path} exists; a key is never overwritten")
    write_atomic(path, key.to_pem(), mode=0o600)

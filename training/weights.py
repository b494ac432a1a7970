"""Store weights on disk: an .npz of plain arrays, never a pickle, with a digest over names, types and bytes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foundation.errors import CorruptError

MAX_WEIGHTS_BYTES: Final = 1_000_000_000


def weights_digest(weights: Mapping[str, NDArray[Any]]) -> str:
    """Return the digest of the weights, independent of file and order."""
    found = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        found.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def pack_weights(weights: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the .npz file of these weights; equal weights give equal bytes."""
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **{name: weights[name] for name in sorted(weights)})
    return out.getvalue()


def load_weights(
    path: Path, expected_digest: str, max_bytes: int = MAX_WEIGHTS_BYTES
) -> dict[str, NDArray[Any]]:
    """Read the weights, which must have `expected_digest`.

    Raises:
        CorruptError: missing, damaged, larger than `max_bytes` unpacked, holding an object, or of another digest.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
        if unpacked_bytes > max_bytes:
            raise CorruptError(f"unpacks to {unpacked_bytes} bytes, must be at most {max_bytes}", path=path)
        with np.load(path, allow_pickle=False) as archive:
            weights = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise CorruptError(f"cannot be read as weights: {error}", path=path) from error
    digest = weights_digest(weights)
    if digest != expected_digest:
        raise CorruptError(f"weights have digest {digest}, expected {expected_digest}", path=path)
    return weights

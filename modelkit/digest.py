"""Compute digests, always as lower-case hex SHA-256: 64 characters, no prefix."""

from __future__ import annotations

import hashlib
import json


def sha256_hex(data: bytes) -> str:
    """Return the digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def digest_of_json(document: object) -> str:
    """Return the digest of a JSON document, independent of key order and spacing (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256_hex(text.encode("utf-8"))

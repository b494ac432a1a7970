"""A content-addressed store for payloads that are too large for a record; every read is verified by SHA-256."""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import fsspec

from foundation.errors import MisconfiguredError, RejectedError, RetryLaterError

_SHA256: Final = re.compile(r"^[0-9a-f]{64}$")
MAX_BLOB_BYTES: Final = 64_000_000


@dataclass(frozen=True, slots=True)
class BlobRef:
    """The address of a payload, with its expected SHA-256 (lower-case hex) and size."""

    uri: str
    sha256: str
    size_bytes: int


class BlobStore:
    """Blobs under one root URI (file:, memory:, s3: ...). Nothing outside that root is ever read.

    It is opened on first use, because a workspace whose payloads are all inline needs none. Each method raises
    MisconfiguredError if no file system is installed for the URI.
    """

    def __init__(self, root_uri: str, *, max_blob_bytes: int = MAX_BLOB_BYTES) -> None:
        self._root_uri = root_uri
        self._max_blob_bytes = max_blob_bytes

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(self._root_uri)
        except (ValueError, ImportError) as error:
            raise MisconfiguredError(f"cannot open the blob store {self._root_uri!r}: {error}") from error
        return found

    @property
    def _files(self) -> Any:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    def put_verified(self, payload: bytes) -> BlobRef:
        """Store a payload under a temporary name, read it back, then rename it. Equal payloads share one blob.

        Raises:
            RejectedError: the payload is larger than the limit (reason oversize).
            RetryLaterError: the store failed, or returned other bytes.
        """
        if len(payload) > self._max_blob_bytes:
            raise RejectedError(
                f"a blob of {len(payload)} bytes is above the limit of {self._max_blob_bytes} bytes",
                reason="oversize",
            )
        sha256 = hashlib.sha256(payload).hexdigest()
        path = self._path(sha256)
        ref = BlobRef(self._files.unstrip_protocol(path), sha256, len(payload))
        partial = f"{path}.{uuid.uuid4().hex}.partial"
        try:
            if self._holds(path, payload):
                return ref
            self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._files.pipe_file(partial, payload)
            if self._files.cat_file(partial) != payload:
                self._files.rm_file(partial)
                raise RetryLaterError(f"the blob store returned other bytes for {partial}")
            self._files.mv(partial, path)
        except OSError as error:
            raise RetryLaterError(f"cannot store {path}: {error}") from error
        return ref

    def get_verified(self, ref: BlobRef) -> bytes:
        """Return the payload of `ref`, verified.

        Raises:
            RejectedError: reason payload_hash_mismatch (other size or bytes), payload_missing, or foreign_uri
                (outside this store, or not the address of its hash).
            RetryLaterError: the store failed.
        """
        self.check_address(ref.uri, ref.sha256)
        path = self._path(ref.sha256)
        try:
            size_bytes = int(self._files.size(path))
            bound_bytes = min(ref.size_bytes, self._max_blob_bytes)
            if size_bytes != ref.size_bytes or size_bytes > bound_bytes:
                raise RejectedError(
                    f"{ref.uri} has {size_bytes} bytes; it must have {ref.size_bytes} (limit {self._max_blob_bytes})",
                    reason="payload_hash_mismatch",
                )
            payload = bytes(self._files.cat_file(path))
        except FileNotFoundError as error:
            raise RejectedError(f"there is no blob at {ref.uri}", reason="payload_missing") from error
        except OSError as error:
            raise RetryLaterError(f"cannot read {ref.uri}: {error}") from error
        found = hashlib.sha256(payload).hexdigest()
        if found != ref.sha256:
            raise RejectedError(
                f"{ref.uri} has the sha256 {found}; it must be {ref.sha256}", reason="payload_hash_mismatch"
            )
        return payload

    def check_address(self, uri: str, sha256: str) -> None:
        """Check that `uri` is the address at which this store keeps the payload of `sha256`, without reading it.

        Raises RejectedError (reason foreign_uri) for another scheme, another store or a path outside of it.
        """
        if not _SHA256.match(sha256) or uri != self._files.unstrip_protocol(self._path(sha256)):
            raise RejectedError(
                f"{uri[:200]!r} is not the address at which {self._root} keeps the payload {sha256[:64]!r}",
                reason="foreign_uri",
            )

    def _path(self, sha256: str) -> str:
        return f"{self._root.rstrip('/')}/{sha256[:2]}/{sha256}"

    def _holds(self, path: str, payload: bytes) -> bool:
        try:
            return bool(self._files.cat_file(path) == payload)
        except FileNotFoundError:
            return False

"""Fetch the files of one release, a slice of work per call: download with resume, then hash as a stream.

Each file is staged below the folder of its model until all are here; a file that is not what was signed is removed. Never
holds a file in memory. Decides nothing about trust.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from edge_agent.models.http import StagedDownload
from edge_agent.models.slots import SlotFolder
from edge_agent.models.trust import TargetInfo
from edge_agent.models.trust_folder import our_errors
from foundation.clock import Clock
from foundation.errors import RejectedError, RetryLaterError, UntrustedError
from modelkit.bundle import CHUNK_BYTES, open_own_file
from schemas.bundle import BundleFile, bundle_bytes, bundle_digest

FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """Return the bytes that an unprivileged process may still write on the disk of a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


class BundleFetch:
    """The files of one model. Call `advance` until it is done."""

    def __init__(
        self,
        files: Sequence[tuple[BundleFile, TargetInfo]],
        slots: SlotFolder,
        base_url: str,
        download: StagedDownload,
        clock: Clock,
    ) -> None:
        self.files = tuple(file for file, _info in files)
        self._targets = {file.path: info for file, info in files}
        self._slots = slots
        self._base_url = base_url
        self._download = download
        self._clock = clock
        self._left = list(self.files)
        self._hash: tuple[BundleFile, int, hashlib._Hash] | None = None
        self._got: dict[str, int] = {}

    @property
    def bytes_staged(self) -> int:
        """The bytes staged of all files, as far as this process knows."""
        return sum(self._got.values())

    def is_of(self, files: Sequence[tuple[BundleFile, TargetInfo]]) -> bool:
        """Return whether these are the files that it fetches, from the same signed targets."""
        same = tuple(file for file, _info in files) == self.files
        return same and self._targets == {file.path: info for file, info in files}

    def check_room(self, free: int, spare: int) -> None:
        """Raise RetryLaterError unless the remaining bytes fit on the disk with `spare` bytes left.

        What is staged is removed when the rest would not fit on the disk at all: it only takes the room of others.
        """
        missing = bundle_bytes(self.files) - sum(_size(self.staged(file)) for file in self.files)
        if missing > 0 and missing > free:
            self.drop()
        if missing > 0 and missing + spare > free:
            raise RetryLaterError(
                f"{missing} bytes are to come and {spare} are kept free, the disk has {free}: make room"
            )

    def advance(self, slice_s: float) -> bool:
        """Work for about `slice_s` seconds. Returns whether every file is complete and has its signed hash.

        Raises:
            UntrustedError: a file does not have its signed hash; it was removed.
            RetryLaterError: not reachable, interrupted or too slow; what was received is kept.
        """
        if not self._left:
            return True
        file = self._left[0]
        path = self._own_place(file)
        if self._hash is None:
            url = self._targets[file.path].url(self._base_url)
            with our_errors():
                got = self._download.advance(url, path, file.length_bytes, slice_s)
            self._got[file.path] = got.bytes_total
            if not got.is_complete:
                return False
            self._hash = (file, 0, hashlib.sha256())
        if self._is_right(path, slice_s):
            self._left.pop(0)
        return not self._left

    def staged(self, file: BundleFile) -> Path:
        """Return where a file is staged."""
        return self._slots.staging_path(self.files, file)

    def drop(self) -> None:
        """Remove the staged files, as far as the disk allows."""
        if len(self.files) > 1:
            shutil.rmtree(self._slots.path / "staging" / bundle_digest(self.files), ignore_errors=True)
            return
        with suppress(OSError):
            self.staged(self.files[0]).unlink(missing_ok=True)

    def _own_place(self, file: BundleFile) -> Path:
        """Return the path to write to; anything in place of one of our folders, such as a link, is removed."""
        path, staging = self.staged(file), self._slots.path / "staging"
        for folder in [*reversed(path.parents)]:
            if staging in (folder, *folder.parents) and (folder.is_symlink() or not folder.is_dir()):
                folder.unlink(missing_ok=True)
                folder.mkdir(parents=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        return path

    def _is_right(self, path: Path, slice_s: float) -> bool:
        """Continue hashing. Returns whether the end was reached."""
        assert self._hash is not None  # noqa: S101 - set by the only caller
        file, at, digest = self._hash
        until_ns = self._clock.monotonic_ns() + round(slice_s * 1e9)
        try:
            with open_own_file(path, file.path) as stream:
                stream.seek(at)
                while chunk := stream.read(CHUNK_BYTES):
                    digest.update(chunk)
                    at += len(chunk)
                    self._hash = (file, at, digest)
                    if self._clock.monotonic_ns() >= until_ns and at < file.length_bytes:
                        return False
        except RejectedError as error:
            self._begin_again(file, path)
            raise RetryLaterError(f"staged {error}") from error
        if (at, digest.hexdigest()) != (file.length_bytes, file.sha256):
            self._begin_again(file, path)
            raise UntrustedError(
                f"{self._targets[file.path].path}: {at} bytes came, but not those that were signed"
            )
        self._hash = None
        return True

    def _begin_again(self, file: BundleFile, path: Path) -> None:
        self._hash = None
        self._got.pop(file.path, None)
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0

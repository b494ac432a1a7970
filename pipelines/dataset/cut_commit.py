"""Make dataset commits durable, and recover from a commit that was interrupted by a crash or a power loss.

DVC syncs nothing, and writes dvc.lock in place; git syncs its files with `core.fsync=all` (see `DvcRepository.git`). So a
commit stores the dvc.lock that it began with in a marker file, syncs everything that was written since then before the
tag and again at its end, and then removes the marker. A commit that finds a marker removes the lock files of a dead git.
If the machine was rebooted since, it also restores that dvc.lock (a stage that ran in between runs again) and removes
what the power loss may have damaged: DVC objects whose bytes do not match their name, with the listings that refer to
them, entries of the run cache that are not YAML, and a git index with a wrong checksum (DVC writes it too). All of these
are then created again. The caller holds the writer's lock. Intact files are never touched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import yaml

from foundation import syscalls
from foundation.clock import boot_id
from foundation.documents import DocumentType, decode
from foundation.errors import FleetLoopError
from foundation.files import fsync_folder, read_document, write_atomic, write_document
from foundation.full_disk import DiskError
from pipelines.dataset.dvc import CommandFailedError, DvcRepository
from pipelines.dataset.git_locks import remove_left_behind
from workspace.layout import Workspace

_MARKER = "commit-under-way.json"
_CLOCK_STEP_NS = 1_000_000_000
"""How much older a file's time may be than the call that created it (coarse file system clocks)."""
_CHUNK_BYTES = 1_000_000
_SHA1_BYTES = 20
_DIR = ".dir"


@dataclass(frozen=True, slots=True)
class CommitUnderWay:
    """A commit between `begin` and `end`, while its marker is on disk."""

    workspace: Workspace
    remote: Path | None
    began_ns: int

    def make_durable(self) -> None:
        """Sync all files and folders of DVC and its remote that changed since `begin`, and git's index. Raises OSError."""
        for folder in self._folders():
            _sync_tree(folder, self.began_ns)
        root = self.workspace.root
        for path in (root / "dvc.lock", root / ".git" / "index"):  # DVC writes both, and syncs neither
            if path.is_file():
                _sync_file(path)
                fsync_folder(path.parent)
        fsync_folder(root)

    def end(self) -> None:
        """Make everything durable and remove the marker. Raises OSError."""
        self.make_durable()
        syscalls.unlink(_marker(self.workspace))
        fsync_folder(self.workspace.private_path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        is_refused = isinstance(error, FleetLoopError) and not isinstance(
            error, CommandFailedError | DiskError
        )
        if is_refused:  # an orderly refusal: nothing was interrupted
            _marker(self.workspace).unlink(missing_ok=True)

    def _folders(self) -> Iterator[Path]:
        yield self.workspace.root / ".dvc"
        yield self.workspace.root / "registry"
        if self.remote is not None:
            yield self.remote


def begin(workspace: Workspace, remote: Path | None) -> CommitUnderWay:
    """Recover from an interrupted commit, if there was one, and write the marker of this commit.

    Args:
        remote: the folder that DVC pushes to, if it is a local folder.

    Raises CorruptError if the marker cannot be read, RetryLaterError if a running git may hold a lock, and OSError.
    """
    marker, lock = _marker(workspace), workspace.root / "dvc.lock"
    if marker.exists():
        _put_in_order(workspace, remote)
    held = lock.read_text(encoding="utf-8") if lock.exists() else None
    write_document(marker, MARKER, _Marker(held, boot_id()))
    return CommitUnderWay(workspace, remote, marker.stat().st_ctime_ns - _CLOCK_STEP_NS)


def was_cut(workspace: Workspace) -> bool:
    """Return whether the previous commit in this workspace was interrupted."""
    return _marker(workspace).exists()


@dataclass(frozen=True, slots=True)
class _Marker:
    """The dvc.lock that a commit began with (None: there was none), and the id of the boot in which it began."""

    dvc_lock: str | None
    boot: str = ""


MARKER: Final = DocumentType.first("marker of a commit", _Marker)


def _marker(workspace: Workspace) -> Path:
    return workspace.private_path / _MARKER


def _put_in_order(workspace: Workspace, remote: Path | None) -> None:
    mark = read_document(_marker(workspace), MARKER)
    began_ns = _marker(workspace).stat().st_ctime_ns - _CLOCK_STEP_NS
    remove_left_behind(workspace.root.resolve(), began_ns)
    lock, held = workspace.root / "dvc.lock", mark.dvc_lock
    is_new_boot = mark.boot != boot_id()
    if held is None and is_new_boot:
        lock.unlink(missing_ok=True)
    elif held is not None and (is_new_boot or not _is_mapping(lock)):
        write_atomic(lock, held.encode())
    if is_new_boot:
        _remove_torn(workspace.root / ".dvc", remote)
        index = workspace.root / ".git" / "index"
        if index.is_file() and not _is_index(index.read_bytes()):
            syscalls.unlink(index)
            DvcRepository(workspace).git("reset", "--quiet")


def _remove_torn(own: Path, remote: Path | None) -> None:
    for store in (own / "cache", *([remote] if remote is not None else [])):
        objects = _files(store / "files" / "md5")
        torn = [path for path in objects if not _is_its_name(path)]
        for path in torn:
            syscalls.unlink(path)
        _remove_listings([path for path in objects if path.suffix == _DIR and path not in torn], torn)
    for path in _files(own / "cache" / "runs"):
        if not _is_mapping(path):
            syscalls.unlink(path)
    (own / "tmp" / "rwlock").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Listed:
    """An entry of a DVC folder listing."""

    md5: str


def _remove_listings(listings: list[Path], torn: list[Path]) -> None:
    """Remove listings of missing objects, because DVC assumes that all objects of a listing exist beside it."""
    gone = {path.parent.name + path.name for path in torn}
    for path in listings if gone else ():
        if any(entry.md5 in gone for entry in decode(list[_Listed], path.read_bytes(), path.name)):
            syscalls.unlink(path)


def _files(folder: Path) -> list[Path]:
    """Return every file below `folder`, listed before any of them is changed."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _is_its_name(path: Path) -> bool:
    """Return whether the bytes of a DVC object have the MD5 in its name."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(_CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest() == path.parent.name + path.name.removesuffix(_DIR)


def _is_index(data: bytes) -> bool:
    """Return whether a git index is intact: it ends with the SHA-1 of the rest."""
    stated = hashlib.sha1(data[:-_SHA1_BYTES], usedforsecurity=False).digest()
    return data.startswith(b"DIRC") and data[-_SHA1_BYTES:] == stated


def _is_mapping(path: Path) -> bool:
    try:
        return isinstance(yaml.safe_load(path.read_bytes()), dict)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return False


def _sync_tree(folder: Path, since_ns: int) -> None:
    for at, _, names in os.walk(folder):
        for name in names:
            path = Path(at) / name
            if not path.is_symlink() and path.stat().st_ctime_ns >= since_ns:
                _sync_file(path)
        if Path(at).stat().st_ctime_ns >= since_ns:
            fsync_folder(at)


def _sync_file(path: Path) -> None:
    fd = syscalls.open(path, os.O_RDONLY)
    try:
        syscalls.fsync(fd)
    finally:
        syscalls.close(fd)

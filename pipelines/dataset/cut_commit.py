"""What a commit wrote is on the disk before it counts, and what a cut one left torn does not stop the next.

DVC syncs nothing, and writes dvc.lock in place; git syncs its files when it is told to (`core.fsync=all`, see
`DvcRepository.git`). So a commit keeps the dvc.lock that it began with in a marker, syncs everything that was written
meanwhile before the tag and again before it ends, and then takes the marker away. A commit that finds a marker
removes the lock files of a git that is gone; and when the machine was started anew since, it puts that dvc.lock back
(a stage that was run between is run again) and removes what the power loss may have torn: objects of DVC whose bytes
are not those of their name, with the listings that name them (they are made again), entries of its run cache that
are no YAML, and an index of git whose checksum is wrong (DVC writes it too; it is made again from the newest commit).
The caller holds the writer's lock. Refuses to touch what is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import yaml

from foundation import syscalls
from foundation.clock import boot_id
from foundation.documents import DocumentType, decode
from foundation.errors import FleetLoopError
from foundation.files import fsync_folder, read_document, write_atomic, write_document
from pipelines.dataset.dvc import CommandFailedError, DvcRepository
from pipelines.dataset.git_locks import remove_left_behind
from workspace.layout import Workspace

_MARKER = "commit-under-way.json"
_CLOCK_STEP_NS = 1_000_000_000
"""Times of files may be so much older than the call that made them (coarse clocks of file systems)."""
_CHUNK_BYTES = 1_000_000
_SHA1_BYTES = 20
_DIR = ".dir"


@dataclass(frozen=True, slots=True)
class CommitUnderWay:
    """From `begin` until `end`; in between the marker is on the disk."""

    workspace: Workspace
    remote: Path | None
    began_ns: int

    def make_durable(self) -> None:
        """Sync every file and folder of DVC's and of the remote's that changed since `begin`, and git's index. Raises OSError."""
        for folder in self._folders():
            _sync_tree(folder, self.began_ns)
        root = self.workspace.root
        for path in (root / "dvc.lock", root / ".git" / "index"):  # DVC writes both, and syncs neither
            if path.is_file():
                _sync_file(path)
                fsync_folder(path.parent)
        fsync_folder(root)

    def end(self) -> None:
        """Everything is durable: there is nothing to put in order any more. Raises OSError."""
        self.make_durable()
        syscalls.unlink(_marker(self.workspace))
        fsync_folder(self.workspace.private_path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_refused = isinstance(error, FleetLoopError) and not isinstance(error, CommandFailedError)
        if is_refused:  # in order: nothing was cut
            _marker(self.workspace).unlink(missing_ok=True)

    def _folders(self) -> Iterator[Path]:
        yield self.workspace.root / ".dvc"
        yield self.workspace.root / "registry"
        if self.remote is not None:
            yield self.remote


def begin(workspace: Workspace, remote: Path | None) -> CommitUnderWay:
    """Put in order what a cut commit left, and mark this one as under way.

    Args:
        remote: the folder that DVC pushes to, when it is one.

    Raises CorruptError when the marker cannot be read, RetryLaterError when a git at work may hold a lock, OSError.
    """
    marker, lock = _marker(workspace), workspace.root / "dvc.lock"
    if marker.exists():
        _put_in_order(workspace, remote)
    held = lock.read_text(encoding="utf-8") if lock.exists() else None
    write_document(marker, MARKER, _Marker(held, boot_id()))
    return CommitUnderWay(workspace, remote, marker.stat().st_ctime_ns - _CLOCK_STEP_NS)


def was_cut(workspace: Workspace) -> bool:
    """Whether the commit before this one was begun here and did not come to its end."""
    return _marker(workspace).exists()


@dataclass(frozen=True, slots=True)
class _Marker:
    """The dvc.lock that a commit began with (None: there was none), and the start of the machine it began in."""

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
    """An entry of DVC's list of a folder."""

    md5: str


def _remove_listings(listings: list[Path], torn: list[Path]) -> None:
    """DVC takes all that a listing names for present where the listing is, and would not push it again."""
    gone = {path.parent.name + path.name for path in torn}
    for path in listings if gone else ():
        if any(entry.md5 in gone for entry in decode(list[_Listed], path.read_bytes(), path.name)):
            syscalls.unlink(path)


def _files(folder: Path) -> list[Path]:
    """Every file below `folder`, listed before any of them is touched."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _is_its_name(path: Path) -> bool:
    """Whether an object of DVC holds the bytes whose md5 it is named by."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(_CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest() == path.parent.name + path.name.removesuffix(_DIR)


def _is_index(data: bytes) -> bool:
    """Whether an index of git is whole: it ends with the SHA-1 of the rest."""
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

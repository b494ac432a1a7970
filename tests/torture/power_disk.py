"""A disk that may lose power at any call: it knows what an fsync covered, and makes legal states of all the rest.

Simulated. Legal here means, for what no successful fsync covered: any subset of 512-byte sectors in any of their
newer versions, any length in between (zeros where nothing was written), any subset of the creates, renames and
unlinks of a folder that was not synced. A rename is whole or not at all. After an fsync that failed, what it should
have covered never becomes durable by a later one, only by being written again (fsyncgate). With `is_ordered`, names
follow the promise of ext4 and XFS instead: their changes are durable in order, with any later fsync; that is for
programs of others, which rely on it. Knows nothing of the product.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

SECTOR_BYTES = 512
Tree = dict[str, bytes | str | None]
"""Relative path -> bytes of a file, None for a folder, text of a symbolic link."""


@dataclass(slots=True)
class _Change:
    """A write (data at begin) or, without data, a truncation to `begin`."""

    begin: int
    data: bytes | None
    is_lost: bool = False


@dataclass(slots=True)
class _File:
    durable: bytes = b""
    changes: list[_Change] = field(default_factory=list)
    link: str | None = None
    size_bytes: int = 0

    def versions(self) -> list[bytes]:
        """The durable bytes, and what each later change made of them."""
        made = [self.durable]
        for change in self.changes:
            made.append(_applied(made[-1], change))
        return made

    def change(self, change: _Change) -> None:
        self.changes.append(change)
        is_cut = change.data is None
        self.size_bytes = (
            change.begin if is_cut else max(self.size_bytes, change.begin + len(change.data or b""))
        )


@dataclass(slots=True)
class _NameChange:
    """What one call did to names: (folder, name, inode or None) each."""

    sets: tuple[tuple[int, str, int | None], ...]


@dataclass(slots=True)
class _Folder:
    now: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)


class PowerLossDisk:
    """Told every call on files below `root`, by their paths; the tree that is there at the start is durable.

    Without `is_read` nothing is there at the start, whatever is there now.
    """

    def __init__(self, root: Path | str, *, is_ordered: bool = False, is_read: bool = True) -> None:
        self.root = PurePosixPath(os.fspath(root))
        self._is_ordered = is_ordered
        self._inodes: list[_File | _Folder] = [_Folder()]
        self._pending: list[_NameChange] = []
        if is_read:
            self._read(Path(root), 0)

    def _read(self, folder: Path, number: int) -> None:
        if not folder.is_dir():
            return
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            made: _File | _Folder
            if entry.is_symlink():
                made = _File(link=str(Path(entry.path).readlink()))
            elif entry.is_dir():
                made = _Folder()
            elif entry.is_file():
                data = Path(entry.path).read_bytes()
                made = _File(data, size_bytes=len(data))
            else:
                continue
            self._inodes.append(made)
            child = len(self._inodes) - 1
            self._folder(number).now[entry.name] = self._folder(number).durable[entry.name] = child
            if isinstance(made, _Folder):
                self._read(Path(entry.path), child)

    # What is told.

    def covers(self, path: str) -> bool:
        """Whether `path` lies below the root, or is it."""
        return path == str(self.root) or path.startswith(f"{self.root}/")

    def opened(self, path: str, *, creates: bool = False, truncates: bool = False) -> None:
        """An open that succeeded."""
        if self._find(path) is None:
            if creates:
                self._name(path, self._new(_File()))
            return
        if truncates:
            self.truncated(path, 0)

    def made_folder(self, path: str) -> None:
        """A mkdir that succeeded."""
        if self._find(path) is None:
            self._name(path, self._new(_Folder()))

    def linked(self, path: str, target: str) -> None:
        """A symlink that succeeded. Its target is durable when its name is."""
        self._name(path, self._new(_File(link=target)))

    def hard_linked(self, source: str, path: str) -> None:
        """A link that succeeded."""
        inode = self._find(source)
        if inode is not None:
            self._name(path, inode)

    def wrote(self, path: str, data: bytes, begin: int | None) -> None:
        """A write that succeeded; without `begin`, at the end."""
        file = self._file(path)
        if file is not None and data:
            file.change(_Change(file.size_bytes if begin is None else begin, data))

    def copied(self, path: str, source: str, begin: int, source_begin: int, length: int) -> None:
        """A sendfile that succeeded: `length` bytes of another file (as it is now), written at `begin`."""
        other = self._file(source) if self.covers(source) else None
        data = other.versions()[-1] if other is not None else Path(source).read_bytes()
        self.wrote(path, data[source_begin : source_begin + length], begin)

    def truncated(self, path: str, length: int) -> None:
        """An ftruncate that succeeded."""
        file = self._file(path)
        if file is not None and file.size_bytes != length:
            file.change(_Change(length, None))

    def synced(self, path: str, *, failed: bool = False) -> None:
        """An fsync of a file or folder, that succeeded or `failed`."""
        number = self._find(path)
        if number is None:
            return
        inode = self._inodes[number]
        if isinstance(inode, _Folder):
            if not failed:
                self._settle(number)
        elif failed:
            for change in inode.changes:
                change.is_lost = True
        else:
            for change in inode.changes:
                if not change.is_lost:
                    inode.durable = _applied(inode.durable, change)
            inode.changes = []
            if self._is_ordered:
                self._settle(None)

    def renamed(self, source: str, target: str) -> None:
        """A rename that succeeded."""
        inode = self._find(source)
        if inode is None or source == target:
            return
        at, name = self._place(source)
        to, new_name = self._place(target)
        self._change(((at, name, None), (to, new_name, inode)))

    def unlinked(self, path: str) -> None:
        """An unlink or rmdir that succeeded."""
        if self._find(path) is not None:
            at, name = self._place(path)
            self._change(((at, name, None),))

    # What may be there after the power came back.

    @property
    def is_settled(self) -> bool:
        """Whether everything is durable, so that there is one state only."""
        return not self._pending and not any(isinstance(one, _File) and one.changes for one in self._inodes)

    def worst(self) -> Tree:
        """Nothing is there but what was made durable."""
        return self._tree(0, {}, None)

    def everything(self) -> Tree:
        """All that was done is there."""
        return self._tree(0, self._names(self._pending), None, is_all=True)

    def state(self, rng: random.Random) -> Tree:
        """One legal state, drawn by `rng`."""
        style = rng.random()
        if style < 0.2:
            kept: Iterable[_NameChange] = ()
        elif style < 0.4:
            kept = self._pending
        elif style < 0.6 or self._is_ordered:
            kept = self._pending[: rng.randint(0, len(self._pending))]
        else:
            kept = [change for change in self._pending if rng.random() < 0.5]
        return self._tree(0, self._names(kept), rng)

    def _names(self, kept: Iterable[_NameChange]) -> dict[int, dict[str, int]]:
        names: dict[int, dict[str, int]] = {}
        for change in kept:
            for folder, name, inode in change.sets:
                here = names.setdefault(folder, dict(self._folder(folder).durable))
                if inode is None:
                    here.pop(name, None)
                else:
                    here[name] = inode
        return names

    def _tree(
        self, root: int, names: dict[int, dict[str, int]], rng: random.Random | None, *, is_all: bool = False
    ) -> Tree:
        tree: Tree = {}
        content: dict[int, bytes] = {}
        for path, number in self._walk(root, names, ""):
            inode = self._inodes[number]
            if isinstance(inode, _Folder):
                tree[path] = None
            elif inode.link is not None:
                tree[path] = inode.link
            else:
                if number not in content:
                    versions = inode.versions()
                    if rng is not None and len(versions) > 1:
                        content[number] = torn(versions, rng, any(one.data is None for one in inode.changes))
                    else:
                        content[number] = versions[-1] if is_all else versions[0]
                tree[path] = content[number]
        return tree

    def _walk(
        self, number: int, names: dict[int, dict[str, int]], under: str, depth: int = 0
    ) -> Iterator[tuple[str, int]]:
        here = names.get(number, self._folder(number).durable)
        for name, child in sorted(here.items()):
            yield under + name, child
            if isinstance(self._inodes[child], _Folder) and depth < 64:
                yield from self._walk(child, names, f"{under}{name}/", depth + 1)

    # Names.

    def _folder(self, number: int) -> _Folder:
        inode = self._inodes[number]
        assert isinstance(inode, _Folder), number
        return inode

    def _file(self, path: str) -> _File | None:
        number = self._find(path)
        inode = self._inodes[number] if number is not None else None
        return inode if isinstance(inode, _File) else None

    def _find(self, path: str) -> int | None:
        number = 0
        for name in self._parts(path):
            inode = self._inodes[number]
            found = inode.now.get(name) if isinstance(inode, _Folder) else None
            if found is None:
                return None
            number = found
        return number

    def _parts(self, path: str) -> tuple[str, ...]:
        return PurePosixPath(os.path.normpath(path)).relative_to(self.root).parts

    def _place(self, path: str) -> tuple[int, str]:
        whole = PurePosixPath(os.path.normpath(path))
        folder = self._find(str(whole.parent))
        if folder is None:
            raise ValueError(f"{path} is in a folder that was never seen")
        return folder, whole.name

    def _new(self, inode: _File | _Folder) -> int:
        self._inodes.append(inode)
        return len(self._inodes) - 1

    def _name(self, path: str, inode: int) -> None:
        folder, name = self._place(path)
        self._change(((folder, name, inode),))

    def _change(self, sets: tuple[tuple[int, str, int | None], ...]) -> None:
        for folder, name, inode in sets:
            now = self._folder(folder).now
            if inode is None:
                now.pop(name, None)
            else:
                now[name] = inode
        self._pending.append(_NameChange(sets))

    def _settle(self, folder: int | None) -> None:
        """The changes of `folder` (None: all) are durable, with the other side of its renames."""
        left = []
        for change in self._pending:
            if folder is not None and all(at != folder for at, _, _ in change.sets):
                left.append(change)
                continue
            for at, name, inode in change.sets:
                if inode is None:
                    self._folder(at).durable.pop(name, None)
                else:
                    self._folder(at).durable[name] = inode
        self._pending = left


def _applied(data: bytes, change: _Change) -> bytes:
    if change.data is None:
        return data[: change.begin].ljust(change.begin, b"\0")
    head = data[: change.begin].ljust(change.begin, b"\0")
    return head + change.data + data[change.begin + len(change.data) :]


def torn(versions: list[bytes], rng: random.Random, has_truncations: bool = False) -> bytes:
    """What may be left of a file whose durable version is the first and whose newest is the last."""
    style = rng.random()
    if style < 0.15:
        return versions[0]
    if style < 0.3:
        return versions[-1]
    if style < 0.5 or has_truncations:
        return rng.choice(versions)
    sizes = [len(version) for version in versions]
    length = rng.choice([rng.choice(sizes), rng.randint(min(sizes), max(sizes))])
    made = bytearray(length)
    chance = rng.choice([0.1, 0.5, 0.9])
    for begin in range(0, length, SECTOR_BYTES):
        end = min(begin + SECTOR_BYTES, length)
        source = rng.choice(versions[1:]) if rng.random() < chance else versions[0]
        part = source[begin:end]
        made[begin : begin + len(part)] = part
    return bytes(made)


def write_tree(tree: Tree, target: Path) -> None:
    """Put a state on the real disk, as the new folder `target`."""
    target.mkdir(parents=True)
    for name, content in tree.items():
        path = target / name
        if content is None:
            path.mkdir()
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)

"""A disk that loses power: it knows which bytes and names were synced, and makes legal states of what is
left.

Simulated. Legal here means: what an fsync covered is there; of what came after, any subset of 512-byte
sectors, any file length in between, and any subset of creates, renames and unlinks of a folder, may be there.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

SECTOR_BYTES = 512


class _File:
    """One inode: its bytes that are durable; the current ones are on the real disk."""

    def __init__(self) -> None:
        self.durable = b""


class PowerLossDisk:
    """Watches the system calls of `Faults` (as its `before`) under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[tuple[int, int], _File] = {}
        self.names: dict[Path, dict[str, tuple[int, int]]] = {}
        self._held: list[int] = []  # keeps every inode alive, so that none is used twice

    def watch(self, name: str, args: tuple[Any, ...]) -> None:
        """Called before each system call: remembers what an fsync makes durable."""
        if name == "fsync":
            self._synced(args[0])
        elif name in ("unlink", "rename") and Path(args[0]).exists():
            self._held.append(os.open(args[0], os.O_RDONLY))
            if name == "rename" and Path(args[1]).exists():
                self._held.append(os.open(args[1], os.O_RDONLY))

    def _synced(self, fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.is_dir():
            if path == self.folder or self.folder in path.parents:
                self.names[path] = {child.name: _inode(child) for child in path.iterdir()}
        elif self.folder in path.parents:
            data = Path(f"/proc/self/fd/{fd}").read_bytes()
            status = os.fstat(fd)
            self.files.setdefault((status.st_dev, status.st_ino), _File()).durable = data

    def lose_power(self, target: Path, rng: random.Random) -> None:
        """Write one legal state after the power loss to the new folder `target`."""
        content = {_inode_fd(fd): Path(f"/proc/self/fd/{fd}").read_bytes() for fd in self._held}
        folders = [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]
        for folder in folders:
            to = target / folder.relative_to(self.folder)
            to.mkdir(parents=True, exist_ok=True)
            now = {child.name: _inode(child) for child in folder.iterdir() if child.is_file()}
            content |= {_inode(folder / name): (folder / name).read_bytes() for name in now}
            synced = self.names.get(folder, {})
            for name in sorted(now.keys() | synced.keys()):
                inode = synced.get(name) if rng.random() < 0.5 else now.get(name)
                if inode is None or inode not in content:
                    continue
                durable = self.files.get(inode, _File()).durable
                (to / name).write_bytes(torn(durable, content[inode], rng))

    def close(self) -> None:
        for fd in self._held:
            os.close(fd)


def torn(durable: bytes, current: bytes, rng: random.Random) -> bytes:
    """What may be left of a file: its durable bytes, and some sectors of the newer ones."""
    if durable == current:
        return current
    style = rng.random()
    if style < 0.25:
        return durable
    if style < 0.5:
        return current
    length = rng.randint(min(len(durable), len(current)), max(len(durable), len(current)))
    made = bytearray(length)
    for begin in range(0, length, SECTOR_BYTES):
        end = min(begin + SECTOR_BYTES, length)
        source = current if rng.random() < 0.5 else durable
        part = source[begin:end]
        made[begin : begin + len(part)] = part
        if source is current and begin < len(durable):
            keep = durable[
                begin : min(end, len(durable))
            ]  # bytes that were synced and not written again stay
            same = current[begin : begin + len(keep)]
            made[begin : begin + len(keep)] = same if same else keep
    return bytes(made)


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return (status.st_dev, status.st_ino)


def _inode_fd(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino)

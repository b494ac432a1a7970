"""What a process and its children hold, from /proc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Held:
    """The memory (resident, anonymous) in bytes, descriptors and threads of a process and its children."""

    memory: int
    descriptors: int
    threads: int


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [each for child in children.read_text().split() for each in tree(int(child))]
        except OSError:
            continue
    return found


def held(pid: int) -> Held | None:
    """Return what the tree of a process holds; None if it is gone."""
    memory = descriptors = threads = 0
    for each in tree(pid):
        place = Path(f"/proc/{each}")
        try:
            status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
            memory += int(status["RssAnon"].split()[0]) * 1024
            threads += int(status["Threads"])
            descriptors += len(list((place / "fd").iterdir()))
        except (OSError, KeyError):
            if each == pid:
                return None
    return Held(memory, descriptors, threads)


def count_files(folder: Path) -> int:
    """Return how many files are below a folder."""
    return sum(1 for path in folder.rglob("*") if path.is_file())

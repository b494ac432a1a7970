"""A campaign tries one build: a copy of the working tree, which edits to that tree do not reach."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.torture.turns import ROOT

_LEFT = shutil.ignore_patterns("__pycache__", ".cache", ".venv", "out")


def copy_of_the_tree(to: Path, root: Path = ROOT) -> Path:
    """The tracked and new files as they are in the working tree, in a folder of their own; of such a copy, all of it."""
    if not (root / ".git").exists():
        shutil.copytree(root, to, ignore=_LEFT)
        return to
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, to / name)
    return to


@contextmanager
def frozen_tree(root: Path = ROOT) -> Iterator[Path]:
    """A copy of the tree as it is now, with the cache of the original, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="torture-tree-") as folder:
        copy = copy_of_the_tree(Path(folder) / "tree", root)
        if (root / ".cache").exists():
            (copy / ".cache").symlink_to(root / ".cache")
        yield copy

"""Where the files of released commits are, and copies of them that a test may change."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1] / "fixtures" / "released"
NAMES = sorted(path.name for path in ROOT.iterdir() if path.is_dir())
"""One folder per release, named by its commit; scripts/released_fixtures.py makes them."""


def code_of(name: str, into: Path) -> Path | None:
    """The source tree of a release, taken from the history of this clone; None when it does not hold that commit."""
    top = Path(__file__).parents[2]
    archive = subprocess.run(["git", "archive", name], cwd=top, capture_output=True, check=False)
    if archive.returncode:
        return None
    into.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tree:
        tree.extractall(into, filter="data")
    return into


def copy_of(name: str, part: str, into: Path) -> Path:
    """A copy of the vehicle's state folder or of the workspace of a release."""
    target = into / part
    shutil.copytree(ROOT / name / part, target)
    return target

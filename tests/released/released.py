"""Where the files of released commits are, and copies of them that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1] / "fixtures" / "released"
NAMES = sorted(path.name for path in ROOT.iterdir() if path.is_dir())
"""One folder per release, named by its commit; scripts/released_fixtures.py makes them."""


def copy_of(name: str, part: str, into: Path) -> Path:
    """A copy of the vehicle's state folder or of the workspace of a release."""
    target = into / part
    shutil.copytree(ROOT / name / part, target)
    return target

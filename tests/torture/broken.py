"""Runs every fault on builds that break one promise each: the campaign must call each of them not survived."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.torture.fault import BrokenBuild, Fault, Tally
from tests.torture.turns import ROOT, take_turn

SLIPS = ("NameError", "SyntaxError", "ImportError", "IndentationError", "UnboundLocalError")
"""A build that is no Python proves nothing about the checker."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Whether one broken build was noticed, and by what."""

    fault: Fault
    build: BrokenBuild
    noticed: bool
    evidence: str


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
def broken(copy: Path, path: str, old: str, new: str) -> Iterator[None]:
    """The copy with one text replaced. Raises RuntimeError when the text is not there exactly once."""
    file = copy / path
    whole = file.read_text()
    if whole.count(old) != 1:
        raise RuntimeError(f"{path} holds {whole.count(old)} times, not once: {old!r}")
    try:
        file.write_text(whole.replace(old, new))
        yield
    finally:
        file.write_text(whole)


def try_broken_builds(
    faults: Sequence[Fault], *, seed: int, say: Callable[[str], None], turn: Callable[..., Tally] = take_turn
) -> list[Seen]:
    """Each broken build of each fault that this machine can run."""
    seen = []
    with tempfile.TemporaryDirectory(prefix="torture-broken-") as folder:
        copy = copy_of_the_tree(Path(folder) / "tree")
        if (ROOT / ".cache").exists():
            (copy / ".cache").symlink_to(ROOT / ".cache")
        for fault in faults:
            if fault.needs() is not None:
                continue
            for build in fault.broken:
                with broken(copy, build.path, build.old, build.new):
                    tally = turn(
                        fault, seed=seed, first=build.first, tries=build.tries or fault.turn, tree=copy
                    )
                evidence = tally.failures[0] if tally.failures else ""
                for slip in SLIPS:
                    if slip in evidence:
                        raise RuntimeError(f"{fault.name}: the broken build itself is wrong: {evidence}")
                each = Seen(fault, build, tally.survived < tally.tries, evidence)
                say(
                    f"{'noticed' if each.noticed else 'NOT NOTICED'}  {fault.name}: {build.change}  [{evidence[:200]}]"
                )
                seen.append(each)
    return seen

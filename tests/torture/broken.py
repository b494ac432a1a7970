"""Runs every fault on builds that break one promise each: the campaign must call each of them not survived."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.torture.fault import BrokenBuild, Fault, Tally
from tests.torture.tree import frozen_tree
from tests.torture.turns import take_turn

SLIPS = ("NameError", "SyntaxError", "ImportError", "IndentationError", "UnboundLocalError")
"""A build that is no Python proves nothing about the checker."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Whether one broken build was noticed, and by what."""

    fault: Fault
    build: BrokenBuild
    noticed: bool
    evidence: str


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
    with frozen_tree() as copy:
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

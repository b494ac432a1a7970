"""What a fault is, what it is asked to do, and what it tells: the port between the campaign and the faults."""

from __future__ import annotations

import importlib
import pkgutil
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_FAILURES_KEPT = 20
Counted = dict[str, int | list[float]]


@dataclass(frozen=True, slots=True)
class Batch:
    """A turn of one fault: `tries` tries, numbered from `first` within the fault's whole count.

    The same seed and numbers do the same. `folder` is empty, on a real disk, and removed afterwards. `until_s` is the
    monotonic time (seconds) at which the turn should stop early, with fewer tries, when a try is long.
    """

    seed: int
    first: int
    tries: int
    folder: Path
    until_s: float = float("inf")

    def numbers(self) -> range:
        """The numbers of this turn's tries: what a fault enumerates (a byte, a label, a kind) it takes modulo its list."""
        return range(self.first, self.first + self.tries)

    def in_time(self, spare_s: float = 0.0) -> Iterator[int]:
        """The same numbers as long as there is time: the first always, the others until `spare_s` before `until_s`."""
        for number in self.numbers():
            if number > self.first and time.monotonic() > self.until_s - spare_s:
                return
            yield number

    def rng(self, number: int) -> random.Random:
        """Chance for one try, the same whatever the turn it falls into."""
        return random.Random(f"{self.seed}/{number}")


@dataclass(slots=True)
class Tally:
    """What a turn tells. A try that neither survived nor failed cannot be: `tries` counts the two."""

    tries: int = 0
    survived: int = 0
    counted: Counted = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def survive(self) -> None:
        """The promise held in one more try."""
        self.tries += 1
        self.survived += 1

    def fail(self, why: str) -> None:
        """The promise was broken in one more try; `why` names the try and the evidence."""
        self.tries += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(why)

    def judge(self, violations: list[str], which: str) -> None:
        """One more try, survived when nothing was violated."""
        if violations:
            self.fail(f"{which}: " + "; ".join(violations[:5]))
        else:
            self.survive()

    def count(self, what: str, number: int = 1) -> None:
        """Adds to a sum: records delivered, states opened. A name that begins with `max_` keeps the largest."""
        old = self.counted.get(what, 0)
        if not isinstance(old, int):
            raise TypeError(f"{what} is measured, not counted")
        self.counted[what] = max(old, number) if what.startswith("max_") else old + number

    def measure(self, what: str, value: float) -> None:
        """Keeps a value whose spread matters: recovery_s, memory_growth_mb. Units belong in the name."""
        values = self.counted.setdefault(what, [])
        if not isinstance(values, list):
            raise TypeError(f"{what} is counted, not measured")
        values.append(round(value, 6))

    def add(self, other: Tally) -> None:
        """Another turn of the same fault."""
        self.tries += other.tries
        self.survived += other.survived
        self.failures = (self.failures + other.failures)[:MAX_FAILURES_KEPT]
        for what, value in other.counted.items():
            if isinstance(value, list):
                for each in value:
                    self.measure(what, each)
            else:
                self.count(what, value)


@dataclass(frozen=True, slots=True)
class BrokenBuild:
    """One promise broken on purpose: a replacement in a copy of the tree. `old` must be in the file exactly once."""

    change: str
    path: str
    old: str
    new: str
    tries: int = 0
    """Tries in which the fault must notice; 0: as many as a turn has."""
    first: int = 0
    """The number of the first of them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which the world breaks, and what must hold all the same."""

    name: str
    """Lower case with hyphens: the name of the fault in commands, results and pages."""
    group: int
    """The number of its row in the campaign (see docs/reliability.md); attacks are 12."""
    guarantees: tuple[str, ...]
    what: str
    """One sentence: what is done, and what must hold."""
    one_try: str
    """What one try is: `one SIGKILL`, `one state of the disk`."""
    full: int
    """Tries of the full campaign."""
    turn: int
    """Tries of one turn: about ten seconds or fewer where a try allows it."""
    run: Callable[[Batch], Tally]
    broken: tuple[BrokenBuild, ...]
    real: str
    """What is real and what is simulated: `real processes and disk; the broker is the embedded one`."""
    fixed: int = 0
    """Tries in `make test`; 0 when other tests of the suite hold the same promise, or a try is too long."""
    needs: Callable[[], str | None] = lambda: None
    """Why this machine cannot run it (`needs strace`), or None."""
    full_turn: int = 0
    """Tries of one turn of the full campaign, when setting up is dear; 0: the same as `turn`."""
    turn_limit_s: float = 600.0
    """A turn that takes longer than this is ended, and counts as not survived."""


def find_faults() -> dict[str, Fault]:
    """Every fault by name, in the order of their rows and names. Raises ValueError when two share a name."""
    from tests.torture import faults

    found: dict[str, Fault] = {}
    for module in pkgutil.iter_modules(faults.__path__):
        for fault in importlib.import_module(f"{faults.__name__}.{module.name}").FAULTS:
            if fault.name in found:
                raise ValueError(f"two faults are named {fault.name}")
            found[fault.name] = fault
    return dict(sorted(found.items(), key=lambda item: (item[1].group, item[0])))
